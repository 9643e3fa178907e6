"""The loops outlive whatever a cycle raises, a leader's first one included."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any
from unittest.mock import AsyncMock, MagicMock

import pytest
from structlog.testing import capture_logs

from lowbeam.api.v1alpha1 import WorkloadMode
from lowbeam.kube import INFERENCE_WORKLOADS, POWER_CAPS
from lowbeam.kube.errors import Deposed, Request
from lowbeam.planning import Plan, Snapshot, plan
from lowbeam.planning.committed import Target
from lowbeam.power.trust import LATE_MS
from lowbeam.runtime.controller import RESTORE_WINDOW_MS, Controller
from lowbeam.runtime.executor import Outcome
from lowbeam.runtime.fleet import NOT_CARRIED_OUT, Fleet, WorkloadMemory
from lowbeam.runtime.health import Health
from lowbeam.runtime.observer import FIRST_PLAN_MS
from lowbeam.runtime.recovery import recover_fleet
from lowbeam.runtime.replicas import WorkloadKey
from lowbeam.runtime.settings import OperatorSettings
from lowbeam.runtime.world import Objects, Parser, build_world
from lowbeam.telemetry import AgentEndpoint, WorkerEndpoint
from tests.fakes.agents import no_agents
from tests.fakes.clock import VirtualClock
from tests.fakes.power_fleet import option
from tests.raw_objects import TODAY, iw, node, pcap, replica


class MirrorWithABug:
    """Nothing is in it, and for a while it cannot even say that."""

    def __init__(self) -> None:
        self.broken = True

    async def wait_synced(self) -> None:
        pass

    def objects(self) -> Objects:
        if self.broken:
            raise ValueError("no one thought of this object")
        return Objects()

    def never_seen(self) -> list[str]:
        return ["nodes"]  # enough for this test: a leader that would go on to plan

    def unreachable(self) -> bool:
        return False

    def agents(self) -> list[AgentEndpoint]:
        return []

    def limiting_nodes(self) -> set[str]:
        return set()


def a_controller(clock: VirtualClock) -> Controller:
    parts: dict[str, Any] = {name: MagicMock() for name in ("poller", "executor", "reporter")}
    settings = OperatorSettings(identity="me")
    parts |= {"health": Health(clock), "board_limits": no_agents(clock)}
    return Controller(settings=settings, clock=clock, leads=lambda: True, **parts)


@pytest.mark.parametrize(
    ("change", "renders"),
    [({"watts": 2}, False), ({"parent": "row"}, True), ({"mode": "Observe"}, True), ({"scope": {"cluster": {}}}, True)],
)
def test_templates_follow_what_decides_whose_nodes_are_whose(change: dict[str, Any], renders: bool) -> None:
    controller = a_controller(VirtualClock())
    old = {"metadata": {"name": "rack"}, "spec": {"watts": 1, "scope": {"nodePool": {"nodeSelector": {"rack": "7"}}}}}
    controller.input_changed(POWER_CAPS, old, {**old, "spec": {**old["spec"], **change}})
    assert controller._templates_changed is renders


async def test_a_leader_that_cannot_read_its_world_tries_again() -> None:
    clock = VirtualClock()
    controller = a_controller(clock)
    mirror = MirrorWithABug()
    controller.mirror = mirror  # type: ignore[assignment]
    with capture_logs() as said:  # written out, the traceback is broken into lines of the terminal's width
        running = asyncio.create_task(controller.run())
        await clock.advance(5)
        assert not running.done()
        assert {it["event"] for it in said} == {"cycle failed and is tried again"}
        assert all(it["exc_info"] for it in said)
        mirror.broken = False
        await clock.advance(5)
        assert not running.done()
        assert "leading" in [it["event"] for it in said]
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


SEARCH = ("shop", "search")


def a_leader_of(key: WorkloadKey) -> tuple[Controller, WorkloadMemory]:
    """It has planned, and decided something for this workload."""
    controller, fleet, world = a_controller(VirtualClock()), Fleet(), MagicMock()
    world.key_of.return_value, world.requirements = key, {key: None}
    world.workloads = {key: MagicMock()}
    world.workloads[key].spec.mode = WorkloadMode.ENFORCE
    controller._world, controller._fleet, controller._plan = world, fleet, MagicMock()
    controller.mirror = MagicMock()
    controller.mirror.never_seen.return_value = []
    fleet.of(key).target = MagicMock()
    return controller, fleet.of(key)


@pytest.mark.parametrize("decides_anew", [lambda it: it.planned(2), lambda it: setattr(it, "decision", MagicMock())])
async def test_a_pass_of_before_a_decision_does_not_say_that_it_is_carried_out(
    decides_anew: Callable[[WorkloadMemory], object],
) -> None:
    controller, memory = a_leader_of(SEARCH)
    memory.planned(1)
    meanwhile: list[Callable[[WorkloadMemory], object]] = [decides_anew]

    async def carry_out(*_: object, **__: object) -> Outcome:
        while meanwhile:
            meanwhile.pop()(memory)
        return Outcome()

    controller._executor.carry_out = carry_out  # type: ignore[method-assign]
    await controller._carry_out(SEARCH)
    assert memory.waiting_for == NOT_CARRIED_OUT
    await controller._carry_out(SEARCH)
    assert not memory.waiting_for


class MirrorOfOneWorkload:
    """Beside a node; `generation` is the spec that it holds now."""

    generation = 1

    def agents(self) -> list[AgentEndpoint]:
        return []

    def limiting_nodes(self) -> set[str]:
        return set()

    def objects(self) -> Objects:
        raw = iw("chat", priority=self.generation)
        raw["metadata"] |= {"generation": self.generation, "resourceVersion": str(self.generation)}
        return Objects(workloads=(raw,), nodes=(node("n1"),))

    def never_seen(self) -> list[str]:
        return []

    def unreachable(self) -> bool:
        return False


async def test_a_new_leader_neither_plans_nor_sheds_before_its_workers_had_the_time_to_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would count every worker with its highest batch limit, and end what fits."""
    clock = VirtualClock()
    controller = a_controller(clock)
    controller.mirror = MirrorOfOneWorkload()  # type: ignore[assignment]
    endpoint = WorkerEndpoint("uid", "team", "pod", "http://10.0.0.1:9465")
    controller._executor.endpoints.return_value = [endpoint]  # type: ignore[attr-defined]
    controller._poller.samples.return_value = controller._poller.errors.return_value = {}  # type: ignore[attr-defined]
    fleet = await controller._lead()
    assert fleet is not None
    guard = MagicMock(return_value=set())
    monkeypatch.setattr(controller._power, "guard", guard)
    controller._reporting = MagicMock()
    controller._reporting.done.return_value = False

    await controller._plan_once(fleet)
    await controller._guard_once(fleet)
    assert (controller._plan, guard.called) == (None, False)

    controller._urgent.clear()
    controller._input.clear()
    await clock.advance(LATE_MS / 1000)
    await controller._guard_once(fleet)
    assert guard.called
    assert controller._urgent.is_set(), "the planner need not wait its turn"
    assert controller._input.is_set()
    await controller._plan_once(fleet)
    assert controller._plan is not None


async def test_a_new_leader_remembers_what_runs_when_it_knows_where_power_limits_may_be_set() -> None:
    """Else it would remember limited boards as boards without a limit, and the first plan would dim what fits."""
    clock = VirtualClock()
    controller = a_controller(clock)
    controller.mirror = MirrorOfOneWorkload()  # type: ignore[assignment]
    limits = controller._board_limits = MagicMock()
    limits.has_heard.return_value, limits.nodes.return_value = False, {}
    assert await controller._lead() is None
    limits.has_heard.return_value, limits.nodes.return_value = True, {"n1": 4}
    assert await controller._lead() is not None
    assert all(row.board_limits for row in controller._look().inventory)

    controller._step_down()
    limits.has_heard.return_value = False
    assert await controller._lead() is None, "and again when it comes to lead again"
    await clock.advance(LATE_MS / 1000)
    assert await controller._lead() is not None, "it does not wait for ever"


async def test_a_new_leader_writes_no_status_before_its_first_plan_has_been_written() -> None:
    """A successor that finds the new status beside old Deployments does not know what serves."""
    clock = VirtualClock()
    controller = a_controller(clock)
    controller.mirror = MirrorOfOneWorkload()  # type: ignore[assignment]
    controller._executor.endpoints.return_value = []  # type: ignore[attr-defined]
    fleet = await controller._lead()
    assert fleet is not None
    report = controller._observer.report = MagicMock()  # type: ignore[method-assign]
    controller._guarded = controller._tasks = MagicMock()  # type: ignore[method-assign]
    await controller._guard_once(fleet)
    assert not report.called
    await controller._plan_once(fleet)
    await controller._guard_once(fleet)
    assert report.called

    report.reset_mock()
    controller._plan = None
    await controller._guard_once(fleet)
    assert not report.called
    await clock.advance(FIRST_PLAN_MS / 1000)
    await controller._guard_once(fleet)
    assert report.called, "a plan that does not come keeps nothing secret"


async def test_an_edit_that_comes_while_a_plan_is_made_is_carried_out_after_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    controller, mirror = a_controller(VirtualClock()), MirrorOfOneWorkload()
    controller.mirror = mirror  # type: ignore[assignment]
    to_carry_out: list[WorkloadKey] = []
    monkeypatch.setattr(controller._work, "add", lambda *keys: to_carry_out.extend(keys))
    edits: list[int] = []

    def edit(generation: int) -> None:
        (before,) = mirror.objects().workloads
        mirror.generation = generation
        controller.input_changed(INFERENCE_WORKLOADS, before, mirror.objects().workloads[0])

    def plan_during_edits(snapshot: Snapshot, *, explain: bool = True) -> Plan:
        while edits:
            edit(edits.pop())
        return plan(snapshot, explain=explain)

    monkeypatch.setattr("lowbeam.runtime.thinking.plan", plan_during_edits)
    fleet = await controller._lead()
    assert fleet is not None
    await controller._plan_once(fleet)
    edit(2)
    edits.append(3)
    await controller._plan_once(fleet)
    to_carry_out.clear()
    await controller._plan_once(fleet)
    assert set(to_carry_out) == {("team", "chat")}
    to_carry_out.clear()
    await controller._plan_once(fleet)
    assert to_carry_out == [], "nothing is new"
    choice = fleet.of(("team", "chat")).choice
    assert choice is not None
    assert choice.alternatives, "explained after it was decided"


async def test_a_write_that_a_moment_without_the_lease_refused_is_made_again() -> None:
    controller, memory = a_leader_of(SEARCH)
    deposed = Outcome(error=Deposed(Request("patch", "deployments", "shop/search"), "does not lead"))
    controller._executor.carry_out = AsyncMock(side_effect=[deposed, Outcome()])  # type: ignore[method-assign]
    assert await controller._carry_out(SEARCH) is False
    assert memory.write_error is None, "nobody has to change anything"
    controller._leads = lambda: False
    assert await controller._carry_out(SEARCH) is False
    controller._leads = lambda: True
    assert await controller._carry_out(SEARCH) is True
    controller._leads, controller._fleet = (lambda: False), None
    assert await controller._carry_out(SEARCH) is True


def test_a_plan_and_a_shed_know_what_runs_by_the_pool_that_its_nodes_are_in_now() -> None:
    key, fleet = ("team", "chat"), Fleet()
    rows = pcap("row-a", scope={"nodePool": {"nodeSelector": {"row": "a"}}})
    objects = Objects(workloads=(iw("chat"),), nodes=(node("n1", row="a"),), power_caps=(rows,))
    world = replace(build_world(objects, TODAY, Parser()), replicas={key: [replica(node="n1")]})
    fleet.of(key).target = Target(replace(option(), accelerator_class="l4"))
    (state,) = a_controller(VirtualClock())._snapshot(world, fleet).workloads
    assert state.running == replace(option(pool="row-a"), accelerator_class="l4")


@pytest.mark.parametrize("still_leads", [True, False])
async def test_both_loops_take_over_once_without_holding_up_the_lease_and_not_after_it_is_lost(
    monkeypatch: pytest.MonkeyPatch, still_leads: bool
) -> None:
    controller, goes_on, calls = a_controller(VirtualClock()), threading.Event(), []
    controller.mirror = MirrorOfOneWorkload()  # type: ignore[assignment]

    def recover_slowly(*world: Any) -> Fleet:
        calls.append(goes_on.wait(10))
        return recover_fleet(*world)

    monkeypatch.setattr("lowbeam.runtime.controller.recover_fleet", recover_slowly)
    loops = [asyncio.create_task(controller._lead()) for _ in range(2)]
    await asyncio.sleep(0.01)  # so does whoever renews the Lease
    assert not any(loop.done() for loop in loops)
    controller._leads = lambda: still_leads
    goes_on.set()
    first, second = await asyncio.gather(*loops)
    assert first is second
    assert (first is not None) == still_leads
    assert calls == [True] * (1 if still_leads else 2)


async def test_what_was_shed_is_carried_out_whatever_fails_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    controller = a_controller(VirtualClock())
    controller.mirror = MirrorOfOneWorkload()  # type: ignore[assignment]
    fleet = await controller._lead()
    assert fleet is not None
    handed: list[WorkloadKey] = []
    monkeypatch.setattr(controller._work, "supersede", lambda *keys: handed.extend(keys))
    monkeypatch.setattr(controller._power, "guard", lambda *_: {SEARCH})
    monkeypatch.setattr(controller, "_look_at_loads", MagicMock(side_effect=ZeroDivisionError))
    with pytest.raises(ZeroDivisionError):
        await controller._guard_once(fleet)
    assert handed == [SEARCH]


async def test_an_opt_in_runs_out_with_its_day_though_nothing_else_changes() -> None:
    clock = VirtualClock()
    controller, mirror = a_controller(clock), MirrorOfOneWorkload()
    controller.mirror = mirror  # type: ignore[assignment]
    world = controller._look()
    assert controller._look() is world
    await clock.advance(24 * 3600)
    assert controller._look() is not world


@pytest.mark.parametrize("capped", [True, False])
async def test_a_new_leader_lets_no_batch_limit_rise_under_a_cap_before_a_minute_of_readings(capped: bool) -> None:
    clock = VirtualClock()
    controller, memory = a_leader_of(SEARCH)
    controller._clock = clock
    assert controller._world is not None
    controller._world.caps.caps = ("cap",) if capped else ()  # type: ignore[misc]
    memory.rises_from_ms = clock.monotonic_ms() + RESTORE_WINDOW_MS
    may_rise: list[bool] = []

    async def carry_out(*_: object, **how: bool) -> Outcome:
        may_rise.append(how["may_rise"])
        return Outcome()

    controller._executor.carry_out = carry_out  # type: ignore[method-assign]
    await controller._carry_out(SEARCH)
    await clock.advance(61)
    await controller._carry_out(SEARCH)
    assert may_rise == [not capped, True]


async def test_a_leader_that_takes_over_says_from_when_batch_limits_may_rise() -> None:
    controller = a_controller(VirtualClock())
    controller.mirror = MirrorOfOneWorkload()  # type: ignore[assignment]
    fleet = await controller._lead()
    assert fleet is not None
    assert fleet.of(("team", "chat")).rises_from_ms == controller._clock.monotonic_ms() + RESTORE_WINDOW_MS


async def test_a_loop_that_is_busy_for_minutes_is_alive_and_one_that_is_stuck_is_not() -> None:
    clock = VirtualClock()
    health = Health(clock)
    async with health.working("planner"):
        await clock.advance(600)
        assert health.silent() == []
        await clock.advance(600)
        assert health.silent() == ["planner"]


async def test_a_former_leader_that_stands_by_is_alive() -> None:
    clock = VirtualClock()
    health = Health(clock)
    health.beat("planner")  # when it led
    for _ in range(10):
        async with health.working("planner"):
            pass  # a standby's cycle asks who leads and never waits
        await clock.advance(60)
        assert health.silent() == []


async def test_the_planner_may_take_minutes_and_rests_no_longer_than_half_a_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = VirtualClock()
    controller, ages = a_controller(clock), []

    async def plan_slowly(_: object) -> None:
        await clock.advance(600)
        ages.append(controller._health.planner_age_seconds())

    monkeypatch.setattr(controller, "_as_leader", plan_slowly)
    monkeypatch.setattr(controller, "_wait_for_input", AsyncMock(side_effect=asyncio.CancelledError))
    with pytest.raises(asyncio.CancelledError):
        await controller._planner_loop()
    assert ages == [0.0], "it beats while it plans"

    rested = a_controller(clock)
    rested._settings = OperatorSettings(identity="me", planner_seconds=0.01)
    rested._planned_seconds = 600.0
    monkeypatch.setattr("lowbeam.runtime.controller.LONGEST_REST_SECONDS", 0.01)
    await asyncio.wait_for(rested._wait_for_input(), 10)


async def test_a_plan_that_decides_anew_ends_the_pass_of_the_decision_before(monkeypatch: pytest.MonkeyPatch) -> None:
    controller = a_controller(VirtualClock())
    controller.mirror = MirrorOfOneWorkload()  # type: ignore[assignment]
    fleet = await controller._lead()
    assert fleet is not None
    superseded: list[WorkloadKey] = []
    monkeypatch.setattr(controller._work, "supersede", lambda *keys: superseded.extend(keys))
    await controller._plan_once(fleet)
    assert superseded == [("team", "chat")]
    assert fleet.of(("team", "chat")).rises_from_ms == 0, "decided by this leader: nothing unknown is left of it"
    await controller._plan_once(fleet)
    assert superseded == [("team", "chat")], "the same again ends no pass"


async def test_the_planner_wakes_when_the_clock_changes_a_cap_and_only_once_for_it() -> None:
    controller = a_controller(VirtualClock())
    controller._plan_holds_until = controller._clock.now() + timedelta(seconds=0.05)
    async with asyncio.timeout(5):
        await controller._wait_for_input()
    with pytest.raises(TimeoutError):  # a cycle that did not plan is not repeated at once
        async with asyncio.timeout(0.3):
            await controller._wait_for_input()


async def test_a_cap_that_changed_during_a_plan_is_planned_with_at_once() -> None:
    clock = VirtualClock()
    controller, mirror = a_controller(clock), MirrorOfOneWorkload()
    event = {"name": "grid-1", "end": "2026-11-21T10:00:00Z", "percent": 50}
    soon = clock.now() + timedelta(seconds=200)
    cap = pcap("c", events=[{**event, "start": soon.strftime("%Y-%m-%dT%H:%M:%SZ")}])
    objects = replace(mirror.objects(), power_caps=(cap,))
    mirror.objects = lambda: objects  # type: ignore[method-assign]
    controller.mirror = mirror  # type: ignore[assignment]
    fleet = await controller._lead()
    assert fleet is not None
    world = controller._look()
    await controller._plan_once(fleet)
    assert controller._plan_holds_until == soon - timedelta(seconds=195)
    await clock.advance(6)
    assert controller._look().caps.enforced() != world.caps.enforced(), "the guard's look sees it first"
    async with asyncio.timeout(5):
        await controller._wait_for_input()
