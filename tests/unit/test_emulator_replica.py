from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowbeam.api.wire import MeterMethod, ProfileChange, WorkerState
from lowbeam.catalog.facts import AcceleratorClass, Basis, EnergyProfile, ProfilePoint, Reasoning, Source
from lowbeam.emulator.replica import EmulatedReplica, Pace, StaleGeneration, StillLoading
from lowbeam.sizing.operating_point import measured_curve

SOURCE = Source("test", "2026-01-01")
H100 = AcceleratorClass(
    "h100", ("NVIDIA-H100",), 81920, 90, ("bf16",), idle_milliwatts=100_000, max_milliwatts=700_000, source=SOURCE
)
PROFILE = EnergyProfile(
    name="m-h100",
    model="m",
    precision="bf16",
    reasoning=Reasoning.OFF,
    task="text-generation",
    accelerator_class="h100",
    accelerators=1,
    engine="vLLM",
    input_tokens=300,
    output_tokens=500,
    points=(
        ProfilePoint(8, 400_000, 2_000, 4_000, 4_400),
        ProfilePoint(64, 600_000, 8_000, 8_000, 8_800),
    ),
    basis=Basis.PUBLISHED,
    source=SOURCE,
)
CURVE = measured_curve(PROFILE, H100)
PACE = Pace(start_seconds=0.0, settle_seconds=2.0)
QUIET = 0.031
"""Most that the noise does: three standard deviations."""


def replica(
    rps: float = 0.0,
    *,
    batch: int = 64,
    uid: str = "u",
    pace: Pace = PACE,
    boards: int = 1,
    curve: bool = True,
) -> EmulatedReplica:
    made = EmulatedReplica("ns", "pod", uid, "m", "bf16", "Off", CURVE if curve else None, boards, pace, started=0.0)
    made.change(ProfileChange(generation=1, batch_limit=batch), pace.start_seconds)
    made.advance(pace.start_seconds + pace.settle_seconds)
    made.offered_rps = rps
    return made


def watts(worker: EmulatedReplica, now: float) -> float:
    value = worker.telemetry(now, 1.0).watts
    assert value is not None
    return value


def test_no_load_draws_the_idle_watts_of_the_class() -> None:
    assert watts(replica(0.0), 10.0) == pytest.approx(100, rel=QUIET)


@pytest.mark.parametrize(("rps", "expected"), [(2.0, 400.0), (5.0, 500.0), (8.0, 600.0)])
def test_watts_follow_the_profile_at_the_running_batch(rps: float, expected: float) -> None:
    assert watts(replica(rps), 30.0) == pytest.approx(expected, rel=QUIET)


def test_load_above_capacity_waits_in_a_bounded_queue_and_the_rest_is_refused() -> None:
    worker = replica(20.0)
    sample = worker.telemetry(100.0, 1.0)
    assert sample.requests_waiting == 4 * 64
    assert sample.requests_total == pytest.approx(8 * 98, rel=0.01)
    assert sample.requests_received_total == pytest.approx(20 * 98, rel=0.01)
    assert sample.watts == pytest.approx(600, rel=QUIET)


def test_a_smaller_batch_draws_less_and_only_after_the_settle_time() -> None:
    worker = replica(8.0)
    before = watts(worker, 20.0)
    result = worker.change(ProfileChange(generation=2, batch_limit=8), 20.0)
    assert (result.changed, result.profile.batch_limit, result.profile.generation) == (True, 8, 2)
    assert worker.telemetry(20.5, 1.0).state is WorkerState.RECONFIGURING
    halfway = watts(worker, 21.0)
    settled = watts(worker, 25.0)
    assert before > halfway > settled
    assert settled == pytest.approx(400, rel=QUIET)
    assert worker.telemetry(25.0, 1.0).state is WorkerState.READY


def test_the_same_change_is_answered_again_and_done_once() -> None:
    worker = replica(8.0)
    first = worker.change(ProfileChange(generation=2, batch_limit=8), 20.0)
    assert first.changed
    assert worker.change(ProfileChange(generation=2, batch_limit=8), 21.9) == first
    assert worker.telemetry(22.1, 1.0).state is WorkerState.READY, "a second change would settle until 23.9"


def test_a_worker_that_still_loads_cannot_be_changed() -> None:
    worker = EmulatedReplica("ns", "p", "u", "m", "bf16", "Off", CURVE, 1, Pace(5.0, 2.0), started=0.0)
    with pytest.raises(StillLoading):
        worker.change(ProfileChange(generation=1, batch_limit=8), 4.0)
    assert worker.change(ProfileChange(generation=1, batch_limit=8), 5.0).changed


def test_an_older_generation_is_refused_and_changes_nothing() -> None:
    worker = replica()
    worker.change(ProfileChange(generation=5, batch_limit=8), 10.0)
    with pytest.raises(StaleGeneration):
        worker.change(ProfileChange(generation=4, batch_limit=64), 11.0)
    with pytest.raises(StaleGeneration):
        worker.change(ProfileChange(generation=5, batch_limit=64), 11.0)
    assert worker.profile().batch_limit == 8


def test_a_change_without_a_batch_limit_moves_the_generation_only() -> None:
    worker = replica(batch=16)
    result = worker.change(ProfileChange(generation=7), 10.0)
    assert (result.changed, result.profile.batch_limit, result.profile.generation) == (False, 16, 7)


def test_a_starting_worker_draws_watts_serves_nothing_and_takes_no_load() -> None:
    worker = EmulatedReplica("ns", "p", "u", "m", "bf16", "Off", CURVE, 1, Pace(5.0, 2.0), started=0.0)
    worker.offered_rps = 5.0
    sample = worker.telemetry(4.0, 1.0)
    assert sample.state is WorkerState.LOADING
    assert not worker.accepts
    assert sample.requests_total == 0
    assert sample.watts is not None
    assert sample.watts > 100
    assert worker.telemetry(5.5, 1.0).state is WorkerState.READY
    assert sample.energy_joules is not None
    assert sample.energy_joules.load == sample.energy_joules.counter > 0


def test_a_draining_worker_finishes_what_waits_and_takes_nothing_new() -> None:
    worker = replica(20.0)
    worker.advance(30.0)
    received = worker.telemetry(30.0, 1.0).requests_received_total
    worker.draining = True
    sample = worker.telemetry(100.0, 1.0)
    assert sample.state is WorkerState.DRAINING
    assert sample.requests_waiting == 0
    assert sample.requests_received_total == received


def test_without_a_profile_the_meter_is_unavailable_and_never_zero() -> None:
    sample = replica(5.0, curve=False).telemetry(10.0, 1.0)
    assert sample.method is MeterMethod.UNAVAILABLE
    assert sample.watts is None
    assert sample.energy_joules is None
    assert sample.devices == ()


def test_a_deaf_worker_says_that_it_changed_and_goes_on_drawing() -> None:
    worker = replica(8.0)
    worker.deaf = True
    result = worker.change(ProfileChange(generation=2, batch_limit=8), 20.0)
    assert result.profile.batch_limit == 8
    assert watts(worker, 40.0) == pytest.approx(600, rel=QUIET)


def test_the_same_pod_draws_the_same_noise_in_every_run_and_another_pod_another() -> None:
    one, same, other = (watts(replica(8.0, uid=uid), 30.0) for uid in ("a", "a", "b"))
    assert one == same != other


@given(st.lists(st.tuples(st.floats(0.01, 20), st.floats(0, 30), st.integers(1, 128)), min_size=1, max_size=12))
def test_the_parts_of_the_energy_add_up_and_agree_with_the_watts(moves: list[tuple[float, float, int]]) -> None:
    worker = replica(0.0)
    now, least, most = 2.0, 100 * (1 - QUIET), 600 * (1 + QUIET)
    start = worker.telemetry(now, 1.0).energy_joules
    assert start is not None
    last = start.counter
    for generation, (seconds, rps, batch) in enumerate(moves, start=2):
        worker.offered_rps = rps
        worker.change(ProfileChange(generation=generation, batch_limit=batch), now)
        now += seconds
        sample = worker.telemetry(now, 1.0)
        energy = sample.energy_joules
        assert energy is not None
        assert energy.active + energy.idle + energy.load + energy.reconfigure == pytest.approx(energy.counter)
        assert least * seconds <= energy.counter - last <= most * seconds
        assert sample.requests_total <= sample.requests_received_total
        last = energy.counter


@given(st.floats(0, 20), st.floats(1, 60), st.integers(1, 50))
def test_asking_more_often_changes_nothing_about_the_work_done(rps: float, until: float, times: int) -> None:
    rarely, often = replica(rps), replica(rps)
    for i in range(1, times + 1):
        often.telemetry(2.0 + until * i / times, 1.0)
    one, other = rarely.telemetry(2.0 + until, 1.0), often.telemetry(2.0 + until, 1.0)
    assert abs(one.requests_total - other.requests_total) <= 1
    assert abs(one.requests_waiting - other.requests_waiting) <= 1
