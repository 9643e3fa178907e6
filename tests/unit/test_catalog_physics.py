"""The physical model behind modelled profiles: it finds known constants, and behaves as hardware does."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.catalog.modelled import fitted
from tools.catalog.physics import Board, Observation, PhysicalModel, Step, fit, joules_errors, leave_one_model_out

BOARD = Board(3e12, 1e15, 100.0, 700.0)
TRUTH = PhysicalModel(time=(2e-3, 1.25, 2.5, 20e-6), power=(0.3, 0.25, 1.5))


def step(gigabytes: float, teraflops: float, boards: int = 1, layers: int = 32) -> Step:
    return Step(BOARD, boards, gigabytes * 1e9, teraflops * 1e12, layers)


def observed(group: str, work: Step) -> Observation:
    return Observation(group, work, TRUTH.seconds(work), TRUTH.watts(work))


OBSERVATIONS = [
    observed(f"model-{size}", step(size + batch / 10, size * batch / 500, boards, 20 + size))
    for size in (8, 16, 32)
    for batch in (8, 32, 64)
    for boards in (1, 2)
]


def test_the_fit_finds_the_constants_that_made_the_data() -> None:
    model = fit(OBSERVATIONS)
    assert model.time == pytest.approx(TRUTH.time, rel=1e-6)
    assert model.power == pytest.approx(TRUTH.power, rel=1e-6)
    assert max(abs(joules_errors(model, OBSERVATIONS))) < 1e-9
    assert leave_one_model_out(OBSERVATIONS).p90_percent < 1e-6


def test_an_outlier_shows_in_the_error_of_the_model_that_has_it() -> None:
    odd = [replace(o, seconds=2 * o.seconds) if o.group == "model-8" else o for o in OBSERVATIONS]
    assert leave_one_model_out(odd).p90_percent > 30


@given(st.floats(0.1, 100), st.floats(0.001, 100), st.integers(1, 8))
def test_watts_stay_between_idle_and_the_limit(gigabytes: float, teraflops: float, boards: int) -> None:
    work = step(gigabytes, teraflops, boards)
    assert boards * 100 <= TRUTH.watts(work) <= boards * 700
    seconds, watts = TRUTH.encoder_step(work, host_seconds=0.005)
    assert seconds >= 0.005
    assert 100 <= watts <= 700


@given(st.floats(0.1, 100), st.floats(0.001, 10))
def test_more_work_never_takes_less_time_and_a_faster_board_never_more(gigabytes: float, teraflops: float) -> None:
    work = step(gigabytes, teraflops)
    assert TRUTH.seconds(replace(work, bytes_read=work.bytes_read * 1.1)) > TRUTH.seconds(work)
    faster = replace(BOARD, bandwidth_bytes_per_second=BOARD.bandwidth_bytes_per_second * 2)
    assert TRUTH.seconds(replace(work, board=faster)) < TRUTH.seconds(work)


def test_a_board_that_waits_for_the_host_draws_little_more_than_idle() -> None:
    work = step(0.02, 0.001)
    _, busy = TRUTH.encoder_step(work, host_seconds=0.0)
    _, waiting = TRUTH.encoder_step(work, host_seconds=1.0)
    assert busy > 200
    assert waiting < 101


def test_what_a_class_was_not_measured_for_is_more_uncertain() -> None:
    physics = fitted()
    on_h100 = physics.decoder_uncertainty_percent("h100", 14_000)
    small_on_h100 = physics.decoder_uncertainty_percent("h100", 600)
    on_l4 = physics.decoder_uncertainty_percent("l4", 14_000)
    assert on_h100 < small_on_h100 < on_l4
    assert physics.left_out.median_percent < 15, "the model no longer describes the board that it is fitted to"
