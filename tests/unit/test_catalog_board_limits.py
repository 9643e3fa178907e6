"""Boards under a lowered limit: the published sweeps come out, and only what the data cover is offered."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lowbeam.catalog import load_builtin
from lowbeam.catalog.board_limits import (
    LEAST_RATIO_PERCENT,
    STEPS_PERCENT,
    limited,
    limits_of,
    load_responses,
    responses_of,
)
from lowbeam.catalog.facts import AcceleratorClass, Basis, EnergyProfile, ProfilePoint, Reasoning, Source
from lowbeam.catalog.overlay import profile_problems
from tools.catalog.board_limits import (
    KINDS,
    Sample,
    board_limits,
    fit,
    fitted_responses,
    p90_percent,
    samples,
    sweeps,
)
from tools.catalog.physics import Errors

CATALOGUE = load_builtin()
A100 = CATALOGUE.accelerator_classes["a100"]
H100 = CATALOGUE.accelerator_classes["h100"]


def point(batch: int, watts: float, rate_milli: int = 1_000_000, **more: Any) -> ProfilePoint:
    return ProfilePoint(batch, round(watts * 1000), rate_milli, 1_000_000, 1_200_000, **more)


def profile(*points: ProfilePoint, tokens: int = 200, boards: int = 1, **more: Any) -> EnergyProfile:
    return EnergyProfile(
        "p", "m", "bf16", Reasoning.OFF, "text-generation", "a100", boards, "vllm", 100, tokens, points,
        **{"basis": Basis.PUBLISHED, "source": Source("c", "2026-01-01")} | more,
    )  # fmt: skip


def swept(kind: str, board: str, workload: str) -> list[tuple[int, float, float]]:
    """(limit watts, draw watts, rate) of one published sweep, the delivered limit last."""
    rows = sweeps()[kind, board, workload]
    return [(int(row["limit_watts"]), float(row["draw_watts"]), float(row["rate"])) for row in rows]


# --- against the published sweeps -----------------------------------------------------------------------------------


def test_inference_on_a100_comes_out_as_published() -> None:
    *lower, (_, draw, rate) = swept("generation", "A100 SXM4 (400 W)", "Llama-8B inference")
    before = profile(point(32, draw, round(rate * 1e6)))
    found = {limit: limited(before, A100, limit) for limit, _, _ in lower}
    assert [limit for limit, it in found.items() if it is not None] == [300, 350]
    for limit, measured_draw, measured_rate in lower:
        after = found[limit]
        if after is not None:
            assert after.points[0].requests_per_second_milli / 1e6 == pytest.approx(measured_rate, rel=0.03)
            assert after.points[0].milliwatts == limit * 1000
            assert after.points[0].milliwatts / 1000 == pytest.approx(measured_draw, rel=0.06)


@pytest.mark.parametrize("kind", KINDS)
def test_nine_of_ten_measured_limits_are_within_the_stated_error(kind: str) -> None:
    relative: dict[str, list[float]] = defaultdict(list)
    for name, board, workload in sweeps():
        *lower, (_, draw, rate) = swept(name, board, workload)
        before = profile(point(32, draw, round(rate * 1e6)), tokens=200 if kind == "generation" else 1)
        for limit, _, measured in lower:
            after = limited(before, A100, limit) if name == kind else None
            if after is not None:
                relative[board].append(after.points[0].requests_per_second_milli / (measured * 1e6) - 1)
    stated = fitted_responses()[kind].uncertainty_percent
    assert len(relative) >= 5
    assert p90_percent([Errors(np.array(errors)) for errors in relative.values()]) <= stated


def test_the_shipped_constants_are_those_of_the_fit() -> None:
    assert load_responses() == responses_of(board_limits())
    assert load_responses().generation.loss_permille < load_responses().compute.loss_permille


def test_the_fit_finds_the_loss_that_made_the_data_and_boards_count_the_same() -> None:
    made = [Sample("compute", "a", "w", r / 100, 1 - 0.4 * (1 - r / 100), 1.0) for r in range(70, 100, 5)]
    assert fit(made) == pytest.approx(0.4)
    other = [Sample("compute", "b", "w", r / 100, 1 - 0.6 * (1 - r / 100), 1.0) for r in range(70, 100, 5)]
    assert fit(made * 20 + other) == pytest.approx(fit(made + other))


def test_below_the_fitted_range_boards_stop_agreeing() -> None:
    for response in fitted_responses().values():
        inside, below = ([it.rate for it in boards] for boards in (response.boards, response.below))
        assert p90_percent(below) > 2 * p90_percent(inside)
    assert min(sample.ratio for sample in samples()) < LEAST_RATIO_PERCENT / 100


# --- which limits ---------------------------------------------------------------------------------------------------


def test_two_limits_are_offered_where_the_minimum_is_far() -> None:
    assert limits_of(H100) == (595, 490)
    assert limits_of(CATALOGUE.accelerator_classes["l4"]) == (65, 55)


@pytest.mark.parametrize("name", ["t4", "cpu", "mi300x", "h100-pcie"])
def test_nothing_is_offered_near_the_minimum_or_without_data(name: str) -> None:
    assert limits_of(CATALOGUE.accelerator_classes[name]) == ()


@pytest.mark.parametrize("accelerator", CATALOGUE.accelerator_classes.values(), ids=lambda it: it.name)
def test_limits_descend_and_stay_where_the_response_was_checked(accelerator: AcceleratorClass) -> None:
    found = limits_of(accelerator)
    assert len(found) <= len(STEPS_PERCENT)
    assert list(found) == sorted(set(found), reverse=True)
    for watts in found:
        assert accelerator.min_milliwatts is not None
        assert watts * 1000 > accelerator.min_milliwatts
        assert LEAST_RATIO_PERCENT * accelerator.max_milliwatts <= watts * 1000 * 100 < accelerator.max_milliwatts * 100


# --- what a profile becomes -----------------------------------------------------------------------------------------


def test_a_limit_above_every_draw_changes_nothing() -> None:
    assert limited(profile(point(1, 300), point(8, 490, 2_000_000)), H100, 490) is None


def test_points_below_the_limit_stay_and_those_above_draw_it_and_take_longer() -> None:
    low = point(1, 300)
    high = point(8, 600, 8_000_000, inter_token_p50_us=20_000, inter_token_p95_us=30_000)
    found = limited(profile(low, high), H100, 510)
    assert found is not None
    assert found.points[0] is low
    kept = 1 - load_responses().generation.loss_permille / 1000 * 0.15
    after = found.points[1]
    assert (after.batch, after.milliwatts) == (8, 510_000)
    assert after.requests_per_second_milli == math.floor(8_000_000 * kept)
    assert after.latency_p50_ms == math.ceil(1_000_000 / kept)
    assert after.latency_p95_ms == math.ceil(1_200_000 / kept)
    assert after.inter_token_p50_us == math.ceil(20_000 / kept)
    assert after.inter_token_p95_us == math.ceil(30_000 / kept)


def test_joules_per_request_are_those_of_its_own_watts_and_throughput() -> None:
    before = profile(point(8, 600, 8_000_000))
    after = limited(before, H100, 490)
    assert after is not None
    joules = [it.points[0].milliwatts / it.points[0].requests_per_second_milli for it in (before, after)]
    kept = 1 - load_responses().generation.loss_permille / 1000 * (1 - 490 / 600)
    assert joules[1] / joules[0] == pytest.approx(490 / 600 / kept, rel=1e-6)


def test_work_that_computes_loses_more_than_work_that_reads_memory() -> None:
    answers, classes = (limited(profile(point(8, 600), tokens=tokens), H100, 490) for tokens in (2, 1))
    assert answers is not None
    assert classes is not None
    assert classes.points[0].requests_per_second_milli < answers.points[0].requests_per_second_milli


def test_the_limit_is_of_each_board() -> None:
    assert limited(profile(point(8, 1900), boards=4), H100, 490) is None
    found = limited(profile(point(8, 2400), boards=4), H100, 490)
    assert found is not None
    assert found.points[0].milliwatts == 4 * 490_000


def test_a_limited_profile_is_modelled_and_says_so() -> None:
    before = profile(point(8, 600), uncertainty_percent=15, source=Source("c", "2026-01-01", "own note"))
    found = limited(before, H100, 490)
    assert found is not None
    assert (found.basis, found.board_limit_watts) == (Basis.MODELLED, 490)
    assert found.uncertainty_percent == round(math.hypot(15, load_responses().generation.uncertainty_percent))
    assert found.source.note.startswith("own note; boards limited to 490 W: ")
    assert (found.name, found.series, found.source.citation) == (before.name, before.series, before.source.citation)


def test_a_batch_that_then_serves_no_more_is_left_out() -> None:
    found = limited(profile(point(8, 490, 1_000_000), point(16, 690, 1_050_000), point(32, 650, 1_200_000)), H100, 490)
    assert found is not None
    assert [it.batch for it in found.points] == [8, 32]


@pytest.mark.parametrize(
    "case",
    [
        (profile(point(8, 701)), H100, 490),
        (profile(point(8, 600), board_limit_watts=595), H100, 490),
        (profile(point(8, 600)), replace(H100, compute_capability=0), 490),
    ],
    ids=["deeper than the data", "limited already", "no CUDA"],
)
def test_nothing_is_said_where_no_data_speak(case: tuple[EnergyProfile, AcceleratorClass, int]) -> None:
    assert limited(*case) is None


# --- the whole catalogue --------------------------------------------------------------------------------------------


def test_every_built_in_profile_under_every_limit_passes_the_checks_of_loaded_ones() -> None:
    count = 0
    for it in CATALOGUE.profiles:
        accelerator = CATALOGUE.accelerator_classes[it.accelerator_class]
        for watts in limits_of(accelerator):
            found = limited(it, accelerator, watts)
            if found is None:
                assert max(p.milliwatts for p in it.points) <= watts * 1000 * it.accelerators, it.name
                continue
            count += 1
            assert profile_problems(found, CATALOGUE) == (), it.name
            assert max(p.milliwatts for p in found.points) <= watts * 1000 * it.accelerators, it.name
            assert found.uncertainty_percent >= it.uncertainty_percent
    assert count > 500


def test_a_lower_limit_never_gives_more_throughput_or_watts_or_less_latency() -> None:
    for it in CATALOGUE.profiles:
        accelerator = CATALOGUE.accelerator_classes[it.accelerator_class]
        before = it
        for watts in limits_of(accelerator):
            after = limited(it, accelerator, watts)
            if after is not None:
                assert_no_better(before, after)
                before = after


def assert_no_better(before: EnergyProfile, after: EnergyProfile) -> None:
    earlier = {p.batch: p for p in before.points}
    assert max(p.requests_per_second_milli for p in after.points) <= max(
        p.requests_per_second_milli for p in before.points
    )
    for p in after.points:
        if (q := earlier.get(p.batch)) is not None:
            assert p.milliwatts <= q.milliwatts
            assert p.requests_per_second_milli <= q.requests_per_second_milli
            assert p.latency_p50_ms >= q.latency_p50_ms
            assert p.latency_p95_ms >= q.latency_p95_ms
            assert (p.inter_token_p95_us or 0) >= (q.inter_token_p95_us or 0)
