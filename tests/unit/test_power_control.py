"""The memory of a leader's power control over several cycles: what is held, dimmed and kept."""

from __future__ import annotations

from typing import Any

import pytest

from lowbeam.api.v1alpha1 import reasons
from lowbeam.api.v1alpha1.powercap import CapState
from lowbeam.planning import Plan, Snapshot, WorkloadState, plan
from lowbeam.planning.committed import committed_milliwatts, placement_of, replica_milliwatts
from lowbeam.power.ledger import Reading, ReplicaCharge, ReplicaState
from lowbeam.runtime.fleet import Fleet
from lowbeam.runtime.meters import Books
from lowbeam.runtime.power_control import PowerControl
from lowbeam.runtime.world import Objects, Parser, World, build_world
from tests.fakes.clock import VirtualClock
from tests.raw_objects import TODAY, iw, node, pcap

KEY = ("team", "w")
LOAD = {"requestsPerMinute": 600_000, "inputTokens": 100, "outputTokens": 1}
UNMEETABLE = {"benchmark": "sst2", "floor": "99.9"}


def world(watts: int, *workloads: dict[str, Any]) -> World:
    nodes = (node("n1", boards=8), node("n2", boards=8))
    return build_world(Objects(workloads=workloads, nodes=nodes, power_caps=(pcap("c", watts=watts),)), TODAY, Parser())


def asked(name: str = "w", **spec: Any) -> dict[str, Any]:
    return iw(name, **{"load": LOAD, **spec})


class Leader:
    """Plans and follows every 2 s; the pods of every target are there at once and draw half of their worst case."""

    def __init__(self) -> None:
        self.clock, self.fleet = VirtualClock(), Fleet()
        self.power = PowerControl(self.clock, self.fleet)
        self.charges: list[ReplicaCharge] = []

    async def cycles(self, count: int, seen: World) -> Plan:
        for _ in range(count):
            await self.clock.advance(2)
            made = self.cycle(seen)
        return made

    def cycle(self, seen: World) -> Plan:
        states = []
        for key in seen.enforced():
            target = self.fleet.of(key).target
            runs, held = target.option if target else None, self.power.pinned(key)
            states.append(WorkloadState(seen.requirements[key], runs, held=held))
        snapshot = Snapshot(seen.catalogue, seen.caps, seen.inventory, tuple(states))
        made = plan(snapshot)
        self.charges = [
            ReplicaCharge(
                *key, it.pool, f"{key}{i}", None, replica_milliwatts(it), None, ReplicaState.LIVE, placement_of(it)
            )
            for key, it in self.fleet.options().items()
            if it is not None
            for i in range(it.replicas)
        ]
        now_ms = self.clock.monotonic_ms()
        readings = tuple(
            Reading(it.namespace, it.workload, it.pool, it.pod_uid, 1, it.milliwatts // 2, now_ms, it.milliwatts)
            for it in self.charges
        )
        books = Books(readings, tuple(self.charges), {})
        self.power.look(seen, books, made, self.fleet)
        self.power.follow(self.fleet, books, made, snapshot)
        return made

    def state(self, seen: World) -> CapState:
        ((_, facts),) = self.power.facts(seen, None)
        return facts.state

    def committed(self, seen: World) -> int:
        return committed_milliwatts(seen.caps, self.fleet.targets(), self.charges)["c"]


@pytest.mark.parametrize("edit", [{"mode": "Advise"}, {"task": "no-such-task"}, {"quality": UNMEETABLE}])
async def test_a_restore_that_is_held_ends_with_the_planning_of_its_workload(edit: dict[str, Any]) -> None:
    leader = Leader()
    await leader.cycles(2, world(5000, asked()))
    await leader.cycles(2, world(120, asked()))
    await leader.cycles(2, world(5000, asked()))
    assert leader.fleet.of(KEY).held is not None
    assert leader.state(world(5000, asked())) is CapState.RESTORING

    edited = world(5000, asked(**edit))
    await leader.cycles(1, edited)
    assert leader.power.retry_at_ms(leader.fleet) is None, "nothing is worth asking for early"
    await leader.cycles(1, edited)
    assert leader.state(edited) is CapState.WITHIN_CAP
    dimming = leader.fleet.of(KEY).dimming
    assert dimming is not None
    assert dimming.power_cap == "c", "it comes back through the gate once it is planned again"

    await leader.cycles(2, world(5000, asked()))
    assert leader.state(world(5000, asked())) is CapState.RESTORING
    assert leader.power.retry_at_ms(leader.fleet) is not None


async def test_a_pinned_workload_says_so_and_is_still_dimmed_by_the_cap_that_would_give_its_watts_back() -> None:
    leader, roomy, tight = Leader(), world(5000, asked()), world(120, asked())
    await leader.cycles(2, roomy)
    whole = leader.fleet.options()[KEY]
    await leader.cycles(2, tight)
    while leader.fleet.options()[KEY] != whole:
        await leader.cycles(1, roomy)
    await leader.cycles(2, tight)
    made = await leader.cycles(5, roomy)
    memory, (choice,) = leader.fleet.of(KEY), made.choices
    assert leader.power.pinned(KEY)
    assert memory.target is not None
    assert (memory.target.dimmed_by, choice.binding_cap) == ("c", "")
    assert memory.dimming is not None
    assert memory.held is not None
    assert memory.held.reason == reasons.PINNED_BY_ANTI_FLAP
    assert leader.state(roomy) is CapState.RESTORING
    assert choice.shortage.endswith("it went down and up too often and stays as it is for a while")
    assert choice.message.endswith(choice.shortage)

    await leader.cycles(300, roomy)
    assert not leader.power.pinned(KEY)
    assert leader.fleet.options()[KEY] == whole
    assert (memory.held, memory.dimming) == (None, None)


async def test_a_cap_cut_counts_a_workload_whose_new_floor_nothing_reaches_as_it_runs() -> None:
    leader = Leader()
    both = (asked(priority=100), asked("other", priority=900))
    edited = (asked(priority=100, quality=UNMEETABLE), both[1])
    await leader.cycles(3, world(5000, *both))
    runs = leader.fleet.options()[KEY]
    await leader.cycles(3, world(5000, *edited))
    cut = world(leader.committed(world(5000, *both)) // 1000, *edited)  # its 5 % of tolerance are too much
    await leader.cycles(10, cut)
    assert leader.fleet.options()[KEY] == runs
    assert leader.committed(cut) <= (cut.caps.usable("c") or 0)


async def test_what_a_new_leader_finds_running_and_can_plan_nothing_for_is_not_ended() -> None:
    leader, seen = Leader(), world(10_000, asked(quality=UNMEETABLE))
    assert leader.fleet.of(KEY).target is None, "its status names what runs, which is no option any longer"
    await leader.cycles(3, seen)
    assert leader.fleet.of(KEY).target is None, "a target without an option ends the pods"
    await leader.cycles(1, world(10_000, asked()))
    assert leader.fleet.options()[KEY] is not None


async def test_what_a_new_leader_finds_running_goes_on_while_growth_is_held() -> None:
    """Its status names no option of today, the plan another, and without fresh readings nothing may grow."""
    leader, seen = Leader(), world(10_000, asked())
    found = ReplicaCharge(*KEY, "", "p0", None, 60_000, None, ReplicaState.LIVE, "of yesterday")
    books = Books((Reading(*KEY, "", "p0", 1, None, 0, 60_000),), (found,), {})
    snapshot = Snapshot(seen.catalogue, seen.caps, seen.inventory, (WorkloadState(seen.requirements[KEY], None),))
    made = plan(snapshot)
    await leader.clock.advance(100)
    leader.power.look(seen, books, made, leader.fleet)
    leader.power.follow(leader.fleet, books, made, snapshot)
    memory = leader.fleet.of(KEY)
    assert memory.held is not None
    assert memory.target is None, "a target without an option ends the pods"
