"""Watches a run and counts: the only place where a simulation's figures come from.

Decides nothing about the run. Figures count from `settleBefore` on; expectations are judged at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from lowbeam.api.v1alpha1 import WorkloadMode
from lowbeam.api.v1alpha1.powercap import CapState
from lowbeam.planning.committed import Target
from lowbeam.planning.plan_types import Plan
from lowbeam.planning.transition import Transition
from lowbeam.power.caps import CapTree
from lowbeam.power.guard import Assessment
from lowbeam.power.pins import Direction
from lowbeam.simulation.report import Action, CapFigures, Report
from lowbeam.simulation.scenario import Scenario, WorkloadEntry
from lowbeam.sizing.options import Option

Key = tuple[str, str]


@dataclass(slots=True)
class _CapCount:
    seconds_over: int = 0
    run: int = 0
    longest: int = 0
    overshoot: float = 0.0
    unused_watt_seconds: float = 0.0
    states: list[CapState] = field(default_factory=list)


class Observer:
    """Counts while a scenario runs."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._caps = {entry.name: _CapCount() for entry in scenario.caps}
        self._tightened: list[int] = []
        self._reactions: list[int] = []
        self._actions: list[Action] = []
        self._last_turn: dict[Key, Direction] = {}
        self._reversals: dict[Key, int] = {}
        self._ever_dimmed: set[Key] = set()
        self._dimmed_now = False
        self._problems: dict[str, str] = {}
        self._counting = False

    def tightened(self, now_ms: int) -> None:
        """A cap was lowered: the clock of the reaction runs."""
        self._tightened.append(now_ms)

    def assessed(self, assessments: Mapping[str, Assessment]) -> None:
        """One look at every cap."""
        if not self._counting:
            return
        for name, assessment in assessments.items():
            states = self._caps[name].states
            if assessment.state not in states:
                states.append(assessment.state)

    def planned(self, plan: Plan) -> None:
        """One plan."""
        self._problems.update(plan.unsatisfiable_caps)

    def acted(self, now_ms: int, transition: Transition) -> None:
        """One set of steps."""
        downs = [s for s in transition.steps if s.direction is Direction.DOWN]
        if downs and self._tightened:
            self._reactions.append((now_ms - self._tightened.pop(0)) // 1000)
            self._tightened.clear()
        if not self._counting:
            return
        for step in transition.steps:
            self._actions.append(
                Action(
                    at_seconds=now_ms // 1000,
                    workload="/".join(step.key),
                    lever=step.move.lever.value,
                    before=_short(step.before, step.after),
                    after=_short(step.after, step.before),
                    direction=step.direction.value,
                    cap=step.cap,
                )
            )
            if not step.cap:
                continue
            if self._last_turn.get(step.key, step.direction) is not step.direction:
                self._reversals[step.key] = self._reversals.get(step.key, 0) + 1
            self._last_turn[step.key] = step.direction

    def saw(
        self, now_ms: int, tree: CapTree, drawn: Mapping[tuple[str, str], float], targets: Mapping[Key, Target]
    ) -> None:
        """The end of a second; `drawn` is true watts per (namespace, pool)."""
        self._counting = now_ms >= self._scenario.settle_before * 1000
        dimming = {target.dimmed_by for target in targets.values() if target.dimmed_by}
        self._dimmed_now = bool(dimming)
        if not self._counting:
            return
        self._ever_dimmed |= {key for key, target in targets.items() if target.dimmed_by}
        for cap, usable in zip(tree.caps, tree.usable_milliwatts, strict=True):
            count = self._caps[cap.name]
            watts = sum(w for (namespace, pool), w in drawn.items() if cap.covers(namespace, pool))
            excess = watts - usable / 1000
            if excess > 0:
                count.seconds_over += 1
                count.run += 1
                count.longest = max(count.longest, count.run)
                count.overshoot = max(count.overshoot, 100_000 * excess / usable if usable else 100.0)
            else:
                count.run = 0
                count.unused_watt_seconds += -excess if cap.name in dimming else 0.0

    def report(self) -> Report:
        """Everything counted, and what did not hold."""
        caps = tuple(
            CapFigures(
                name=name,
                seconds_over=c.seconds_over,
                longest_over_seconds=c.longest,
                overshoot_percent=round(c.overshoot, 1),
                unused_watt_minutes=int(c.unused_watt_seconds / 60),
                states=tuple(c.states),
            )
            for name, c in sorted(self._caps.items())
        )
        report = Report(
            scenario=self._scenario.name,
            seconds=self._scenario.seconds,
            caps=caps,
            reaction_seconds=tuple(self._reactions),
            actions=tuple(self._actions),
            reversals={"/".join(key): count for key, count in sorted(self._reversals.items())},
            undimmed_at_end=not self._dimmed_now,
            dimmed_workloads=tuple(sorted("/".join(key) for key in self._ever_dimmed)),
            advised=tuple(f"{w.namespace}/{w.name}" for w in self._scenario.workloads if _is_advice(w)),
            problems=tuple(text for _, text in sorted(self._problems.items())),
        )
        return replace(report, failures=tuple(self._failures(report)))

    def _failures(self, report: Report) -> list[str]:
        expect, failures = self._scenario.expect, []
        over = max((cap.longest_over_seconds for cap in report.caps), default=0)
        if expect.seconds_over_cap is not None and over > expect.seconds_over_cap:
            failures.append(f"over a cap for {over} s at a stretch, at most {expect.seconds_over_cap} s are allowed")
        if expect.first_action_seconds is not None:
            worst = max(report.reaction_seconds, default=None)
            if worst is None or worst > expect.first_action_seconds:
                shown = "there was none" if worst is None else f"it came after {worst} s"
                failures.append(f"first action within {expect.first_action_seconds} s expected, {shown}")
        turns = max(report.reversals.values(), default=0)
        if expect.reversals_per_workload is not None and turns > expect.reversals_per_workload:
            failures.append(f"{turns} changes of direction, at most {expect.reversals_per_workload} are allowed")
        if expect.all_restored is not None and expect.all_restored is not report.undimmed_at_end:
            failures.append(
                "workloads are still dimmed at the end" if expect.all_restored else "nothing is dimmed at the end"
            )
        seen = {state for cap in report.caps for state in cap.states}
        failures += [f"no cap was ever {state.value}" for state in expect.states if state not in seen]
        failures += [f"a cap was {state.value}" for state in expect.never if state in seen]
        if expect.no_restore_between is not None:
            begin, end = expect.no_restore_between
            failures += [
                f"{a.workload} got watts back at {a.at_seconds} s"
                for a in report.actions
                if a.direction == Direction.UP.value and begin <= a.at_seconds <= end
            ]
        failures += [f"{name} was dimmed" for name in expect.undimmed if name in report.dimmed_workloads]
        return failures


def _is_advice(workload: WorkloadEntry) -> bool:
    return workload.spec.mode is WorkloadMode.ADVISE


def _short(option: Option | None, other: Option | None) -> str:
    """What a reader needs of one side of a step."""
    if option is None:
        return "nothing"
    if other is not None and other.placement_key == option.placement_key:
        limit = f" {option.board_limit_watts} W" if option.board_limit_watts else ""
        return f"b{option.batch_limit} r{option.replicas}{limit}"
    return f"{option.model} r{option.replicas}"
