"""What a token costs is measured: the split of a step between those who read and those who write."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lowbeam_worker.energy.cost import Kind, StepCost
from lowbeam_worker.energy.ledger import Ledger
from tests.worker.decoders import ask, prompt, running_engine, whole

STEP_S, PREFILL_S, DECODE_S = 0.010, 0.0001, 0.0008
MEMBERS = st.lists(st.tuples(st.integers(1, 600), st.booleans()), min_size=1, max_size=32)


def taught(noise: float = 0.0, steps: int = 400, factor: float = 1.0, cost: StepCost | None = None) -> StepCost:
    cost, chance = cost or StepCost(), random.Random(7)
    for _ in range(steps):
        decoding: list[Kind] = [(1, True)] * chance.randint(0, 16)
        reading: list[Kind] = [(chance.randint(1, 256), False)] * chance.randint(0, 2)
        members = decoding + reading
        if members:
            seconds = STEP_S + PREFILL_S * sum(tokens for tokens, _ in reading) + DECODE_S * len(decoding)
            cost.learn(members, factor * seconds * (1 + noise * chance.uniform(-1, 1)))
    return cost


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_prices_are_found_from_mixed_steps(noise: float) -> None:
    prices = taught(noise).prices
    assert prices is not None
    assert prices.step == pytest.approx(STEP_S, rel=0.01 + noise / 2)
    assert prices.prefill_token == pytest.approx(PREFILL_S, rel=0.01 + noise)
    assert prices.decode_token == pytest.approx(DECODE_S, rel=0.01 + 2 * noise)


def test_a_long_prompt_does_not_pay_for_the_step_of_those_who_write() -> None:
    weights = taught().weights([(256, False), *[(1, True)] * 8])
    share = weights[0] / sum(weights)
    own = PREFILL_S * 256 + STEP_S / 9
    assert share == pytest.approx(own / (STEP_S + PREFILL_S * 256 + DECODE_S * 8), rel=0.02)
    assert share < 0.7  # by tokens alone it would be 0.97


def test_before_anything_was_measured_tokens_count_the_same() -> None:
    assert StepCost().weights([(30, False), (1, True)]) == [30.0, 1.0]
    only_writing = StepCost()
    for _ in range(100):
        only_writing.learn([(1, True)], 0.01)
    assert only_writing.prices is None


def test_prices_follow_a_change_of_precision() -> None:
    cost = taught(steps=2000)
    taught(steps=8000, factor=0.25, cost=cost)
    assert cost.prices is not None
    assert cost.prices.step == pytest.approx(STEP_S / 4, rel=0.15)


def test_a_step_that_something_else_stopped_teaches_nothing() -> None:
    cost = taught()
    before = cost.prices
    for _ in range(50):
        cost.learn([(1, True)], 60.0)
    assert cost.prices == before


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(MEMBERS, st.floats(1e-6, 100)), min_size=20, max_size=60), MEMBERS)
def test_prices_are_never_negative_and_weights_always_make_a_whole(
    steps: list[tuple[list[Kind], float]], members: list[Kind]
) -> None:
    cost = StepCost()
    for kinds, seconds in steps:
        cost.learn(kinds, seconds)
    weights = cost.weights(members)
    assert len(weights) == len(members)
    assert min(weights) >= 0
    if cost.prices is not None:
        assert min(cost.prices.step, cost.prices.prefill_token, cost.prices.decode_token) >= 0


@pytest.mark.asyncio
async def test_a_real_engine_learns_its_prices_and_charges_everything_to_its_requests() -> None:
    ledger = Ledger()
    ledger.observe(0.0, 0)
    async with running_engine(batch_limit=3, ledger=ledger) as engine:
        generations = [ask(engine, prompt(number) * (1 + number % 4), 12) for number in range(48)]
        await asyncio.gather(*(whole(generation) for generation in generations))
        prices = engine.stats().prices
    assert prices is not None
    # How it is split between the three is noise on a busy machine: a price that would be negative is 0.
    assert prices.step + prices.prefill_token + prices.decode_token > 0
    ledger.observe(1e9, 10**9)  # a kilojoule and more than a step
    charged_mj = sum(generation.account.charged_mj for generation in generations)
    parts = ledger.parts()
    assert parts.counter_mj == 10**9
    assert charged_mj == parts.active_mj
    assert all(generation.account.cpu_s > 0 for generation in generations)
