"""When live watts contradict a profile, when they stop to, and what then counts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowbeam.catalog import load_builtin
from lowbeam.catalog.facts import Basis, EnergyProfile
from lowbeam.sizing import Inventory, Option, Sizer
from lowbeam.sizing.correction import Correction, digest_of, key_of
from lowbeam.sizing.measured_power import VOTES, Comparison, Judgement, PowerCurve, corrected, power_curve, vote
from tests.builders import workload

CATALOGUE = load_builtin()
PROFILE = next(
    p
    for p in CATALOGUE.profiles_of("qwen3-4b-instruct-2507", "text-generation")
    if (p.accelerator_class, p.accelerators, p.precision) == ("h100", 1, "bf16")
)
CURVE = PowerCurve((0.0, 10_000.0, 20_000.0), (100_000.0, 300_000.0, 400_000.0))
READY_MS = 600_000


def judgement() -> Judgement:
    return Judgement(key_of(PROFILE), digest_of(PROFILE))


def window(percent: float, *, milliseconds: int = READY_MS, rate: int = 10) -> Comparison:
    """One replica at `rate` requests/s that draws so much of what the curve says."""
    draw = round(CURVE.at(rate * 1000) * percent / 100)
    return Comparison().with_interval(
        CURVE, measured_milliwatts=draw, requests=rate * milliseconds // 1000, milliseconds=milliseconds
    )


def after(*percents: float, start: Judgement | None = None) -> Judgement:
    state = start or judgement()
    for percent in percents:
        state = vote(state, window(percent), READY_MS)
    return state


def test_the_curve_starts_at_idle_and_ends_flat() -> None:
    assert [CURVE.at(rate) for rate in (0, 5_000, 10_000, 15_000, 50_000)] == [1e5, 2e5, 3e5, 3.5e5, 4e5]
    real = power_curve(
        PROFILE,
        CATALOGUE.models[PROFILE.model],
        CATALOGUE.accelerator_classes["h100"],
        input_tokens=500,
        output_tokens=300,
    )
    assert real.at(0) == CATALOGUE.accelerator_classes["h100"].idle_milliwatts
    assert max(real.milliwatts) == max(p.milliwatts for p in PROFILE.points)


def test_three_windows_in_a_row_contradict_and_two_do_not() -> None:
    assert not after(160, 160).contradicted
    certain = after(158, 160, 170)
    assert certain.contradicted
    assert certain.percent == 160
    assert "W instead of 300 W at 10 requests/s" in certain.evidence
    assert after(55, 60, 58).percent == 58


def test_one_window_that_agrees_starts_the_count_anew() -> None:
    assert not after(160, 160, 100, 160, 160).contradicted
    assert after(160, 160, 100, 160, 160, 160).contradicted


def test_windows_on_both_sides_contradict_each_other_and_not_the_profile() -> None:
    assert not after(160, 60, 160, 60, 160, 60).contradicted


@pytest.mark.parametrize("percent", [129, 100, 71])
def test_less_than_30_percent_is_no_contradiction(percent: int) -> None:
    state = after(*[percent] * 10)
    assert not state.contradicted
    assert state.compared


def test_it_ends_only_when_the_watts_agree_again_and_never_flaps_at_the_edge() -> None:
    state = after(140, 140, 140)
    for percent in (131, 129, 132, 128, 125, 131, 122):
        state = after(percent, start=state)
        assert state.percent == 140
    assert not after(110, 115, 105, start=state).contradicted


def test_a_step_of_difference_is_noise_and_more_is_followed() -> None:
    state = after(150, 150, 150)
    assert after(158, 159, 161, start=state) == replace(state, votes=(158, 159, 161))
    assert after(190, 190, 190, start=state).percent == 190


def test_nothing_that_was_hardly_measured_or_nearly_idle_votes() -> None:
    assert vote(judgement(), Comparison(), READY_MS) == judgement()
    assert vote(judgement(), window(300, milliseconds=READY_MS // 3), READY_MS) == judgement()
    assert vote(judgement(), window(300, rate=1), READY_MS) == judgement()


def test_bursts_within_a_window_do_not_look_like_a_wrong_profile() -> None:
    comparison = Comparison()
    for rate in (20, 2) * 30:  # the curve is bent: its value at the mean rate is not the mean of its values
        milliwatts = round(CURVE.at(rate * 1000))
        comparison = comparison.with_interval(
            CURVE, measured_milliwatts=milliwatts, requests=rate * 10, milliseconds=10_000
        )
    assert comparison.percent(READY_MS) == 100


def test_a_profile_in_a_wrong_unit_is_corrected_by_a_bounded_factor() -> None:
    assert after(90_000, 90_000, 90_000).percent == 10_000


@given(st.lists(st.integers(1, 400), max_size=40))
def test_a_judgement_says_100_or_what_votes_said(percents: list[int]) -> None:
    state = judgement()
    for percent in percents:
        state = after(percent, start=state)
        assert state.percent == 100 or abs(state.percent - 100) > 30
        assert len(state.votes) <= VOTES
        assert state.contradicted == bool(state.evidence)


def test_the_worst_case_only_rises_and_stays_within_the_boards_limit() -> None:
    figures = (np.array([300e3] * 4), np.array([400e3] * 4))
    percent, limit = np.array([100, 60, 150, 300]), np.array([700_000, 700_000, 700_000, 0])
    expected, worst = corrected(*figures, percent, limit)
    assert list(expected) == [300e3, 180e3, 450e3, 900e3]
    assert list(worst) == [400e3, 400e3, 600e3, 1200e3]
    assert list(corrected(*figures, np.array([200] * 4), np.array([500_000] * 4))[1]) == [500e3] * 4


def options(*corrections: Correction) -> dict[str, Option]:
    needs = workload("chat").task("text-generation").tokens(500, 400).rate(20).within().build()
    facts = CATALOGUE.tasks["text-generation"]
    needs = replace(needs, benchmark=facts.benchmark, pinned_model=PROFILE.model, corrections=corrections)
    found = Sizer(CATALOGUE, (Inventory("", "h100", 16, 8),)).options_for(needs).options
    return {option.id: option for option in found if option.accelerators_per_replica == 1}


def correction(percent: int, profile: EnergyProfile = PROFILE) -> Correction:
    return Correction(key_of(profile), digest_of(profile), percent)


def test_sizing_counts_what_was_measured_and_says_so() -> None:
    published, higher, lower = options(), options(correction(120)), options(correction(60))
    assert published
    for name in published.keys() & higher.keys() & lower.keys():
        plain, up, down = published[name], higher[name], lower[name]
        assert (up.basis, down.basis) == (Basis.MEASURED, Basis.MEASURED)
        assert up.expected_milliwatts > plain.expected_milliwatts > down.expected_milliwatts
        assert up.millijoules_per_request == pytest.approx(plain.millijoules_per_request * 1.2, rel=0.01)
        assert up.worst_case_milliwatts >= plain.worst_case_milliwatts
        assert down.worst_case_milliwatts == plain.worst_case_milliwatts
    assert published.keys() & higher.keys() & lower.keys()


def test_a_profile_with_other_figures_is_not_corrected() -> None:
    other = replace(PROFILE, points=PROFILE.points[:-1])
    assert options(correction(140, other)) == options()
