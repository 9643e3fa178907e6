"""The power side of a leader: windows, guard memories, promises and the restore gate, fed through the pure functions.

Decides nothing itself: `power` judges caps, `planning` chooses sheds and steps; here their answers are remembered and
turned into targets and decisions of the fleet.

Invariant: what is adopted is in the fleet's targets before this returns: the next look at the ledger charges it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from lowbeam.api.v1alpha1 import reasons
from lowbeam.planning import Plan, Snapshot, choose_sheds, size_all
from lowbeam.planning.committed import committed_milliwatts, decided_milliwatts
from lowbeam.planning.promises import promises_of, taken_back_by
from lowbeam.planning.transition import (
    Step,
    Transition,
    next_targets,
    orders_of,
    shed_targets,
)
from lowbeam.power.gate import CapView, GateState
from lowbeam.power.ledger import measured_by_workload
from lowbeam.power.progress import Promise
from lowbeam.power.schedule import Timetable
from lowbeam.power.watch import Watch, WatchState, watch
from lowbeam.runtime.clock import Clock
from lowbeam.runtime.decisions import decision_of, dimming_of
from lowbeam.runtime.fleet import NOT_CARRIED_OUT, Decision, Fleet, WorkloadMemory
from lowbeam.runtime.meters import Books
from lowbeam.runtime.replicas import WorkloadKey
from lowbeam.runtime.status_cap import CapFacts
from lowbeam.runtime.world import World

HISTORY_LENGTH = 10


class PowerControl:
    """Memory of the guard and the gate, by cap."""

    def __init__(self, clock: Clock, fleet: Fleet, last_actions: Mapping[str, Decision] | None = None) -> None:
        self._clock = clock
        self._state = WatchState()
        self._gate = GateState()
        self._broken: list[Promise] = []
        self._hurried: set[WorkloadKey] = set()
        self._seen: Watch | None = None
        """The newest look; None before the first."""
        self._committed: Mapping[str, int] = {}
        self._last_action = dict(last_actions or {})
        for key, memory in fleet.workloads.items():  # a successor does not know when: the dwell starts anew
            if memory.dimming is not None:
                self._gate = self._gate.shed(key, memory.dimming.power_cap, clock.monotonic_ms())

    def look(self, world: World, books: Books, last_plan: Plan | None, fleet: Fleet) -> None:
        """Take this moment's readings into the windows and assess every cap."""
        targets = fleet.targets()
        self._committed = committed_milliwatts(world.caps, targets, books.charges)
        self._seen = watch(
            world.caps,
            books.readings,
            self._committed,
            self._state,
            self._clock.monotonic_ms(),
            decided=decided_milliwatts(world.caps, targets),
            unsatisfiable=last_plan.unsatisfiable_caps if last_plan else {},
            dimming=_restoring(world, fleet),
        )
        self._state = self._seen.state
        self._broken += self._seen.ineffective

    def ineffective(self) -> list[tuple[WorkloadKey, str]]:
        """Workloads whose last move settled without giving what it promised, with a sentence; each told once."""
        broken, self._broken = self._broken, []
        return [
            (
                (promise.namespace, promise.workload),
                f"{promise.predicted_milliwatts / 1000:.0f} W should have gone within {promise.settle_ms // 1000} s "
                "and less than half did; the next move is tried. Check that the worker applies its batch limit.",
            )
            for promise in broken
        ]

    def hurried(self) -> set[WorkloadKey]:
        """Workloads whose replacement goes on another way, though nothing else was decided; each told once."""
        hurried, self._hurried = self._hurried, set()
        return hurried

    def pinned(self, key: WorkloadKey) -> bool:
        """Whether anti-flap keeps the workload where it is."""
        history = self._gate.workloads.get(key)
        return history is not None and history.pinned(self._clock.monotonic_ms())

    def retry_at_ms(self, fleet: Fleet) -> int | None:
        """When the first held move is worth asking for again; None when nothing is held."""
        return min((m.held.retry_at_ms for m in fleet.workloads.values() if m.held is not None), default=None)

    def follow(self, fleet: Fleet, books: Books, plan: Plan, snapshot: Snapshot) -> set[WorkloadKey]:
        """Move the targets towards the plan; the workloads whose target changed."""
        for choice in plan.choices:
            fleet.of(choice.key).choice = choice
        followed = tuple(choice for choice in plan.choices if not choice.keeps_running)
        transition = next_targets(
            snapshot,
            replace(plan, choices=followed),
            targets=fleet.targets(),
            charges=books.charges,
            views=self._views(),
            gate=self._gate,
            now_ms=self._clock.monotonic_ms(),
        )
        return self._adopt(fleet, books, transition, planned=True)

    def guard(
        self, world: World, fleet: Fleet, books: Books, last_plan: Plan | None, snapshot: Snapshot
    ) -> set[WorkloadKey]:
        """One guard tick: assess, and shed what the plan did not foresee; the workloads whose target changed."""
        self.look(world, books, last_plan, fleet)
        orders = orders_of(self._seen.assessments.values()) if self._seen else ()
        if not orders:
            return set()
        option_sets = {sized.state.requirements.key: sized.options for sized in size_all(snapshot)}
        sheds = choose_sheds(snapshot, orders, option_sets)
        transition = shed_targets(
            snapshot,
            sheds,
            targets=fleet.targets(),
            charges=books.charges,
            views=self._views(),
            gate=self._gate,
            now_ms=self._clock.monotonic_ms(),
        )
        return self._adopt(fleet, books, transition, planned=False)

    def facts(self, world: World, last_plan: Plan | None) -> list[tuple[str, CapFacts]]:
        """What each valid cap's status says."""
        problems, limits, planned = {p.cap: p for p in world.caps.problems}, world.outlook.limits, world.outlook.planned
        facts = []
        for cap, usable, limited_by in zip(
            world.caps.caps, world.caps.usable_milliwatts, world.caps.limited_by, strict=True
        ):
            if self._seen is None or cap.name not in self._seen.assessments or cap.name not in world.cap_objects:
                continue
            assessment, seen = self._seen.assessments[cap.name], self._seen.measured[cap.name]
            problem = problems.get(cap.name)
            facts.append(
                (
                    cap.name,
                    CapFacts(
                        generation=world.cap_objects[cap.name].metadata.generation,
                        enforced=cap.enforce,
                        problem_reason=problem.reason if problem else "",
                        problem=problem.message if problem else "",
                        counted=world.counted[cap.name],
                        note=_note(world.timetables[cap.name]),
                        effective_watts=limits[limited_by].watts,
                        limited_by=limited_by,
                        effective_entry=limits[limited_by].entry,
                        limit=limits[cap.name],
                        planned_watts=planned[cap.name],
                        next_change=world.outlook.next_changes.get(cap.name),
                        usable_milliwatts=usable,
                        measured_milliwatts=seen.milliwatts,
                        committed_milliwatts=self._committed.get(cap.name, 0),
                        coverage_percent=seen.coverage_percent,
                        metered=seen.fresh + seen.late + seen.stale > 0,
                        state=assessment.state,
                        state_message=assessment.message,
                        unsatisfiable=last_plan.unsatisfiable_caps.get(cap.name, "") if last_plan else "",
                        price_per_watt=last_plan.cap_price.get(cap.name, 0.0) if last_plan else 0.0,
                        last_action=self._last_action.get(cap.name),
                    ),
                )
            )
        return facts

    # ---- adopting what was decided

    def _adopt(self, fleet: Fleet, books: Books, transition: Transition, *, planned: bool) -> set[WorkloadKey]:
        """`planned`: what is held was asked, and not only what has to be shed."""
        now_ms = self._clock.monotonic_ms()
        self._gate = transition.gate
        self._hurried |= transition.hurried
        promises = promises_of(transition.steps, measured_by_workload(books.readings), now_ms)
        taken_back = taken_back_by(transition.steps)
        self._state = self._state.acted(transition.shed_caps, promises, now_ms, taken_back=taken_back)
        steps = {step.key: step for step in transition.steps}
        for step in transition.steps:
            self._record(fleet, step, transition)
        if planned:  # what is no longer planned (Advise, a spec that is refused) waits for nothing
            for key in fleet.workloads.keys() - transition.targets.keys():
                fleet.of(key).held = None
        found = {(charge.namespace, charge.workload) for charge in books.charges}
        for key, target in transition.targets.items():
            memory = fleet.of(key)
            if planned or key in steps:
                memory.held = transition.held.get(key)
            if memory.target is None and key not in steps and _is_undecided(memory, runs=key in found):
                continue  # what a new leader found running, and nothing is decided about: it stays
            memory.target = target
            if key in steps:
                memory.waiting_for = NOT_CARRIED_OUT
            desired = memory.choice.desired if memory.choice else None
            if not target.dimmed_by:
                memory.dimming = None
            elif (key in steps or memory.dimming is None) and memory.decision is not None:
                memory.dimming = dimming_of(target.option, desired, target.dimmed_by, memory.dimming, memory.decision)
        return set(steps)

    def _record(self, fleet: Fleet, step: Step, transition: Transition) -> None:
        memory = fleet.of(step.key)
        target = transition.targets[step.key]
        desired = memory.choice.desired if memory.choice else None
        now = self._clock.now()
        decision = decision_of(
            step.before,
            step.after,
            desired=desired,
            cap=target.dimmed_by,
            was_dimmed=memory.dimming is not None,
            first=memory.target is None,
            now=now,
            decision_id=fleet.decision_id(now),
        )
        memory.decision, memory.rises_from_ms = decision, 0
        memory.history = (decision, *memory.history)[:HISTORY_LENGTH]
        cap = step.cap or target.dimmed_by
        if cap and decision.action in (reasons.DIMMED, reasons.PAUSED, reasons.RESTORED):
            named = Decision(now, decision.decision_id, decision.action, f"{'/'.join(step.key)}: {decision.message}")
            self._last_action[cap] = named

    def _views(self) -> Mapping[str, CapView]:
        return self._seen.views if self._seen else {}


def _note(timetable: Timetable) -> str:
    """Entries that change nothing. No error: whoever lowers spec.watts in a hurry must not have to edit them first."""
    entries = timetable.never_counting()
    if not entries:
        return ""
    what = "changes nothing: its watts are" if len(entries) == 1 else "change nothing: their watts are"
    return f"{', '.join(entries)} {what} not below the {timetable.watts} W of spec.watts"


def _is_undecided(memory: WorkloadMemory, *, runs: bool) -> bool:
    """Whether there is no plan for it, none but to keep what runs, or one that is held while something else `runs`."""
    choice = memory.choice
    return choice is None or choice.keeps_running or (runs and choice.option is not None)


def _restoring(world: World, fleet: Fleet) -> frozenset[str]:
    """Caps that have something to give back. A workload that is not planned, or kept without an option, stays as it is;
    its dimming is remembered for the time when it is planned again."""
    memories = [fleet.workloads[key] for key in world.enforced() if key in fleet.workloads]
    return frozenset(
        memory.dimming.power_cap
        for memory in memories
        if memory.dimming is not None and not (memory.choice is not None and memory.choice.keeps_running)
    )
