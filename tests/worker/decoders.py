"""Decoder engines with a tiny random model for the tests, without any front around them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import torch

from lowbeam_worker.energy.ledger import Ledger
from lowbeam_worker.engines.decoder import DecoderEngine, Generation, SamplingWish
from lowbeam_worker.models import RANDOM_LLAMA, load
from lowbeam_worker.options import Precision, Task
from lowbeam_worker.random_llama import make_random_llama

GREEDY = SamplingWish()
_reference: list[Any] = []


@contextlib.asynccontextmanager
async def running_engine(batch_limit: int = 16, ledger: Ledger | None = None) -> AsyncIterator[DecoderEngine]:
    loaded = load(RANDOM_LLAMA, Task.TEXT_GENERATION, Precision.FP32, torch.device("cpu"), allow_downloads=False)
    engine = DecoderEngine(loaded, ledger or Ledger(), batch_limit=batch_limit)
    engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


def prompt(number: int) -> list[int]:
    return [(7 * number + step) % 300 + 10 for step in range(3 + number % 9)]


def ask(engine: DecoderEngine, ids: list[int], tokens: int = 40, wish: SamplingWish = GREEDY) -> Generation:
    return engine.submit(ids, tokens, wish, engine._ledger.open_account(0.0))


async def whole(generation: Generation) -> list[int]:
    return [token async for tokens in generation for token in tokens]


def reference(ids: list[int], tokens: int) -> list[int]:
    """What `transformers.generate` answers, asked alone."""
    if not _reference:
        _reference.append(make_random_llama(torch.float32)[0])
    out = _reference[0].generate(torch.tensor([ids]), max_new_tokens=tokens, do_sample=False)
    return [int(token) for token in out[0, len(ids) :]]
