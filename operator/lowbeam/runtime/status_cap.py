"""The status of one PowerCap, from its ledgers and the guard's assessment. Pure, like status_workload.

Invariants: figures move only when they differ by more than noise, so that a steady cluster writes nothing; `state` and
the condition WithinCap never contradict each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lowbeam.api.v1alpha1 import reasons
from lowbeam.api.v1alpha1.base import HIGHEST_DECIMAL, MAX_SENTENCE_LENGTH, cut
from lowbeam.api.v1alpha1.powercap import CapState
from lowbeam.power.guard import BLIND_COMMITTED_PERCENT
from lowbeam.power.outlook import Change
from lowbeam.power.schedule import Limit, Timetable, limit_at
from lowbeam.runtime.cap_counts import Counted
from lowbeam.runtime.clock import timestamp
from lowbeam.runtime.condition_rows import Row, as_conditions
from lowbeam.runtime.fleet import Decision
from lowbeam.runtime.status_workload import steady_watts

NO_ENTRY = limit_at(Timetable(0), datetime.min)


@dataclass(frozen=True, slots=True)
class CapFacts:
    """What was seen of one cap in this cycle."""

    generation: int
    enforced: bool
    counted: Counted
    problem_reason: str
    problem: str
    """Why the cap is not (fully) in force; empty when it is."""
    effective_watts: int
    limited_by: str
    usable_milliwatts: int
    measured_milliwatts: int
    committed_milliwatts: int
    coverage_percent: int
    metered: bool
    """Whether there is any replica under the cap at all that should be measured."""
    state: str
    state_message: str
    unsatisfiable: str
    """Why the minimum of its workloads does not fit; empty when it does."""
    price_per_watt: float
    last_action: Decision | None
    note: str = ""
    """What is odd about a cap that is in force; empty when nothing is."""
    effective_entry: str = ""
    """Of `limited_by`; empty while its static watts count."""
    planned_watts: int | None = None
    next_change: Change | None = None
    limit: Limit = NO_ENTRY
    """What the cap's own schedule and events say."""

    @property
    def kept(self) -> bool:
        """Whether the cap limits what it should: also where one of its entries means nothing, as the others hold."""
        return self.problem_reason in ("", reasons.CAP_SCHEDULE_INVALID)


def cap_status(facts: CapFacts, previous: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """The complete status as the API server holds it."""
    status: dict[str, Any] = {
        "observedGeneration": facts.generation,
        "conditions": as_conditions(previous.get("conditions", ()), _conditions(facts), facts.generation, now),
        **_counts(facts.counted),
        "effectiveWatts": facts.effective_watts,
        "limitedBy": facts.limited_by,
        **_by_the_clock(facts),
        "usableWatts": facts.usable_milliwatts // 1000,
        "measuredWatts": steady_watts(facts.measured_milliwatts, previous.get("measuredWatts")),
        "committedWatts": -(-facts.committed_milliwatts // 1000),
        "coveragePercent": facts.coverage_percent,
        "state": facts.state,
        "pricePerWatt": f"{min(facts.price_per_watt, HIGHEST_DECIMAL):.4f}".rstrip("0").rstrip(".") or "0",
    }
    if facts.last_action is not None:
        status["lastAction"] = {
            "time": timestamp(facts.last_action.time),
            "decisionId": facts.last_action.decision_id,
            "message": cut(facts.last_action.message, MAX_SENTENCE_LENGTH),
        }
    return status


def cuts_told(facts: CapFacts, previous: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(reason, sentence) of each entry of the cap that began or ended since the status `previous`, or comes close."""
    limit, told, was = facts.limit, [], set(previous.get("activeEntries", ()))
    if limit.planned_for is not None and "plannedWatts" not in previous:
        begins = f"{limit.planned_entry} begins at {timestamp(limit.planned_for)}"
        told.append(
            (reasons.CUT_AHEAD, f"{begins}: workloads are dimmed in time, so that their watts are down by then")
        )
    for it in limit.active:
        if it.entry not in was:
            until = "" if it.until is None else f" until {timestamp(it.until)}"
            told.append((reasons.CUT_BEGAN, f"{it.entry} began: at most {it.watts} W{until}"))
    for entry in sorted(was - {it.entry for it in limit.active}):
        by = f", as {limit.entry} says" if limit.entry else " again"
        told.append((reasons.CUT_ENDED, f"{entry} is over: at most {limit.watts} W{by}"))
    return told


def _by_the_clock(facts: CapFacts) -> dict[str, Any]:
    """What schedules and events say; nothing of a cap without any, like the caps above it."""
    parts: dict[str, Any] = {}
    if facts.effective_entry:
        parts["effectiveEntry"] = facts.effective_entry
    if facts.planned_watts is not None and facts.planned_watts < facts.effective_watts:
        parts["plannedWatts"] = facts.planned_watts
    if (change := facts.next_change) is not None:
        then = {"time": timestamp(change.at), "watts": change.watts, "limitedBy": change.cap}
        parts["nextChange"] = {**then, "entry": change.entry} if change.entry else then
    if facts.limit.active:
        parts["activeEntries"] = [it.entry for it in facts.limit.active]
    return parts


def _counts(counted: Counted) -> dict[str, int]:
    counts = {"accelerators": counted.accelerators, "namespaces": counted.namespaces}
    return {name: count for name, count in counts.items() if count is not None}


def _is_over(facts: CapFacts) -> bool:
    """What the guard said, as `state` shows it; the figures where its word is about something else."""
    if facts.state in (CapState.WITHIN_CAP, CapState.RESTORING, CapState.OVER_CAP):
        return facts.state == CapState.OVER_CAP
    return facts.measured_milliwatts > facts.usable_milliwatts


def _is_shedding(facts: CapFacts) -> bool:
    """Watts must go, or moves run. In blind mode that is told by the committed watts, pods that still end included."""
    if facts.state == CapState.BLIND:
        return facts.committed_milliwatts * 100 > facts.usable_milliwatts * BLIND_COMMITTED_PERCENT
    return facts.state == CapState.SHEDDING


def _reconciling(facts: CapFacts, *, over: bool) -> Row:
    if not over and facts.committed_milliwatts > facts.usable_milliwatts:
        committed, usable = -(-facts.committed_milliwatts // 1000), facts.usable_milliwatts // 1000
        return (reasons.RECONCILING, True, reasons.NO_HEADROOM, f"{committed} W committed, {usable} W usable")
    return (reasons.RECONCILING, over, reasons.OVER_CAP if over else reasons.WITHIN_CAP, "")


def _conditions(facts: CapFacts) -> list[Row]:
    over, shedding = _is_over(facts), _is_shedding(facts)
    healthy = facts.coverage_percent >= 80 or not facts.metered
    in_force = not facts.problem
    ready_reason = facts.problem_reason or (reasons.IN_FORCE if facts.enforced else reasons.OBSERVING)
    stale = f"{facts.coverage_percent} % of the accelerators have a fresh reading; the others count at their worst case"
    return [
        (reasons.READY, in_force, ready_reason, facts.problem or facts.counted.nothing or facts.note),
        _reconciling(facts, over=over),
        (reasons.STALLED, not in_force, ready_reason, facts.problem),
        (
            reasons.WITHIN_CAP_CONDITION,
            not over,
            reasons.OVER_CAP if over else reasons.WITHIN_CAP,
            facts.state_message if over else "",
        ),
        (
            reasons.SHEDDING_CONDITION,
            shedding,
            reasons.SHEDDING if shedding else reasons.NOT_SHEDDING,
            facts.state_message if shedding else "",
        ),
        (
            reasons.TELEMETRY_HEALTHY_CONDITION,
            healthy,
            reasons.TELEMETRY_HEALTHY if healthy else reasons.TELEMETRY_STALE,
            "" if healthy else stale,
        ),
        (
            reasons.SATISFIABLE_CONDITION,
            not facts.unsatisfiable,
            reasons.CAP_BELOW_MINIMUM if facts.unsatisfiable else reasons.SATISFIABLE,
            facts.unsatisfiable,
        ),
    ]
