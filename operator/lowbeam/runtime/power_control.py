"""The power side of a leader: windows, guard memories, promises and the restore gate, fed through the pure functions.

Decides nothing itself: `power` judges caps, `planning` chooses sheds and steps; here their answers are remembered and
turned into targets and decisions of the fleet.

Invariant: what is adopted is in the fleet's targets before this returns: the next look at the ledger charges it.
"""

from __future__ import annotations

from collections.abc import Mapping

from lowbeam.api.v1alpha1 import reasons
from lowbeam.api.v1alpha1.powercap import CapState
from lowbeam.planning import Plan, ShedOrder, Snapshot, choose_sheds, size_all
from lowbeam.planning.committed import committed_milliwatts
from lowbeam.planning.transition import Shed, Step, Transition, next_targets, promises_of, shed_targets
from lowbeam.power.caps import Cap
from lowbeam.power.gate import CapView, GateState
from lowbeam.power.guard import Assessment, GuardMemory, Urgency, assess
from lowbeam.power.ledger import Measured, measured, measured_by_workload
from lowbeam.power.progress import Promise, check, outstanding
from lowbeam.power.windows import PowerWindow
from lowbeam.runtime.clock import Clock
from lowbeam.runtime.decisions import decision_of, dimming_of
from lowbeam.runtime.fleet import Decision, Fleet
from lowbeam.runtime.meters import Books
from lowbeam.runtime.replicas import WorkloadKey
from lowbeam.runtime.status_cap import CapFacts
from lowbeam.runtime.world import World

HISTORY_LENGTH = 10


class PowerControl:
    """Memory of the guard and the gate, by cap."""

    def __init__(self, clock: Clock, fleet: Fleet) -> None:
        self._clock = clock
        self._windows: dict[str, PowerWindow] = {}
        self._memories: dict[str, GuardMemory] = {}
        self._promises: tuple[Promise, ...] = ()
        self._gate = GateState()
        self._measured: Mapping[str, Measured] = {}
        self._committed: Mapping[str, int] = {}
        self._assessments: dict[str, Assessment] = {}
        self._views: dict[str, CapView] = {}
        self._last_action: dict[str, Decision] = {}
        for key, memory in fleet.workloads.items():  # a successor does not know when: the dwell starts anew
            if memory.dimming is not None:
                self._gate = self._gate.shed(key, memory.dimming.power_cap, clock.monotonic_ms())

    def look(self, world: World, books: Books, last_plan: Plan | None, fleet: Fleet) -> None:
        """Take this moment's readings into the windows and assess every cap."""
        now_ms = self._clock.monotonic_ms()
        drawn = measured_by_workload(books.readings)
        progress = check(self._promises, drawn, now_ms)
        self._promises = progress.running
        self._measured = measured(world.caps, books.readings, now_ms)
        self._committed = committed_milliwatts(world.caps, fleet.targets(), books.charges)
        unsatisfiable = last_plan.unsatisfiable_caps if last_plan else {}
        dimming = {memory.dimming.power_cap for memory in fleet.workloads.values() if memory.dimming is not None}
        self._assessments, self._views = {}, {}
        for cap, usable in zip(world.caps.caps, world.caps.usable_milliwatts, strict=True):
            seen = self._measured[cap.name]
            window = self._window(cap).append(now_ms, seen.milliwatts)
            self._windows[cap.name] = window
            assessment = assess(
                cap,
                usable,
                committed_milliwatts=self._committed[cap.name],
                measured=seen,
                window=window,
                now_ms=now_ms,
                memory=self._memories.get(cap.name),
                outstanding_milliwatts=outstanding(cap, self._promises, drawn),
                unsatisfiable=unsatisfiable.get(cap.name, ""),
                restoring=cap.name in dimming,
            )
            self._memories[cap.name] = assessment.memory
            self._assessments[cap.name] = assessment
            self._views[cap.name] = CapView(
                cap,
                usable,
                window,
                seen.coverage_percent,
                assessment.growth_allowed,
                assessment.milliwatts_to_free if assessment.act else 0,
            )

    def follow(self, world: World, fleet: Fleet, books: Books, plan: Plan, snapshot: Snapshot) -> set[WorkloadKey]:
        """Move the targets towards the plan; the workloads whose target changed."""
        for choice in plan.choices:
            fleet.of(choice.key).choice = choice
        transition = next_targets(
            snapshot,
            plan,
            targets=fleet.targets(),
            charges=books.charges,
            views=self._views,
            gate=self._gate,
            now_ms=self._clock.monotonic_ms(),
        )
        return self._adopt(world, fleet, books, transition)

    def guard(
        self, world: World, fleet: Fleet, books: Books, last_plan: Plan | None, snapshot: Snapshot
    ) -> set[WorkloadKey]:
        """One guard tick: assess, and shed what the plan did not foresee; the workloads whose target changed."""
        self.look(world, books, last_plan, fleet)
        orders = [
            ShedOrder(a.cap, a.milliwatts_to_free, committed=a.urgency is Urgency.BLIND)
            for a in self._assessments.values()
            if a.act and a.milliwatts_to_free > 0
        ]
        if not orders:
            return set()
        option_sets = {sized.state.requirements.key: sized.options for sized in size_all(snapshot)}
        sheds = [Shed(s.namespace, s.name, s.option, s.cap) for s in choose_sheds(snapshot, orders, option_sets)]
        transition = shed_targets(
            snapshot,
            sheds,
            targets=fleet.targets(),
            charges=books.charges,
            views=self._views,
            gate=self._gate,
            now_ms=self._clock.monotonic_ms(),
        )
        return self._adopt(world, fleet, books, transition)

    def facts(self, world: World, last_plan: Plan | None) -> list[tuple[str, CapFacts]]:
        """What each valid cap's status says."""
        problems = {p.cap: p for p in world.caps.problems}
        facts = []
        for cap, usable, limited_by in zip(
            world.caps.caps, world.caps.usable_milliwatts, world.caps.limited_by, strict=True
        ):
            assessment, seen = self._assessments.get(cap.name), self._measured.get(cap.name)
            if assessment is None or seen is None:
                continue
            problem = problems.get(cap.name)
            facts.append(
                (
                    cap.name,
                    CapFacts(
                        generation=world.cap_objects[cap.name].metadata.generation,
                        enforced=cap.enforce,
                        problem_reason=problem.reason if problem else "",
                        problem=problem.message if problem else "",
                        effective_watts=world.cap_objects[limited_by].spec.watts,
                        limited_by=limited_by,
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

    def state(self, cap: str) -> CapState | None:
        """What a cap is doing, None before the first look."""
        assessment = self._assessments.get(cap)
        return assessment.state if assessment else None

    # ---- adopting what was decided

    def _adopt(self, world: World, fleet: Fleet, books: Books, transition: Transition) -> set[WorkloadKey]:
        now_ms = self._clock.monotonic_ms()
        self._gate = transition.gate
        self._promises += promises_of(transition.steps, measured_by_workload(books.readings), now_ms)
        for cap in transition.touched_caps:
            if cap in self._windows:
                self._windows[cap] = self._windows[cap].restarted(now_ms)
        steps = {step.key: step for step in transition.steps}
        for step in transition.steps:
            self._record(world, fleet, step, transition)
        for key, target in transition.targets.items():
            memory = fleet.of(key)
            memory.target = target
            hold = transition.held.get(key)
            memory.held = hold.message if hold else ""
            desired = memory.choice.desired if memory.choice else None
            if not target.dimmed_by:
                memory.dimming = None
            elif (key in steps or memory.dimming is None) and memory.decision is not None:
                memory.dimming = dimming_of(target.option, desired, target.dimmed_by, memory.dimming, memory.decision)
        return set(steps)

    def _record(self, world: World, fleet: Fleet, step: Step, transition: Transition) -> None:
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
        memory.decision = decision
        memory.history = (decision, *memory.history)[:HISTORY_LENGTH]
        cap = step.cap or target.dimmed_by
        if cap and decision.action in (reasons.DIMMED, reasons.PAUSED, reasons.RESTORED):
            named = Decision(now, decision.decision_id, decision.action, f"{'/'.join(step.key)}: {decision.message}")
            self._last_action[cap] = named

    def _window(self, cap: Cap) -> PowerWindow:
        keep_ms = max(60, cap.restore.window_seconds) * 1000 + 5_000
        return self._windows.get(cap.name) or PowerWindow(keep_ms=keep_ms)
