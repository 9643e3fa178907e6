"""Poison of every kind among innocent clients, a loop that dies, a device that is gone: who notices, who does not."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio
import torch

from lowbeam_worker.energy.ledger import Ledger
from lowbeam_worker.engines import decoder as decoder_module
from lowbeam_worker.engines.base import EngineClosedError
from lowbeam_worker.engines.decoder import BadRequestError, DecoderEngine, GenerationFailedError, SamplingWish
from lowbeam_worker.engines.sampling import ThinkingLimit
from lowbeam_worker.models import RANDOM_LLAMA, CannotLoadError, load
from lowbeam_worker.options import Precision, Task
from tests.worker.decoders import ask, prompt, reference, running_engine, whole

pytestmark = pytest.mark.asyncio
ANSWER_TOKENS = 40
NAN = float("nan")


@pytest_asyncio.fixture
async def engine() -> AsyncIterator[DecoderEngine]:
    async with running_engine() as made:
        yield made


def poisoned(engine: DecoderEngine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Ids that pass the checks and kill the loop: the model has no row for one of them."""
    bad = engine.vocabulary + 5
    monkeypatch.setattr(engine, "vocabulary", bad + 1)
    return [1, bad, 2]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - the engine has no event for it
            await asyncio.sleep(0.005)


async def test_refused_poison_of_every_kind_is_not_felt_by_clients_under_load(engine: DecoderEngine) -> None:
    poison: list[tuple[Any, ...]] = [
        ([],),
        ([engine.vocabulary],),
        ([-1],),
        ([1] * (engine.context_tokens + 1),),
        ([1] * 10, engine.context_tokens),
        ([1], 0),
        ([1], -5),
        ([1], 5, SamplingWish(temperature=-1)),
        ([1], 5, SamplingWish(temperature=NAN)),
        ([1], 5, SamplingWish(temperature=float("inf"))),
        ([1], 5, SamplingWish(temperature=1, top_p=0)),
        ([1], 5, SamplingWish(temperature=1, top_p=NAN)),
        ([1], 5, SamplingWish(top_logprobs=1000)),
        ([1], 5, SamplingWish(thinking=ThinkingLimit(0, ()))),
        ([1], 5, SamplingWish(thinking=ThinkingLimit(0, (10**6,)))),
    ]
    innocents = [asyncio.create_task(whole(ask(engine, prompt(number)))) for number in range(32)]
    for one in itertools.islice(itertools.cycle(poison), 2 * len(poison)):
        with pytest.raises(BadRequestError):
            ask(engine, *one)
        await asyncio.sleep(0)
    assert await asyncio.gather(*innocents) == [reference(prompt(number), ANSWER_TOKENS) for number in range(32)]
    assert engine.stats().restarts == 0


async def test_poison_that_nobody_foresaw_kills_the_loop_and_still_no_client_notices(
    engine: DecoderEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = poisoned(engine, monkeypatch)
    innocents = [asyncio.create_task(whole(ask(engine, prompt(number)))) for number in range(32)]
    await until(lambda: engine.stats().running == 16)
    culprits = [asyncio.create_task(whole(ask(engine, bad))) for _ in range(2)]
    for culprit in culprits:
        with pytest.raises(GenerationFailedError, match="index out of range"):
            await culprit
    assert await asyncio.gather(*innocents) == [reference(prompt(number), ANSWER_TOKENS) for number in range(32)]
    assert engine.stats().restarts >= 2
    assert engine.failed is None
    assert engine.stats().running == engine.stats().waiting == 0


async def test_poison_that_comes_while_the_loop_is_started_again_is_not_laid_at_a_suspects_door(
    engine: DecoderEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = poisoned(engine, monkeypatch)
    first = asyncio.create_task(whole(ask(engine, bad)))
    await asyncio.sleep(0)
    innocent = asyncio.create_task(whole(ask(engine, prompt(1))))
    # Both die in one step; the second poison has been in no step when their turn comes, one after the other.
    await until(lambda: engine.stats().restarts >= 1)
    second = asyncio.create_task(whole(ask(engine, bad)))
    for culprit in (first, second):
        with pytest.raises(GenerationFailedError, match="index out of range"):
            await culprit
    assert await innocent == reference(prompt(1), ANSWER_TOKENS)
    assert engine.failed is None


async def test_a_seeded_answer_is_the_same_across_a_death_of_the_loop(
    engine: DecoderEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    wish = SamplingWish(temperature=1.1, top_p=0.9, seed=5, top_logprobs=2)
    undisturbed = await whole(ask(engine, prompt(1), 30, wish))
    disturbed = ask(engine, prompt(1), 30, wish)
    seen: list[int] = []
    async for tokens in disturbed:
        if not seen:
            ask(engine, poisoned(engine, monkeypatch))
        seen += tokens
    assert engine.stats().restarts >= 1
    assert seen == undisturbed
    assert [entry.token for entry in disturbed.logprobs] == seen


async def test_a_request_that_dies_with_the_loop_when_it_is_alone_gets_the_reason(
    engine: DecoderEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(GenerationFailedError, match="died of it: IndexError"):
        await whole(ask(engine, poisoned(engine, monkeypatch)))
    assert engine.stats().restarts == 1
    assert len(await whole(ask(engine, prompt(1), 4))) == 4


async def test_a_device_that_is_gone_trips_readiness_and_fails_everyone_with_the_reason(
    engine: DecoderEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error: the launch timed out")

    monkeypatch.setattr(engine._model, "forward", broken)
    requests = [asyncio.create_task(whole(ask(engine, prompt(number)))) for number in range(12)]
    outcomes = await asyncio.gather(*requests, return_exceptions=True)
    assert all(isinstance(outcome, GenerationFailedError) for outcome in outcomes)
    assert engine.failed is not None
    assert "CUDA error" in engine.failed
    with pytest.raises(EngineClosedError, match="cannot run"):
        ask(engine, prompt(1))


async def test_a_request_that_the_loop_cannot_take_in_fails_alone_and_with_the_reason(
    engine: DecoderEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await until(lambda: engine._loop is not None)
    manager = engine._loop._manager  # type: ignore[union-attr]
    add_request = manager.add_request

    def picky(ids: list[int], **more: object) -> object:
        if ids == [7, 7, 7]:
            raise TypeError("an integer is required")
        return add_request(ids, **more)

    monkeypatch.setattr(manager, "add_request", picky)
    innocents = [asyncio.create_task(whole(ask(engine, prompt(number)))) for number in range(4)]
    await asyncio.sleep(0)
    with pytest.raises(GenerationFailedError, match="cannot take it in: an integer is required"):
        await whole(ask(engine, [7, 7, 7]))
    assert await asyncio.gather(*innocents) == [reference(prompt(number), ANSWER_TOKENS) for number in range(4)]
    assert engine.failed is None
    assert engine.stats().running == engine.stats().waiting == engine.stats().restarts == 0


async def test_a_supervisor_that_fails_tells_everyone_and_still_lets_the_engine_stop(
    engine: DecoderEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await until(lambda: engine._loop is not None)
    loop = engine._loop
    assert loop is not None
    running = asyncio.create_task(whole(ask(engine, prompt(1), 900)))

    def broken(_: float) -> float:
        raise ZeroDivisionError("nobody foresaw this")

    await until(lambda: engine.stats().running == 1)
    monkeypatch.setattr(engine._steps, "seconds_in_step", broken)
    engine._wake.set()
    with pytest.raises(GenerationFailedError, match="nobody foresaw this"):
        await running
    assert "ZeroDivisionError" in str(engine.failed)
    assert any(record.exc_info for record in caplog.records)
    with pytest.raises(EngineClosedError, match="cannot run"):
        ask(engine, prompt(1))
    await engine.stop()
    assert not loop._manager.is_running()


@pytest.mark.parametrize("stated", ["x", [2, "x"], 1.5, True, [None]])
async def test_an_end_of_sequence_that_is_no_token_id_is_refused_when_the_model_is_loaded(stated: object) -> None:
    loaded = load(RANDOM_LLAMA, Task.TEXT_GENERATION, Precision.FP32, torch.device("cpu"), allow_downloads=False)
    loaded.model.generation_config.eos_token_id = stated
    with pytest.raises(CannotLoadError, match=r"eos_token_id is .*generation_config\.json"):
        DecoderEngine(loaded, Ledger(), batch_limit=4)


async def test_what_a_generation_config_asks_for_in_vain_is_said_when_the_model_is_loaded(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loaded = load(RANDOM_LLAMA, Task.TEXT_GENERATION, Precision.FP32, torch.device("cpu"), allow_downloads=False)
    config = loaded.model.generation_config
    config.repetition_penalty, config.num_beams, config.no_repeat_ngram_size, config.temperature = 1.0, 1, 0, 0.7
    assert DecoderEngine(loaded, Ledger(), batch_limit=4).unapplied == {}
    assert not caplog.records
    config.no_repeat_ngram_size, config.min_new_tokens = 3, 1
    assert set(DecoderEngine(loaded, Ledger(), batch_limit=4).unapplied) == {"no_repeat_ngram_size", "min_new_tokens"}
    assert "not applied: {'no_repeat_ngram_size': 3" in caplog.text


async def test_a_step_that_never_ends_trips_readiness(engine: DecoderEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_module, "LONGEST_STEP_SECONDS", 0.05)
    release, forward = asyncio.Event(), engine._model.forward
    loop = asyncio.get_running_loop()

    def hangs(*given: object, **more: object) -> object:
        asyncio.run_coroutine_threadsafe(release.wait(), loop).result(20)
        return forward(*given, **more)

    monkeypatch.setattr(engine._model, "forward", hangs)
    with pytest.raises(GenerationFailedError, match="takes longer"):
        await whole(ask(engine, prompt(1)))
    assert engine.failed is not None
    release.set()


async def test_a_client_that_leaves_frees_its_slot_for_the_next_one_at_once(engine: DecoderEngine) -> None:
    engine.set_limits(replace(engine.limits, batch=1))
    long, next_one = ask(engine, prompt(1), 900), ask(engine, prompt(2), 3)
    await until(lambda: bool(long.tokens))
    assert engine.stats().waiting == 1
    engine.cancel(long)
    assert engine.stats().running == 1
    assert len(await whole(next_one)) == 3
    assert len(long.tokens) < 900
    engine.cancel(long)  # again: nothing happens


async def test_a_draining_engine_finishes_what_it_has_and_takes_no_more(engine: DecoderEngine) -> None:
    running = [asyncio.create_task(whole(ask(engine, prompt(number), 10))) for number in range(20)]
    await asyncio.sleep(0)
    draining = asyncio.create_task(engine.drain())
    await asyncio.sleep(0)
    with pytest.raises(EngineClosedError, match="drains"):
        ask(engine, prompt(1))
    await asyncio.wait_for(draining, 20)
    assert await asyncio.gather(*running) == [reference(prompt(number), 10) for number in range(20)]
    assert engine.stats().running == engine.stats().waiting == 0
