"""Runs a scenario: the operator's own planning and power code against a virtual cluster, on a virtual clock.

Decides the order of a second and nothing else:

    1. happen    the scenario's events of this second
    2. advance   machines draw, meters are read
    3. plan      every 15 s, and a second after something changed: plan, and move towards it
    4. guard     every 2 s: look at every cap, shed what is still too much
    5. carry out what was decided (the executor's part)

Never reads a real clock; the same file gives the same report.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

from lowbeam.api.nearest import nearest
from lowbeam.api.v1alpha1 import WorkloadMode
from lowbeam.catalog import load_builtin
from lowbeam.errors import BadInput
from lowbeam.planning import Plan, Snapshot, WorkloadState, choose_sheds, plan, size_all
from lowbeam.planning.committed import Order, Target, committed_milliwatts, decided_milliwatts, placement_of, taken_up
from lowbeam.planning.moves import settle_seconds
from lowbeam.planning.promises import promises_of, taken_back_by
from lowbeam.planning.snapshot import Inventory
from lowbeam.planning.transition import (
    Transition,
    next_targets,
    orders_of,
    shed_targets,
)
from lowbeam.power.caps import Cap, CapTree
from lowbeam.power.from_spec import cap_of_spec, timetable_of_spec
from lowbeam.power.gate import GateState
from lowbeam.power.ledger import Reading, ReplicaCharge
from lowbeam.power.outlook import Outlook, outlook
from lowbeam.power.schedule import Timetable
from lowbeam.power.trust import MeterHistory, MeterLimits, judge
from lowbeam.power.watch import Watch, WatchState, watch
from lowbeam.simulation.cluster import Key, VirtualCluster, Worker
from lowbeam.simulation.observer import Observer
from lowbeam.simulation.report import Report
from lowbeam.simulation.scenario import CapEntry, Event, Scenario, WorkloadEntry, load_scenario
from lowbeam.sizing.requirements import Refusal, Requirements, requirements_of

STEP_MS = 1_000
GUARD_MS = 2_000
PLANNER_MS = 15_000
DEBOUNCE_MS = 1_000
OBSERVED_MS = 900_000


def run_scenario(source: str | Path | Scenario) -> Report:
    """Run a file or a value; `BadInput` when it is no scenario."""
    scenario = source if isinstance(source, Scenario) else load_scenario(source)
    try:
        run = _Run(scenario)
    except BadInput as error:
        raise error if isinstance(source, Scenario) else BadInput(f"{source}: {error}") from error
    for second in range(scenario.seconds + 1):
        run.second(second * STEP_MS)
    return run.observer.report()


@dataclass(slots=True)
class _Memory:
    """What the operator holds in memory, and loses with a restart."""

    watch_state: WatchState = field(default_factory=WatchState)
    gate: GateState = field(default_factory=GateState)
    histories: dict[str, MeterHistory] = field(default_factory=dict)
    highest: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    """Per pod: (time, milliwatts) of the last 15 minutes under the limits it has now, falling."""
    limits: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Per pod: batch limit and power limit of its boards."""
    plan: Plan | None = None


class _Run:
    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._catalogue = load_builtin()
        for entry in scenario.inventory:
            if entry.accelerator_class not in self._catalogue.accelerator_classes:
                known = sorted(self._catalogue.accelerator_classes)
                near = nearest(entry.accelerator_class, known, cutoff=0.5)
                guess = f"did you mean {near[0]}? " if near else ""
                raise BadInput(
                    f'inventory: no accelerator class "{entry.accelerator_class}"; {guess}known: {", ".join(known)}'
                )
        self._inventory = tuple(
            Inventory(e.pool, e.accelerator_class, e.accelerators, e.largest_node, board_limits=e.board_limits)
            for e in scenario.inventory
        )
        self._caps = {entry.name: _cap_of(entry, scenario.workloads) for entry in scenario.caps}
        self._timetables = {entry.name: _timetable_of(entry) for entry in scenario.caps}
        self._outlook: Outlook | None = None
        self._needs = {(w.namespace, w.name): self._requirements(w) for w in scenario.workloads}
        self._declared = {key: needs.demand for key, needs in self._needs.items()}
        self._acted_on = {(w.namespace, w.name) for w in scenario.workloads if w.spec.mode is WorkloadMode.ENFORCE}
        self._cluster = VirtualCluster(self._catalogue, self._inventory, scenario.pace, scenario.seed)
        self._targets: dict[Key, Target] = {}
        self._memory = _Memory()
        self._changed_ms: int | None = 0
        self.observer = Observer(scenario)

    def second(self, now_ms: int) -> None:
        """One second of virtual time."""
        for event in self._scenario.events:
            if event.at * 1000 == now_ms:
                self._happen(event, now_ms)
        self._cluster.advance(self._needs, now_ms, STEP_MS)
        caps_change = self._look_at_caps(now_ms)
        debounced = self._changed_ms is not None and now_ms >= self._changed_ms + DEBOUNCE_MS
        is_plan_due = now_ms % PLANNER_MS == 0 or debounced or caps_change
        if now_ms % GUARD_MS == 0 or is_plan_due:
            tree, readings, charges = self._tree(), self._readings(now_ms), self._charges()
            if is_plan_due:
                self._changed_ms = None
                self._follow_plan(tree, self._look(tree, readings, charges, now_ms), charges, now_ms)
            self._guard(tree, self._look(tree, readings, charges, now_ms), charges, now_ms)
        self._cluster.carry_out(self._targets, self._needs, now_ms)
        self.observer.saw(now_ms, self._tree(), self._drawn_by_key_and_pool(), self._targets)

    # ---- 1. what happens

    def _happen(self, event: Event, now_ms: int) -> None:
        if event.cap and event.delete:
            self._caps.pop(event.cap, None)
            self._outlook = None
        elif event.cap:
            entry = next(e for e in self._scenario.caps if e.name == event.cap)
            watts = max(1, entry.spec.watts * (event.percent or 100) // 100)
            before = self._timetables[event.cap].watts if event.cap in self._caps else 0
            self._caps[event.cap] = _cap_of(entry, self._scenario.workloads)
            self._timetables[event.cap] = _timetable_of(entry, watts)
            self._outlook = None
            if watts < before:
                self.observer.tightened(now_ms)
        elif event.workload:
            namespace, _, name = event.workload.partition("/")
            declared = self._declared[namespace, name]
            rate = declared.requests_per_second_milli * (event.load_percent or 0) // 100
            demand = replace(declared, requests_per_second_milli=rate, basis="Observed")
            self._needs[namespace, name] = replace(self._needs[namespace, name], demand=demand)
        elif event.telemetry_lost_percent is not None:
            self._cluster.lose_telemetry(event.telemetry_lost_percent)
            return
        elif event.telemetry_delay_seconds is not None:
            self._cluster.delay_ms = event.telemetry_delay_seconds * 1000
            return
        else:
            self._restart(now_ms)
        self._changed_ms = now_ms

    def _restart(self, now_ms: int) -> None:
        """A new leader knows what the objects' status says: targets, and that something is dimmed, not since when."""
        self._memory = _Memory()
        for key, target in sorted(self._targets.items()):
            if target.dimmed_by:
                self._memory.gate = self._memory.gate.shed(key, target.dimmed_by, now_ms)
            if target.option is not None:
                new, old = self._cluster.count(key, placement_of(target.option))
                no_deployment = not new and target.order is Order.BREAK_BEFORE_MAKE
                order = taken_up(target.option.replicas, None if no_deployment else new, old)
                self._targets[key] = replace(target, order=order, roll=target.roll if order is Order.ROLLING else None)

    # ---- 3. and 4. the operator's loops

    def _look(
        self, tree: CapTree, readings: tuple[Reading, ...], charges: tuple[ReplicaCharge, ...], now_ms: int
    ) -> Watch:
        seen = watch(
            tree,
            readings,
            committed_milliwatts(tree, self._targets, charges),
            self._memory.watch_state,
            now_ms,
            decided=decided_milliwatts(tree, self._targets),
            unsatisfiable=self._memory.plan.unsatisfiable_caps if self._memory.plan else {},
            dimming=frozenset(target.dimmed_by for target in self._targets.values()),
        )
        self._memory.watch_state = seen.state
        self.observer.assessed(seen.assessments)
        return seen

    def _guard(self, tree: CapTree, seen: Watch, charges: tuple[ReplicaCharge, ...], now_ms: int) -> None:
        orders = orders_of(seen.assessments.values())
        if not orders:
            return
        snapshot = self._snapshot(tree)
        sheds = choose_sheds(snapshot, orders, {it.state.requirements.key: it.options for it in size_all(snapshot)})
        self._adopt(
            shed_targets(
                snapshot,
                sheds,
                targets=self._targets,
                charges=charges,
                views=seen.views,
                gate=self._memory.gate,
                now_ms=now_ms,
            ),
            seen,
            now_ms,
        )

    def _follow_plan(self, tree: CapTree, seen: Watch, charges: tuple[ReplicaCharge, ...], now_ms: int) -> None:
        snapshot = self._snapshot(tree)
        self._memory.plan = plan(snapshot)
        self.observer.planned(self._memory.plan)
        self._adopt(
            next_targets(
                snapshot,
                self._memory.plan,
                targets=self._targets,
                charges=charges,
                views=seen.views,
                gate=self._memory.gate,
                now_ms=now_ms,
            ),
            seen,
            now_ms,
        )

    def _adopt(self, transition: Transition, seen: Watch, now_ms: int) -> None:
        self._targets, self._memory.gate = transition.targets, transition.gate
        self._memory.watch_state = self._memory.watch_state.acted(
            transition.shed_caps,
            promises_of(transition.steps, seen.drawn, now_ms),
            now_ms,
            taken_back=taken_back_by(transition.steps),
        )
        self.observer.acted(now_ms, transition)

    def _snapshot(self, tree: CapTree) -> Snapshot:
        return Snapshot(
            catalogue=self._catalogue,
            caps=tree,
            inventory=self._inventory,
            workloads=tuple(
                WorkloadState(
                    needs,
                    running=self._targets.get(key, Target()).option,
                    dimmed=bool(self._targets.get(key, Target()).dimmed_by),
                    pods=self._cluster.holdings(key),
                )
                for key, needs in sorted(self._needs.items())
                if key in self._acted_on
            ),
        )

    # ---- what the operator can know

    def _readings(self, now_ms: int) -> tuple[Reading, ...]:
        alive = {w.uid for w in self._cluster.workers}
        memory = self._memory
        for known in (memory.histories, memory.highest, memory.limits):
            for uid in [uid for uid in known if uid not in alive]:
                del known[uid]
        return tuple(self._reading(worker, now_ms) for worker in self._cluster.workers)

    def _reading(self, worker: Worker, now_ms: int) -> Reading:
        memory = self._memory
        limits = MeterLimits(
            max_milliwatts=worker.accelerator.max_milliwatts * worker.boards,
            idle_milliwatts=worker.accelerator.idle_milliwatts * worker.boards,
            enforced_milliwatts=worker.limit_milliwatts,
        )
        sample = self._cluster.newest_sample(worker, now_ms)
        history = memory.histories.get(worker.uid, MeterHistory())
        verdict = judge(sample, history, limits, now_ms)
        if sample is not None:
            memory.histories[worker.uid] = history.append(sample)
        if verdict.believed_milliwatts is not None:
            self._remember_highest(worker, verdict.believed_milliwatts, now_ms)
        return Reading.judged(
            verdict,
            limits,
            namespace=worker.key[0],
            workload=worker.key[1],
            pool=worker.option.pool,
            pod_uid=worker.uid,
            accelerators=worker.boards,
            sampled_at_ms=sample.at_ms if sample else 0,
        )

    def _remember_highest(self, worker: Worker, milliwatts: int, now_ms: int) -> None:
        """What a pod drew under other limits says nothing about these."""
        memory = self._memory
        settled = now_ms - worker.changed_ms > (self._scenario.pace.batch_settle + 1) * 1000
        limits = (worker.batch_limit, worker.option.board_limit_watts)
        if memory.limits.get(worker.uid) != limits:
            memory.limits[worker.uid] = limits
            memory.highest.pop(worker.uid, None)
        if worker.changed_ms and not settled:
            return
        kept = [e for e in memory.highest.get(worker.uid, []) if now_ms - e[0] <= OBSERVED_MS and e[1] > milliwatts]
        memory.highest[worker.uid] = [*kept, (now_ms, milliwatts)]

    def _charges(self) -> tuple[ReplicaCharge, ...]:
        return self._cluster.charges({uid: max(mw for _, mw in seen) for uid, seen in self._memory.highest.items()})

    def _look_at_caps(self, now_ms: int) -> bool:
        """Work out the caps of this second where they are others than before; True when the clock changed them."""
        now = self._scenario.starts_at + timedelta(milliseconds=now_ms)
        known = self._outlook
        if known is None or not known.holds_at(now):
            self._outlook = outlook(self._caps.values(), self._timetables, now)
        return known is not None and known is not self._outlook

    def _tree(self) -> CapTree:
        return CapTree() if self._outlook is None else self._outlook.caps

    def _drawn_by_key_and_pool(self) -> Mapping[tuple[str, str], float]:
        """True watts per (namespace, pool)."""
        totals: dict[tuple[str, str], float] = {}
        for worker in self._cluster.workers:
            where = (worker.key[0], worker.option.pool)
            totals[where] = totals.get(where, 0.0) + worker.watts
        return totals

    def _requirements(self, entry: WorkloadEntry) -> Requirements:
        uid = f"{entry.namespace}-{entry.name}"
        today = self._scenario.starts_at.date()
        found = requirements_of(entry.namespace, entry.name, uid, entry.spec, self._catalogue, None, today)
        if isinstance(found, Refusal):
            raise BadInput(f"workloads: {entry.namespace}/{entry.name}: {found.message}")
        return found


def _cap_of(entry: CapEntry, workloads: tuple[WorkloadEntry, ...]) -> Cap:
    scope = entry.spec.scope.namespaces
    if scope is not None and scope.selector is not None:
        raise BadInput(f"caps: {entry.name}: scope.namespaces.selector: a scenario has no Namespace objects; use names")
    names = frozenset(scope.names if scope else ()) & {w.namespace for w in workloads}
    return cap_of_spec(entry.name, entry.name, entry.spec, names)


def _timetable_of(entry: CapEntry, watts: int | None = None) -> Timetable:
    spec = entry.spec if watts is None else entry.spec.model_copy(update={"watts": watts})
    timetable = timetable_of_spec(spec, settle_seconds(spec.levers))
    if timetable.troubles:
        raise BadInput(f"caps: {entry.name}: {'; '.join(timetable.troubles)}")
    return timetable
