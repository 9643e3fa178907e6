"""Readings that tell less than all of a replica: they count at the worst case, and are missed in a cap's coverage."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lowbeam.api.wire import DeviceReading, MeterMethod, MeterScope
from lowbeam.power.ledger import Measured, measured
from lowbeam.power.tree import build_cap_tree
from lowbeam.power.trust import Reason
from lowbeam.runtime.meters import Meters
from lowbeam.runtime.replicas import Replica
from lowbeam.telemetry import Sample, SampleSource
from tests.builders import cap
from tests.raw_objects import replica
from tests.unit.test_runtime_charges import BOARD, books, sample, seen


def boards(*uuids: str) -> tuple[DeviceReading, ...]:
    return tuple(DeviceReading(uuid=uuid, watts=60) for uuid in uuids)


@pytest.mark.parametrize(
    ("uuids", "scope", "missing"),
    [
        (["a", "b"], MeterScope.DEVICE, 0),
        (["a"], MeterScope.DEVICE, 1),
        (["a", "a"], MeterScope.DEVICE, 1),
        (["a"], MeterScope.SHARED, 0),
        ([], MeterScope.DEVICE, 0),
    ],
    ids=["all", "one", "one named twice", "parts of a shared board", "a source that names none"],
)
def test_a_board_that_no_meter_tells_is_not_taken_for_one_that_draws_nothing(
    uuids: list[str], scope: MeterScope, missing: int
) -> None:
    told = replace(sample(60), scope=scope, devices=boards(*uuids))
    book = books([replica(accelerators=2)], {"pod-1": told})
    verdict, (reading,) = book.verdicts["pod-1"], book.readings
    if missing:
        assert verdict.reason is Reason.MISSING
        assert "1 of its boards has no reading" in verdict.message
        assert (reading.milliwatts, reading.worst_case_milliwatts) == (None, 2 * BOARD)
    else:
        assert reading.milliwatts == 60_000


def under_a_cap(meters: Meters, who: Replica, told: Sample, now_ms: int) -> Measured:
    read = meters.read(seen([who]), {("team", "w"): None}, {"pod-1": told}, now_ms).readings
    return measured(build_cap_tree([cap("c", 1000)]), read, now_ms)["c"]


def test_a_meter_that_is_lost_grows_stale_and_is_missed_while_a_worker_without_one_is_not() -> None:
    """`unavailable` with the last watts is a frozen counter or a lost board; without any there never was a meter."""
    meters, lost = Meters(), replace(sample(60), method=MeterMethod.UNAVAILABLE, scope=MeterScope.NONE)
    just, late = (under_a_cap(meters, replica(), lost, 1000 + after_ms) for after_ms in (1000, 16_000))
    assert (just.milliwatts, just.coverage_percent) == (60_000, 100)
    assert (late.milliwatts, late.coverage_percent, late.heard_percent, late.unmetered) == (BOARD, 0, 0, 0)
    without = under_a_cap(Meters(), replica(), sample(None), 17_000)
    assert (without.milliwatts, without.coverage_percent, without.unmetered) == (BOARD, 100, 1)


@pytest.mark.parametrize(
    ("limit_watts", "counts", "stale"),
    [
        (BOARD * 1.2 / 1000, BOARD * 115 // 100, BOARD * 120 // 100),
        (None, BOARD * 105 // 100, BOARD),
        (BOARD * 0.5 / 1000, BOARD * 105 // 100, BOARD),
        (3e9, BOARD * 115 // 100, BOARD * 130 // 100),
        (-1.0, BOARD * 105 // 100, BOARD),
    ],
    ids=["raised", "not told", "lowered", "a lie", "another lie"],
)
def test_what_a_board_draws_above_its_class_counts_where_its_limit_was_raised(
    limit_watts: float | None, counts: int, stale: int
) -> None:
    devices = (DeviceReading(uuid="a", power_limit_watts=limit_watts),)
    told = replace(sample(BOARD * 1.15 / 1000), scope=MeterScope.DEVICE, devices=devices)
    meters = Meters()
    assert under_a_cap(meters, replica(), told, 1500).milliwatts == counts
    silent = replace(told, devices=(), milliwatts=None)
    assert under_a_cap(meters, replica(), silent, 2000).milliwatts == stale


def test_a_pod_that_is_heard_by_the_agent_of_its_node_first_and_then_itself_is_believed_both_times() -> None:
    """A new leader hears the agents first. Were the workers' counters taken for theirs, the guard would see a fleet at
    its worst case."""
    meters, own = Meters(), replace(sample(60, at_ms=2000), joules_total=1e3)
    agent = replace(sample(60, at_ms=1000), joules_total=1e6, source=SampleSource.AGENT, profile=None)
    for told in agent, own, replace(agent, sampled_at_ms=9000), replace(own, sampled_at_ms=10_000):
        assert under_a_cap(meters, replica(), told, told.sampled_at_ms + 500).milliwatts == 60_000


def test_a_worker_that_lies_is_found_out_though_another_speaks_for_it_now_and_then() -> None:
    """60 W, says its meter, and 120 W its counter. For 6 of every 30 s the agent of its node is heard instead."""
    meters, reasons = Meters(), set()
    for second in range(0, 120, 2):
        told = replace(sample(60, at_ms=second * 1000), joules_total=120.0 * second)
        if second % 30 >= 24:
            told = replace(told, source=SampleSource.AGENT, joules_total=1e6 + 60 * second, profile=None)
        book = meters.read(seen([replica()]), {("team", "w"): None}, {"pod-1": told}, second * 1000)
        reasons.add((told.source, book.verdicts["pod-1"].reason))
    assert reasons == {
        (SampleSource.WORKER, Reason.TRUSTED),
        (SampleSource.WORKER, Reason.DISAGREES),
        (SampleSource.AGENT, Reason.TRUSTED),
    }
