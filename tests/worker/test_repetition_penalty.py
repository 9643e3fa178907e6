"""What a model's generation config says against repeating itself counts for its answers, greedy or drawn."""

from __future__ import annotations

import asyncio

import pytest
import torch

from lowbeam_worker.energy.ledger import Ledger
from lowbeam_worker.engines.decoder import DecoderEngine, SamplingWish
from lowbeam_worker.models import RANDOM_LLAMA, CannotLoadError, Loaded, load
from lowbeam_worker.options import Precision, Task
from tests.worker.decoders import GREEDY, ask, prompt, whole


async def test_a_models_repetition_penalty_counts_as_with_generate_for_each_request_by_itself() -> None:
    loaded = load(RANDOM_LLAMA, Task.TEXT_GENERATION, Precision.FP32, torch.device("cpu"), allow_downloads=False)
    plain = await answers_of(loaded)
    loaded.model.generation_config.repetition_penalty = 1.5
    expected = []
    for number in range(6):
        ids = torch.tensor([prompt(number)])
        out = loaded.model.generate(ids, max_new_tokens=24, do_sample=False)
        expected.append([int(token) for token in out[0, ids.shape[1] :]])
    answers = await answers_of(loaded)
    assert answers == expected
    assert answers != plain
    assert await answers_of(loaded, SamplingWish(temperature=1e-4)) == expected


async def answers_of(loaded: Loaded, wish: SamplingWish = GREEDY) -> list[list[int]]:
    engine = DecoderEngine(loaded, Ledger(), batch_limit=4)
    engine.start()
    try:
        return await asyncio.gather(*(whole(ask(engine, prompt(number), 24, wish)) for number in range(6)))
    finally:
        await engine.stop()


def test_a_repetition_penalty_that_is_none_is_refused_when_the_model_is_loaded() -> None:
    loaded = load(RANDOM_LLAMA, Task.TEXT_GENERATION, Precision.FP32, torch.device("cpu"), allow_downloads=False)
    loaded.model.generation_config.repetition_penalty = -1
    with pytest.raises(CannotLoadError, match=r"generation_config\.json is wrong: .*penalty"):
        DecoderEngine(loaded, Ledger(), batch_limit=4)
