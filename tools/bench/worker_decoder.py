"""The decoder against `generate`, one by one and in padded batches: CPU seconds per useful token. A process of its own:
prints one JSON object `{way: CPU seconds per token}`; its threads are set by who starts it.

All ways do the same requests, greedy, on the same random model, and must give the same tokens.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch

from lowbeam_worker.energy.ledger import Ledger
from lowbeam_worker.engines.decoder import DecoderEngine, SamplingWish
from lowbeam_worker.models import Loaded, weights_of
from lowbeam_worker.random_llama import SMALL, make_random_llama

REQUESTS = 64
PADDED_BATCHES = (8, 16, 32)
CONCURRENCIES = (1, 8, 32)
Asked = tuple[list[int], int]


def main() -> None:
    """Measure every way once."""
    model, tokenizer = make_random_llama(torch.float32, SMALL)
    model.generation_config.eos_token_id = None  # all answers as long as asked for: ways differ in nothing else
    tokenizer.eos_token = None
    model = model.eval()
    chance = random.Random(11)  # noqa: S311 - prompts, not secrets
    asked = [
        ([chance.randrange(10, 380) for _ in range(chance.randint(8, 96))], chance.randint(8, 64))
        for _ in range(REQUESTS)
    ]
    tokens = sum(length for _, length in asked)
    _serial(model, asked[:2])
    found = {}
    found["serial"], reference = _timed(lambda: _serial(model, asked))
    for batch in PADDED_BATCHES:
        found[f"padded {batch}"], answers = _timed(lambda size=batch: _padded(model, asked, size))
        _check(answers, reference, f"padded {batch}")
    for concurrency in CONCURRENCIES:
        loaded = Loaded(model, tokenizer, None, model.device, weights_of(model))
        found[f"worker {concurrency}"], answers = asyncio.run(_worker(loaded, asked, concurrency))
        _check(answers, reference, f"worker {concurrency}")
    json.dump({name: seconds / tokens for name, seconds in found.items()}, sys.stdout)


def _timed(work: Any) -> tuple[float, list[list[int]]]:
    began = time.process_time()
    answers = work()
    return time.process_time() - began, answers


def _serial(model: Any, asked: Sequence[Asked]) -> list[list[int]]:
    answers = []
    for ids, length in asked:
        out = model.generate(torch.tensor([ids]), max_new_tokens=length, do_sample=False, pad_token_id=1)
        answers.append(out[0, len(ids) :].tolist())
    return answers


def _padded(model: Any, asked: Sequence[Asked], size: int) -> list[list[int]]:
    answers = []
    for at in range(0, len(asked), size):
        part = asked[at : at + size]
        longest, most = max(len(ids) for ids, _ in part), max(length for _, length in part)
        ids = torch.tensor([[1] * (longest - len(ids)) + ids for ids, _ in part])
        mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids, _ in part])
        out = model.generate(ids, attention_mask=mask, max_new_tokens=most, do_sample=False, pad_token_id=1)
        answers += [row[longest : longest + length].tolist() for row, (_, length) in zip(out, part, strict=True)]
    return answers


async def _worker(loaded: Loaded, asked: Sequence[Asked], concurrency: int) -> tuple[float, list[list[int]]]:
    ledger = Ledger()
    engine = DecoderEngine(loaded, ledger, batch_limit=concurrency)
    engine.start()
    slots = asyncio.Semaphore(concurrency)

    async def one(ids: list[int], length: int) -> list[int]:
        async with slots:
            generation = engine.submit(ids, length, SamplingWish(), ledger.open_account(time.monotonic()))
            return [token async for tokens in generation for token in tokens]

    await one([5, 6], 2)
    began = time.process_time()
    answers = await asyncio.gather(*(one(ids, length) for ids, length in asked))
    seconds = time.process_time() - began
    await engine.stop()
    return seconds, list(answers)


def _check(answers: list[list[int]], reference: list[list[int]], way: str) -> None:
    same = sum(one == other for one, other in zip(answers, reference, strict=True))
    # Padding moves the last bits of floats: now and then a tie falls the other way. The worker has no such excuse.
    if same < len(reference) * (0.9 if way.startswith("padded") else 1.0):
        raise SystemExit(f"{way}: only {same} of {len(reference)} answers are those of generate")


if __name__ == "__main__":
    main()
