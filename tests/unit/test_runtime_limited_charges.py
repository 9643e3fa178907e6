"""Replicas whose boards are under a power limit: what they are charged, and when."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lowbeam.planning.committed import Ledger, Target, placement_of
from lowbeam.power.caps import CapTree
from lowbeam.power.ledger import ReplicaCharge
from lowbeam.runtime.meters import Meters
from lowbeam.runtime.replicas import Replica
from lowbeam.sizing import Option
from lowbeam.telemetry import Sample
from tests.fakes.power_fleet import cap, option
from tests.raw_objects import replica
from tests.unit.test_runtime_charges import BOARD, PLACEMENT, PROFILE, sample, seen, upper

KEY = ("team", "w")
LARGEST = PROFILE.points[-1].batch
LIMIT, WORST = 30_000, 29_000
"""Milliwatts: the limit of the board, and what the option says that a replica draws under it at most."""


def decided(*, limit_watts: int = LIMIT // 1000, worst: int = WORST) -> Option:
    return replace(
        option(replicas=1, batch=LARGEST),
        **{
            name: getattr(PLACEMENT, name)
            for name in ("model", "precision", "reasoning", "accelerator_class", "engine")
        },
        board_limit_watts=limit_watts,
        worst_case_milliwatts=worst,
    )


def charge(told: Sample | None, target: Option, **pod: object) -> ReplicaCharge:
    replicas: list[Replica] = [replica(**pod)]
    samples = {} if told is None else {"pod-1": told}
    (found,) = Meters().read(seen(replicas), {KEY: target}, samples, 1500).charges
    return found


def held(milliwatts: int | None, *, batch: int = LARGEST, boards: int = 1) -> Sample:
    limited = 0 if milliwatts is None else boards
    return replace(sample(20, batch=batch), limit_milliwatts=milliwatts or 0, limited_boards=limited)


def test_a_limit_counts_when_the_boards_say_it_and_not_when_it_is_decided() -> None:
    assert charge(held(None), decided()).milliwatts == upper(*PROFILE.points) > LIMIT
    assert charge(held(LIMIT + 1), decided()).milliwatts == LIMIT + 1
    assert charge(held(LIMIT), decided()).milliwatts == WORST


def test_a_limit_that_nobody_decided_counts_as_what_it_is() -> None:
    other = decided(limit_watts=0, worst=upper(*PROFILE.points))
    assert charge(held(LIMIT), other).milliwatts == LIMIT
    assert charge(held(LIMIT), replace(other, model="another")).milliwatts == LIMIT, "of a pod that is replaced too"
    assert charge(held(10 * BOARD), other).milliwatts == upper(*PROFILE.points), "a lower one only"


def test_boards_that_their_agent_does_not_see_are_not_limited() -> None:
    assert charge(held(LIMIT), decided(), accelerators=2).milliwatts > 2 * LIMIT
    assert charge(held(2 * LIMIT, boards=2), decided(), accelerators=2).milliwatts <= 2 * LIMIT


def test_what_was_drawn_before_the_limit_does_not_outlive_it() -> None:
    meters, world = Meters(), seen([replica()])
    meters.read(world, {KEY: decided()}, {"pod-1": replace(sample(70, batch=LARGEST))}, 1500)
    later = replace(held(LIMIT), sampled_at_ms=3000, received_at_ms=3000)
    (found,) = meters.read(world, {KEY: decided()}, {"pod-1": later}, 3500).charges
    assert found.milliwatts <= LIMIT


@pytest.mark.parametrize("told", [None, held(None, batch=1)])
def test_a_replica_that_loads_is_charged_under_the_limit_that_it_is_to_have(told: Sample | None) -> None:
    assert charge(told, decided(), started=False, ready=False).milliwatts <= LIMIT
    assert charge(None, decided()).milliwatts > LIMIT, "one that has started and is silent is not"


def test_a_limit_that_is_to_rise_is_charged_before_it_is_set() -> None:
    """The pod is charged by the limit of its boards, and the target without one is assumed."""
    now, then = decided(), decided(limit_watts=0, worst=BOARD)
    pod = replace(charge(held(LIMIT), now), placement=placement_of(now))
    ledger = Ledger(CapTree((cap(watts=1000),)), {KEY: Target(now)}, [pod])
    assert ledger.committed == {"cluster": WORST}
    assert ledger.change(KEY, Target(then)) == {"cluster": BOARD - WORST}
