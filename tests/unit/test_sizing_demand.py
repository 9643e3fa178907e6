"""The load that a workload is sized for: first guess, observation, cold starts, bursts, gaps, steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowbeam.api.v1alpha1.base import MAX_TOKENS
from lowbeam.sizing import Demand
from lowbeam.sizing.demand import (
    ENOUGH,
    FIRST_MARGIN,
    LARGEST_CV_PERCENT,
    MARGINS,
    MISSED_WINDOWS,
    RULES,
    STEP_PERCENT,
    LoadState,
    Window,
    first_state,
    in_gap,
    learn,
    margin,
    redeclare,
    stepped,
    surge,
)
from lowbeam.sizing.requirements import MOST_MILLIRPS

STEP = 1 + STEP_PERCENT / 100
DECLARED = Demand(10_000, input_tokens=300, output_tokens=200)
MINUTE_MS = 60_000


def after(state: LoadState, *rates: int, **told: Any) -> LoadState:
    """The state after windows of these rates, ten minutes each."""
    for rate in rates:
        ended_ms = (state.updated_ms or 0) + 10 * MINUTE_MS
        state = learn(state, replace(Window(ended_ms, rate), **told))
    return state


def rate(state: LoadState) -> int:
    return state.demand.requests_per_second_milli


def test_a_new_workload_is_sized_for_what_was_declared() -> None:
    state = first_state(DECLARED)
    assert state.demand == DECLARED
    assert not state.observed


def test_a_steady_load_is_followed_with_a_small_margin() -> None:
    state = after(first_state(DECLARED), *[4000] * 40)
    assert state.observed
    assert 4000 <= rate(state) <= 4000 * STEP**3


def test_a_quiet_first_window_does_not_take_the_declared_load_away() -> None:
    state, seen = first_state(DECLARED), []
    for _ in range(ENOUGH):
        state = after(state, 100)
        seen.append(rate(state))
    assert seen[0] >= 10_000 * (ENOUGH - 1) / ENOUGH
    assert seen == sorted(seen, reverse=True)
    assert rate(after(state, 100, 100)) <= 100 * FIRST_MARGIN * STEP**3
    assert not after(first_state(DECLARED), 100).observed


def test_a_load_above_the_declared_one_counts_from_the_first_window_on() -> None:
    state = after(first_state(DECLARED), 30_000)
    assert state.observed
    assert rate(state) >= 30_000


def test_a_moody_load_earns_a_larger_margin_than_a_steady_one() -> None:
    steady, moody = after(first_state(DECLARED), *[5000] * 72), after(first_state(DECLARED), *[5000] * 8)
    for _ in range(8):
        moody = after(moody, 5000, 5000, 5000, 5000, 5000, 5000, 5000, 8500)
    assert margin(moody.margins) > 1.4 > margin(steady.margins)


def test_one_burst_raises_the_figure_at_once_and_is_forgotten_within_the_hour() -> None:
    calm = after(first_state(DECLARED), *[2000] * 30)
    burst = after(calm, 6000)
    assert rate(burst) >= 6000
    assert rate(after(burst, 2000, 2000)) >= 6000
    assert rate(after(burst, *[2000] * 6)) < 6000


def test_no_load_is_sized_for_that_an_owner_could_not_declare() -> None:
    told = {"input_tokens": 10**15, "output_tokens": 10**15}
    for state in (after(first_state(DECLARED), 10**25, **told), surge(first_state(DECLARED), 10**25, 60_000)):
        assert rate(state) == MOST_MILLIRPS
        assert max(state.demand.input_tokens, state.demand.output_tokens) <= MAX_TOKENS


def test_windows_that_are_missing_change_nothing() -> None:
    state = after(first_state(DECLARED), *[4000] * 10)
    later = learn(state, Window(ended_ms=(state.updated_ms or 0) + 500 * MINUTE_MS, millirps=4000))
    assert rate(later) == rate(state)
    assert in_gap(state, (state.updated_ms or 0) + (MISSED_WINDOWS * 10 + 1) * MINUTE_MS, 10 * MINUTE_MS)
    assert not in_gap(state, (state.updated_ms or 0) + 12 * MINUTE_MS, 10 * MINUTE_MS)


def test_a_dimmed_or_saturated_workload_is_never_thought_to_need_less() -> None:
    state = after(first_state(DECLARED), *[8000] * 20)
    assert rate(after(state, *[500] * 30, held=True)) == rate(state)
    assert rate(after(state, 20_000, held=True)) >= 20_000
    assert rate(after(state, *[500] * 30)) < 1000


def test_an_idle_workload_needs_nothing_once_that_is_certain() -> None:
    assert rate(after(first_state(DECLARED), *[0] * (ENOUGH + 1))) == 0


def test_noise_below_two_steps_moves_nothing() -> None:
    state = after(first_state(DECLARED), *[5000] * 80)
    seen = {rate(state)}
    for number in range(60):
        state = after(state, 5000 + (number * 37) % 300 - 150)
        seen.add(rate(state))
    assert len(seen) <= 2


def test_an_edit_of_the_declared_load_is_a_new_first_guess_beside_what_was_seen() -> None:
    state = after(first_state(DECLARED), *[4000] * 20)
    raised = redeclare(state, replace(DECLARED, requests_per_second_milli=50_000))
    assert rate(raised) == 50_000
    assert rate(after(raised, *[4000] * (ENOUGH + 1))) < 10_000
    lowered = redeclare(state, replace(DECLARED, requests_per_second_milli=100))
    assert rate(lowered) == rate(state)
    assert redeclare(state, DECLARED) is state


def test_a_new_leader_starts_from_what_the_one_before_had_observed() -> None:
    known = Demand(4000, input_tokens=250, output_tokens=180, basis="Observed", arrival_cv_percent=170)
    state = first_state(DECLARED, known)
    assert state.demand == known
    assert after(state, 3000).demand.basis == "Observed"
    assert rate(after(state, 3000)) >= 4000 * (ENOUGH - 1) / ENOUGH


def test_a_rise_is_followed_before_the_window_ends_when_it_is_no_chance() -> None:
    state = after(first_state(DECLARED), *[4000] * 20)
    assert surge(state, requests=250, milliseconds=MINUTE_MS) is state  # 4.2 a second
    assert rate(surge(state, requests=1200, milliseconds=MINUTE_MS)) >= 20_000
    rare = after(first_state(DECLARED), *[10] * 20)
    assert surge(rare, requests=3, milliseconds=MINUTE_MS) is rare  # three in a minute are chance
    assert surge(rare, requests=3, milliseconds=0) is rare


def test_lengths_and_burstiness_are_those_observed() -> None:
    told: dict[str, Any] = {"input_tokens": 900, "output_tokens": 50, "cv_percent": 300}
    state = after(first_state(DECLARED), *[4000] * 20, **told)
    assert 900 / STEP < state.demand.input_tokens < 900 * STEP
    assert 50 / STEP < state.demand.output_tokens < 50 * STEP
    assert 300 <= state.demand.arrival_cv_percent <= 300 * STEP
    smooth = after(first_state(DECLARED), *[4000] * 20, cv_percent=20)
    assert smooth.demand.arrival_cv_percent == 100
    assert (smooth.demand.input_tokens, smooth.demand.output_tokens) == (300, 200)


def test_workloads_of_nearly_the_same_lengths_share_them() -> None:
    lengths = {
        after(first_state(DECLARED), *[4000] * 20, input_tokens=tokens).demand.input_tokens
        for tokens in range(880, 921, 10)
    }
    assert len(lengths) <= 2


def test_a_task_without_generated_text_keeps_its_one_token() -> None:
    state = first_state(Demand(1000, input_tokens=100, output_tokens=1))
    assert after(state, *[2000] * 10, output_tokens=7).demand.output_tokens == 1


@pytest.mark.parametrize(
    ("value", "current", "expected"),
    [(100, 100, 100), (101, 100, 107), (90, 100, 100), (70, 100, 73), (0, 100, 0), (0.4, 0, 1), (1, 0, 1)],
)
def test_figures_move_in_steps(value: float, current: int, expected: int) -> None:
    assert stepped(value, current) == expected


RATES = st.lists(st.integers(0, 500_000), min_size=1, max_size=90)


@given(RATES, st.integers(0, 500_000))
@settings(max_examples=150, deadline=None)
def test_the_figure_stays_between_the_floor_and_what_was_ever_seen(rates: list[int], declared: int) -> None:
    state = first_state(Demand(declared, 10, 10))
    for number, seen in enumerate(rates, start=1):
        state = after(state, seen)
        floor = declared * max(0, ENOUGH - number) / ENOUGH
        most = max(declared, max(rates[:number]) * RULES.largest_margin * STEP + 1)
        assert floor <= rate(state) <= most
        assert rate(state) >= max(rates[max(0, number - RULES.recent) : number])
        assert len(state.margins) <= MARGINS
        assert len(state.recent) <= RULES.recent
        assert 100 <= state.demand.arrival_cv_percent <= LARGEST_CV_PERCENT


@given(RATES, RATES)
@settings(max_examples=60, deadline=None)
def test_held_windows_never_lower_the_figure(rates: list[int], held: list[int]) -> None:
    state = after(first_state(DECLARED), *rates)
    for seen in held:
        before, state = rate(state), after(state, seen, held=True)
        assert rate(state) >= before


@given(RATES)
@settings(max_examples=60, deadline=None)
def test_the_same_windows_give_the_same_figure(rates: list[int]) -> None:
    assert after(first_state(DECLARED), *rates) == after(first_state(DECLARED), *rates)


def test_an_owner_who_declared_the_peak_rightly_is_not_planned_anew() -> None:
    state = first_state(DECLARED)
    for _ in range(6):
        state = after(state, 9000, 9900)
        assert rate(state) in (10_000, stepped(10_000, 0))
