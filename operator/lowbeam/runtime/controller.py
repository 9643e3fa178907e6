"""The two loops of a leader: the planner decides what should run, the guard keeps the caps in between.

Decides when to look and in which order things happen; what is decided comes from `planning` and `power`.

    planner cycle: 1. look  2. judge meters  3. plan  4. transition  5. adopt (charge before write)  6. wake executor
                   7. explain
    guard tick:    1. look  2. judge meters  3. assess caps  4. choose sheds  5. adopt  6. wake executor  7. report

Invariants: one decision at a time (a lock spans look to adopt); a decision is in the fleet's memory, hence charged,
before anything is written; only the holder of the Lease decides or writes; one bad object never ends a loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime
from typing import Any

import structlog

from lowbeam.api.v1alpha1 import WorkloadMode
from lowbeam.kube import (
    ACCELERATOR_CLASSES,
    INFERENCE_WORKLOADS,
    MODEL_CARDS,
    POWER_CAPS,
    KubeObject,
    Resource,
)
from lowbeam.kube.errors import Deposed
from lowbeam.kube.informer import LONGEST_BACKOFF_SECONDS
from lowbeam.planning import Plan, Snapshot
from lowbeam.planning.plan import sizer_for
from lowbeam.power.trust import LATE_MS
from lowbeam.render import labels
from lowbeam.runtime import metrics
from lowbeam.runtime.board_limits import BoardLimits, Rising
from lowbeam.runtime.clock import Clock
from lowbeam.runtime.demand import LoadWatch, written_observations
from lowbeam.runtime.executor import Executor
from lowbeam.runtime.fleet import Fleet, WorkloadMemory
from lowbeam.runtime.health import Health
from lowbeam.runtime.meters import Books, Meters
from lowbeam.runtime.mirror import Mirror
from lowbeam.runtime.observer import Observer
from lowbeam.runtime.power_control import PowerControl
from lowbeam.runtime.recovery import last_action, recover_fleet
from lowbeam.runtime.replicas import WorkloadKey
from lowbeam.runtime.reporter import Reporter
from lowbeam.runtime.settings import OperatorSettings
from lowbeam.runtime.thinking import advise, explain, snapshot_of, think
from lowbeam.runtime.worklist import Worklist
from lowbeam.runtime.world import Parser, World, build_world
from lowbeam.telemetry import Telemetry

LONGEST_REST_SECONDS = 30.0
"""Between two plans, however long they take."""
RESTORE_WINDOW_MS = 60_000
"""Readings have to be fresh for so long before anything draws more."""

log = structlog.get_logger("lowbeam.controller")


class Controller:
    """Loops and memory of one operator process. `mirror` is set before `run`."""

    mirror: Mirror

    def __init__(
        self,
        *,
        settings: OperatorSettings,
        clock: Clock,
        poller: Telemetry,
        executor: Executor,
        board_limits: BoardLimits,
        reporter: Reporter,
        health: Health,
        leads: Callable[[], bool],
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._poller = poller
        self._executor = executor
        self._board_limits = board_limits
        self._limitable: Mapping[str, int] = {}
        """Nodes on whose boards power limits are planned, and how many boards their agents tell of."""
        self._reporter = reporter
        self._health = health
        self._leads = leads
        self._parser = Parser()
        self._meters = Meters()
        self._world: World | None = None
        self._fleet: Fleet | None = None
        """None while another process leads."""
        self._power = PowerControl(clock, Fleet())
        self._loads = LoadWatch(settings.demand_window_seconds, {})
        self._observer = Observer(reporter, clock)
        self._plan: Plan | None = None
        self._waits_to_hear = False
        """Whether the first plan of a new leader waits for the first answers of its workers."""
        self._planned_seconds = 0.0
        """How long the last plan took."""
        self._deciding = asyncio.Lock()
        self._input = asyncio.Event()
        self._urgent = asyncio.Event()
        self._looked_seconds = 0.0
        self._plan_holds_until: datetime | None = None
        """When the caps are others than in the last plan, by the clock."""
        self._work = Worklist(self._carry_out, clock, lambda: self._looked_seconds)
        self._tasks: asyncio.TaskGroup
        self._reporting: asyncio.Task[None] | None = None
        self._cut_off_since_ms: int | None = None
        self._asks_agents_since_ms: int | None = None
        """Since when this process, which leads, waits for their first answers."""
        self._edited: set[WorkloadKey] = set()
        """Their spec changed after the last plan: their pods may have to, whatever the plan says."""
        self._templates_changed = False
        """So did something that the pods of many workloads are made of."""

    # ---- what wakes the loops

    def input_changed(self, resource: Resource, old: KubeObject | None, new: KubeObject | None) -> None:
        """A spec, a cap, the catalogue or the inventory changed."""
        self._world = None
        if resource == INFERENCE_WORKLOADS:
            metadata = (new or old or {}).get("metadata", {})
            self._edited.add((metadata.get("namespace", ""), metadata.get("name", "")))
        elif resource in {MODEL_CARDS, ACCELERATOR_CLASSES}:
            self._templates_changed = True
        elif resource == POWER_CAPS:  # its watts are in no template, its pool is
            specs = [(cap or {}).get("spec", {}) for cap in (old, new)]
            places = [[spec.get(field) for field in ("scope", "parent", "mode")] for spec in specs]
            self._templates_changed |= places[0] != places[1]
        if resource == POWER_CAPS:
            self._urgent.set()  # a cut cannot wait for the debounce
        self._input.set()

    def others_changed(self) -> None:
        """A pod of somebody else took or left accelerators: the next look counts it."""
        self._world = None

    def child_changed(self, obj: KubeObject) -> None:
        """A Deployment, Service or pod of ours changed: the executor may have a next step."""
        self._world = None
        metadata = obj.get("metadata", {})
        label = metadata.get("labels", {}).get(labels.WORKLOAD, "")
        self._work.add((metadata.get("namespace", ""), label))

    async def run(self) -> None:
        """Run the loops until cancelled."""
        await self.mirror.wait_synced()
        async with asyncio.TaskGroup() as group:
            self._tasks = group
            group.create_task(self._planner_loop(), name="planner")
            group.create_task(self._guard_loop(), name="guard")
            group.create_task(self._work.run(), name="executor")
            group.create_task(self._board_limits.run(self._decided), name="board limits")

    # ---- loops

    async def _planner_loop(self) -> None:
        while True:
            async with self._health.working("planner"):
                await self._guarded("planner", self._as_leader(self._plan_once))
            await self._wait_for_input()

    async def _guard_loop(self) -> None:
        while True:
            self._health.beat("guard")
            await self._guarded("guard", self._as_leader(self._guard_once))
            await self._clock.sleep(self._settings.guard_seconds)

    async def _as_leader(self, cycle: Callable[[Fleet], Coroutine[Any, Any, None]]) -> None:
        if fleet := await self._lead():
            await cycle(fleet)

    async def _guarded(self, loop: str, cycle: Coroutine[Any, Any, None]) -> None:
        """A bug in one cycle must not end the loops that keep the caps: say it, and try again at the next."""
        try:
            await cycle
        except Exception:
            log.exception("cycle failed and is tried again", loop=loop)

    async def _wait_for_input(self) -> None:
        """Until something changed (debounced, unless urgent), the clock or a held restore asks, or the time is over."""
        until, self._plan_holds_until = self._plan_holds_until, None  # once: a cycle that fails is not tried at once
        if not self._urgent.is_set():
            # A big fleet takes long to plan: rest as long, so that the other loops get half of the time at least.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(self._planned_seconds, LONGEST_REST_SECONDS, self._seconds_to(until))):
                    await self._urgent.wait()
        seconds = min(self._settings.planner_seconds, self._seconds_to(until))
        if self._fleet is not None and (retry_at_ms := self._power.retry_at_ms(self._fleet)) is not None:
            wait_ms = retry_at_ms - self._clock.monotonic_ms()
            seconds = min(seconds, max(self._settings.guard_seconds, wait_ms / 1000))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._input.wait()
            if not self._urgent.is_set():
                async with asyncio.timeout(self._settings.debounce_seconds):
                    await self._urgent.wait()
        self._input.clear()
        self._urgent.clear()

    def _seconds_to(self, moment: datetime | None) -> float:
        return math.inf if moment is None else max(0.0, (moment - self._clock.now()).total_seconds())

    async def _lead(self) -> Fleet | None:
        """The memory of a leader, None for everybody else; a new leader reads it from the objects first."""
        leads = self._leads() and not self._cut_off()
        self._health.is_leader = leads
        metrics.leader.set(leads)
        if not leads:
            self._step_down()
        elif self._fleet is None:
            async with self._deciding:  # both loops come here, one takes over
                if self._fleet is None and self._has_heard_agents():
                    await self._take_over()
        return self._fleet

    def _step_down(self) -> None:
        if self._fleet is not None:
            if self._reporting is not None:
                self._reporting.cancel()
            self._reporter.forget((), ())  # its series would stand beside the successor's
        self._fleet = self._world = self._asks_agents_since_ms = None

    def _has_heard_agents(self) -> bool:
        """Whether every node agent has answered, or had the time for it. What runs under power limits is remembered as
        that only where they may be set: without them the first plan would dim what fits."""
        self._look_at_agents()
        now_ms = self._clock.monotonic_ms()
        if self._asks_agents_since_ms is None:
            self._asks_agents_since_ms = now_ms
        return self._board_limits.has_heard() or now_ms - self._asks_agents_since_ms >= LATE_MS

    async def _take_over(self) -> None:
        """Remember what runs. In a thread, for a large fleet takes seconds and the Lease is to be renewed meanwhile."""
        self._world = None  # statuses that another leader wrote do not wake anybody
        objects = self.mirror.objects()
        self._loads = LoadWatch(self._settings.demand_window_seconds, written_observations(objects.workloads))
        world = self._look()
        sizer = sizer_for(self._snapshot(world, Fleet()))
        fleet = await asyncio.to_thread(recover_fleet, world, sizer, self._clock.now())
        if not self._leads():
            return  # not any more: the next look says so
        log.info("leading", workloads=len(fleet.workloads), recovered=len(fleet.targets()))
        last = {cap["metadata"]["name"]: last_action(cap.get("status", {})) for cap in objects.power_caps}
        for memory in fleet.workloads.values():
            memory.rises_from_ms = self._clock.monotonic_ms() + RESTORE_WINDOW_MS
        self._fleet = fleet
        self._observer = Observer(self._reporter, self._clock)
        self._power = PowerControl(self._clock, fleet, {cap: done for cap, done in last.items() if done})
        self._plan = None
        self._work.add(*self._look().requirements)
        self._urgent.set()  # nothing is written before the first plan, not even a shed: it must not wait its turn
        self._input.set()

    def _cut_off(self) -> bool:
        """Whether a process that does not lead yet has stale mirrors: what another leader decided might be unseen.

        Bounded by the time within which every mirror is tried again, so that one kind that stays away holds up nothing.
        """
        if self._fleet is not None or not self.mirror.unreachable():
            self._cut_off_since_ms = None
            return False
        now_ms = self._clock.monotonic_ms()
        if self._cut_off_since_ms is None:
            self._cut_off_since_ms = now_ms
        return now_ms - self._cut_off_since_ms <= (LONGEST_BACKOFF_SECONDS + 1) * 1000

    # ---- one cycle each

    async def _plan_once(self, fleet: Fleet) -> None:
        with metrics.planner_seconds.time():
            async with self._deciding:
                if self.mirror.never_seen():
                    return  # a plan without caps, nodes or pods would be a plan for another cluster
                if self._plan is None:
                    endpoints = self._executor.endpoints(self._look())
                    self._waits_to_hear = not self._observer.has_heard(endpoints, self._poller)
                    if self._waits_to_hear:
                        return  # by worst cases less fits than runs
                self._input.clear()
                self._urgent.clear()  # what was said until now is in this look
                world = planned = self._look()
                self._plan_holds_until = world.outlook.holds_until
                everything, noticed = self._templates_changed, frozenset(self._edited)
                edited = set(world.requirements) if everything else noticed & set(world.requirements)
                fleet.forget_all_but(set(world.raw_workloads))
                generations = {key: raw["metadata"]["generation"] for key, raw in world.raw_workloads.items()}
                snapshot = self._snapshot(world, fleet, self._read_meters(world, fleet))
            # Pure and possibly long: in a thread and outside the lock, so that the guard goes on meanwhile.
            began_ms = self._clock.monotonic_ms()
            answer = await think(snapshot)
            async with self._deciding:
                if self._fleet is not fleet:
                    return  # not the leader any longer, or again and with another memory
                # What happened meanwhile counts: caps, pods and what the guard shed are those of now.
                world, self._plan = self._look(), answer
                books = self._read_meters(world, fleet)
                self._power.look(world, books, answer, fleet)
                changed = self._power.follow(fleet, books, answer, self._snapshot(world, fleet, books))
                there = generations.keys() & world.raw_workloads.keys() - set(planned.advised())
                edited |= {key for key in there if fleet.of(key).planned(generations[key])}
        self._work.supersede(*changed, *self._power.hurried())
        self._board_limits.hurry()
        self._reporter.planned(answer, world.raw_workloads, fleet, changed)
        # Not before: a plan that fails must not swallow an edit. The executor renders what is there by then.
        self._work.add(*edited)
        self._edited -= noticed
        self._templates_changed &= not everything

        def interrupted() -> bool:
            return self._urgent.is_set() or self._fleet is not fleet

        await advise(planned, self._look, fleet, generations, interrupted)
        await explain(snapshot, answer.choices, fleet, interrupted)
        self._planned_seconds = (self._clock.monotonic_ms() - began_ms) / 1000

    async def _guard_once(self, fleet: Fleet) -> None:
        with metrics.guard_seconds.time():
            async with self._deciding:
                self._look_at_agents()
                world = self._look()
                endpoints = self._executor.endpoints(world)
                self._poller.set_endpoints(endpoints)
                books = self._read_meters(world, fleet)
                heard = self._observer.has_heard(endpoints, self._poller)
                changed: set[WorkloadKey] = set()
                if heard:  # before, worst cases would be taken for an emergency
                    changed = self._power.guard(world, fleet, books, self._plan, self._snapshot(world, fleet))
                self._work.supersede(*changed, *self._power.hurried())  # whatever fails after it
                self._board_limits.hurry()
                self._look_at_loads(world, fleet, books)
        self._reporter.decided(world.raw_workloads, fleet, changed)
        for key, message in self._power.ineffective():
            if key in world.raw_workloads:
                self._reporter.ineffective(world.raw_workloads[key], message)
        self._work.add(*self._executor.unconfirmed(world, fleet, self._poller.samples()))
        if heard and self._waits_to_hear:
            self._waits_to_hear = False
            self._urgent.set()
            self._input.set()
        idle = self._reporting is None or self._reporting.done()  # a slow API server must not slow the guard down
        if idle and heard and (self._plan is not None or self.mirror.never_seen() or self._observer.misses_a_plan()):
            report = self._observer.report(
                world,
                fleet,
                books,
                loads=self._loads,
                last_plan=self._plan,
                power=self._power,
                mirror=self.mirror,
                poller=self._poller,
            )
            self._reporting = self._tasks.create_task(self._guarded("report", report), name="report")

    async def _carry_out(self, key: WorkloadKey) -> bool:
        """One pass over one workload's children; False when a write was refused."""
        fleet, world = self._fleet, self._look()
        key = world.key_of(key)
        if fleet is None or key not in world.requirements:
            return True
        if not self._leads():
            return False  # perhaps for a moment: its memory goes when a loop sees it, and then nothing is left to do
        if self.mirror.never_seen() or self._plan is None:
            return False  # a new leader writes nothing before it has planned: what it remembers may be half a decision
        memory = fleet.of(key)
        if memory.target is None or world.workloads[key].spec.mode is not WorkloadMode.ENFORCE:
            return True
        decided = memory.decision, memory.planned_generation
        may_rise = self._sees_enough(world, memory)
        outcome = await self._executor.carry_out(world, key, memory.target, self._poller.samples(), may_rise=may_rise)
        if decided == (memory.decision, memory.planned_generation):  # else decided anew: the next pass carries that out
            memory.waiting_for = outcome.waiting_for
        if outcome.error is not None and str(outcome.error) != str(memory.write_error):
            log.warning("write refused, tried again", workload="/".join(key), error=str(outcome.error))
        memory.write_error = None if isinstance(outcome.error, Deposed) else outcome.error  # that is nobody's to mend
        return outcome.through

    def _decided(self) -> tuple[World, Fleet, Rising] | None:
        """What the boards are to have, as long as this process may write, and whose limits may rise: as a batch limit
        might."""
        if self._fleet is None or self._plan is None or not self._leads() or self.mirror.never_seen():
            return None
        world, fleet, samples = self._look(), self._fleet, self._poller.samples()

        def rising(key: WorkloadKey) -> bool:
            memory = fleet.of(key)
            option = memory.target.option if memory.target is not None else None
            if option is None or not self._sees_enough(world, memory):
                return False
            return self._executor.may_draw_more(world, key, option, samples)

        return world, fleet, rising

    def _sees_enough(self, world: World, memory: WorkloadMemory) -> bool:
        return not world.caps.caps or self._clock.monotonic_ms() >= memory.rises_from_ms

    # ---- parts of a cycle

    def _look(self) -> World:
        """The world as the informers hold it; built anew only after a change, one that the clock makes included."""
        now = self._clock.now()
        if self._world is None or not self._world.holds_at(now):
            began_ms = self._clock.monotonic_ms()
            self._world = build_world(
                self.mirror.objects(), now, self._parser, self._loads.observations(), self._limitable
            )
            self._looked_seconds = (self._clock.monotonic_ms() - began_ms) / 1000
        return self._world

    def _look_at_agents(self) -> None:
        self._board_limits.set_agents(self.mirror.agents(), self.mirror.limiting_nodes())
        if (limitable := self._board_limits.nodes()) != self._limitable:
            self._limitable, self._world = limitable, None
            self._input.set()

    def _read_meters(self, world: World, fleet: Fleet) -> Books:
        return self._meters.read(world, fleet.options(), self._poller.samples(), self._clock.monotonic_ms())

    def _snapshot(self, world: World, fleet: Fleet, books: Books | None = None) -> Snapshot:
        return snapshot_of(world, fleet, self._power.pinned, books.charges if books is not None else ())

    def _look_at_loads(self, world: World, fleet: Fleet, books: Books) -> None:
        """Take in what was offered and drawn since the last look; another load to size for is a new input."""
        samples, now_ms = self._poller.samples(), self._clock.monotonic_ms()
        for key in sorted(self._loads.look(world, fleet, samples, books.verdicts, now_ms)):
            self._world = None
            self._input.set()
            log.debug("load or draw is another than before", workload="/".join(key))
