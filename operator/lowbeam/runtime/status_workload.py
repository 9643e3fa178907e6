"""The status of one InferenceWorkload, from what was decided, what runs and what is measured.

Decides how facts become conditions and figures. Pure: the time comes in, the previous status comes in, a dict goes out.

Invariants: the same facts give the same status, so that nothing is written in steady state; `lastTransitionTime`
changes only with the status of a condition; watts move only when they differ by more than noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from lowbeam.api.v1alpha1 import reasons
from lowbeam.api.v1alpha1.base import HIGHEST_DECIMAL, MAX_SENTENCE_LENGTH, cut
from lowbeam.api.v1alpha1.workloadstatus import MAX_ALTERNATIVES, MAX_RECOMMENDATIONS
from lowbeam.kube import Forbidden, Unauthorized
from lowbeam.planning import Alternative, Choice
from lowbeam.planning.words import option_text
from lowbeam.runtime.clock import timestamp
from lowbeam.runtime.condition_rows import Row, as_conditions
from lowbeam.runtime.demand import LoadFacts
from lowbeam.runtime.fleet import Decision, Dimming, WorkloadMemory
from lowbeam.runtime.status_load import load_rows, load_status
from lowbeam.sizing import Option, Refusal

WATTS_NOISE_PERCENT = 3
WATTS_NOISE = 5

_KNOWN_WHEN = (
    reasons.DWELL_TIME,
    reasons.STEP_TIME,
    reasons.RAMP_LIMIT,
    reasons.NOT_ENOUGH_HISTORY,
    reasons.PINNED_BY_ANTI_FLAP,
)
"""Holds that end at a known time; the others depend on what is measured and are asked again all the time."""


@dataclass(frozen=True, slots=True)
class WorkloadFacts:
    """What was seen of one workload in this cycle."""

    generation: int
    advise: bool
    refusal: Refusal | None
    unreadable: str
    """Why a kind of object cannot be read; empty when all can."""
    pods: int
    ready: int
    trouble: str
    """What a pod says about itself, or a Deployment that cannot make its pods; empty when none says anything."""
    selector: str
    measured_milliwatts: int | None
    """None: no fresh reading, or no meter."""
    committed_milliwatts: int
    telemetry_problem: str
    """Why there is no measurement; empty when there is one."""
    stars: int | None
    notes: tuple[str, ...] = ()
    """What of the spec was lowered to a default, and why: an opt-in that has run out."""
    official_stars: int | None = None
    """What the AI Energy Score gave this checkpoint; None where it gave nothing."""
    load: LoadFacts | None = None
    """What was observed of its load and draw; None before the first look."""
    asked_again: datetime | None = None
    """When what is held (`WorkloadMemory.held`) is worth asking again; None when nothing is."""


def workload_status(
    facts: WorkloadFacts, memory: WorkloadMemory, previous: Mapping[str, Any], now: datetime
) -> dict[str, Any]:
    """The complete status as the API server holds it."""
    option = _option_shown(facts, memory)
    generation = _generation_answered(facts, memory)
    status: dict[str, Any] = {
        "observedGeneration": generation,
        "conditions": as_conditions(
            previous.get("conditions", ()),
            [*_conditions(facts, memory, option), *load_rows(facts.load)],
            generation,
            now,
        ),
        "replicas": facts.pods,
        "readyReplicas": facts.ready,
        "selector": facts.selector,
        "history": [_history_entry(entry) for entry in memory.history],
    }
    status |= load_status(facts.load)
    choice = memory.choice
    if option is not None:
        status["selected"] = _selected(option)
        status["energy"] = _energy(option, facts, previous.get("energy", {}))
    if choice is not None and not choice.explained and previous.get("selected") == status.get("selected"):
        # Most likely a new leader's first plan: what was worked out before is still true, and need not come and go.
        status |= {name: previous[name] for name in ("alternatives", "recommendations") if name in previous}
    elif choice is not None:
        status["alternatives"] = [_alternative(a) for a in choice.alternatives[:MAX_ALTERNATIVES]]
        advised = (advice.text for advice in choice.recommendations)
        told = [cut(text, MAX_SENTENCE_LENGTH) for text in (*facts.notes, *advised)]
        status["recommendations"] = told[:MAX_RECOMMENDATIONS]
    if memory.dimming is not None:
        status["dimming"] = _dimming(memory.dimming)
    return status


def _generation_answered(facts: WorkloadFacts, memory: WorkloadMemory) -> int:
    """Which spec the status is about: an edited one only when it was planned, or cannot be."""
    if memory.planned_generation is None or facts.refusal is not None or facts.unreadable:
        return facts.generation
    return memory.planned_generation


def _option_shown(facts: WorkloadFacts, memory: WorkloadMemory) -> Option | None:
    if facts.advise:
        return memory.choice.option if memory.choice else None
    return memory.target.option if memory.target else None


def _conditions(facts: WorkloadFacts, memory: WorkloadMemory, option: Option | None) -> list[Row]:
    if facts.refusal is not None:
        return _refused(facts.refusal.reason, facts.refusal.message + _still_running(facts))
    choice, obstacle = memory.choice, _obstacle(facts, memory)
    if facts.advise:
        message = choice.message if choice else "not planned yet"
        return [
            (reasons.READY, None, reasons.ADVISED, "spec.mode is Advise: Lowbeam explains and changes nothing"),
            (reasons.MODEL_SELECTED, option is not None, choice.reason if choice else reasons.PENDING, message),
        ]
    if choice is None and memory.target is None:
        if obstacle is not None:
            return _refused(*obstacle)
        return [
            (reasons.READY, None, reasons.PENDING, "not planned yet"),
            (reasons.RECONCILING, True, reasons.PENDING, "not planned yet"),
        ]
    if option is None:
        if choice is None or choice.option is not None:
            return _waiting(facts, memory, obstacle)
        capped = choice.desired is not None
        return [
            *_refused(*(obstacle or (choice.reason, choice.message))),
            _dimmed(facts, memory),
            (reasons.CAP_UNSATISFIABLE_CONDITION, capped, choice.reason, choice.message),
        ]
    if choice is not None and choice.option is None:  # the spec asks for what cannot be: nothing is ended for that
        return _refused(choice.reason, choice.message + _still_running(facts))
    return [
        *_readiness(facts, memory, option, obstacle),
        (
            reasons.MODEL_SELECTED,
            True,
            reasons.SELECTED,
            option_text(option) + _shortage(choice, option),
        ),
        _dimmed(facts, memory),
        (reasons.CAP_UNSATISFIABLE_CONDITION, False, reasons.SATISFIABLE, ""),
        _measured(facts),
    ]


def _shortage(choice: Choice | None, option: Option) -> str:
    """What the workload asks for and does not get, where what runs is what was planned."""
    planned = choice.option if choice is not None else None
    if choice is None or planned is None or planned.setting != option.setting or not choice.shortage:
        return ""
    return f"; {choice.shortage}"


def _refused(reason: str, message: str) -> list[Row]:
    return [
        (reasons.READY, False, reason, message),
        (reasons.RECONCILING, False, reason, ""),
        (reasons.STALLED, True, reason, message),
        (reasons.MODEL_SELECTED, False, reason, message),
    ]


def _waiting(facts: WorkloadFacts, memory: WorkloadMemory, obstacle: tuple[str, str] | None) -> list[Row]:
    """There is a choice and nothing runs yet: it waits for the gate or for watts, and goes on by itself."""
    choice, cap = memory.choice, memory.target.dimmed_by if memory.target else ""
    held = _held(facts, memory)
    if cap:
        reason, message = reasons.PAUSED, f'PowerCap "{cap}" paused it; not back yet: {held or "not planned yet"}'
    else:
        reason, message = memory.held.reason if memory.held else reasons.PENDING, held or "not planned yet"
    rows: list[Row] = [
        (reasons.READY, False, *(obstacle or (reason, message))),
        (reasons.RECONCILING, obstacle is None, *(obstacle or (reason, message))),
        (reasons.STALLED, obstacle is not None, *(obstacle or (reason, ""))),
        _dimmed(facts, memory),
    ]
    if choice is None:  # a new leader has not planned yet
        return [*rows, (reasons.MODEL_SELECTED, None, reasons.PENDING, "not planned yet")]
    return [
        *rows,
        (reasons.MODEL_SELECTED, True, choice.reason, choice.message),
        (reasons.CAP_UNSATISFIABLE_CONDITION, False, reasons.SATISFIABLE, ""),
    ]


def _held(facts: WorkloadFacts, memory: WorkloadMemory) -> str:
    """Why a better option is not taken yet, and roughly when it is asked again; empty when nothing is held."""
    if memory.held is None:
        return ""
    if memory.held.reason not in _KNOWN_WHEN or facts.asked_again is None:
        return f"{memory.held.message} (asked again every few seconds)"
    full_minute = facts.asked_again + timedelta(seconds=59, microseconds=999_999)
    return f"{memory.held.message} (asked again by {full_minute.astimezone(UTC):%H:%M} UTC)"


def _still_running(facts: WorkloadFacts) -> str:
    return f" Until then the {facts.pods} pods of before stay." if facts.pods else ""


def _obstacle(facts: WorkloadFacts, memory: WorkloadMemory) -> tuple[str, str] | None:
    """What somebody has to change in the cluster before Lowbeam can go on: (reason, message)."""
    if facts.unreadable:
        return reasons.PERMISSION_DENIED, facts.unreadable
    error = memory.write_error
    if error is None or error.retriable:
        return None
    denied = isinstance(error, Forbidden | Unauthorized)
    return (reasons.PERMISSION_DENIED if denied else reasons.WRITE_REFUSED), str(error)


def _readiness(
    facts: WorkloadFacts, memory: WorkloadMemory, option: Option, obstacle: tuple[str, str] | None
) -> list[Row]:
    if obstacle is not None:
        ready = facts.ready >= option.replicas
        count = f"{facts.ready} of {option.replicas} replicas ready"
        return [
            (reasons.READY, ready, reasons.ALL_REPLICAS_READY if ready else obstacle[0], count),
            (reasons.RECONCILING, False, obstacle[0], ""),
            (reasons.STALLED, True, *obstacle),
        ]
    if facts.ready >= option.replicas and not memory.waiting_for:
        message = f"{facts.ready} of {option.replicas} replicas ready"
        # What a cap dimmed and the gate still holds is told by the condition Dimmed; it may take long.
        waits = memory.held is not None and memory.dimming is None
        reason = memory.held.reason if memory.held and waits else reasons.ALL_REPLICAS_READY
        return [
            (reasons.READY, True, reasons.ALL_REPLICAS_READY, message),
            (reasons.RECONCILING, waits, reason, _held(facts, memory) if waits else ""),
            (reasons.STALLED, False, reasons.ALL_REPLICAS_READY, ""),
        ]
    message = f"{facts.ready} of {option.replicas} replicas ready"
    if memory.waiting_for:
        message += f"; waiting for {memory.waiting_for}"
    if memory.held is not None:
        message += f"; what was planned waits: {_held(facts, memory)}"
    if facts.trouble:
        message += f"; {facts.trouble}"
    # The last pods of the old placement keep serving during make-before-break: ready means that somebody answers.
    ready = facts.ready >= option.replicas
    return [
        (reasons.READY, ready, reasons.ALL_REPLICAS_READY if ready else reasons.REPLICAS_NOT_READY, message),
        (reasons.RECONCILING, True, reasons.REPLICAS_NOT_READY, message),
        (reasons.STALLED, bool(facts.trouble), reasons.REPLICAS_NOT_READY, facts.trouble),
    ]


def _dimmed(facts: WorkloadFacts, memory: WorkloadMemory) -> Row:
    dimming, choice = memory.dimming, memory.choice
    if dimming is None:
        return (reasons.DIMMED_CONDITION, False, reasons.NOT_DIMMED, "")
    target = memory.target.option if memory.target else None
    held = f"; not back yet: {_held(facts, memory)}" if memory.held else ""
    if choice is not None and choice.option == target and choice.binding_cap:
        return (reasons.DIMMED_CONDITION, True, dimming.reason, choice.message + held)
    # Another step than the plan's: the guard's, or one that the restore gate still holds.
    message = f'"{dimming.power_cap}": {dimming.lever}, {dimming.milliwatts_freed / 1000:.0f} W freed{held}'
    return (reasons.DIMMED_CONDITION, True, dimming.reason, message)


def _measured(facts: WorkloadFacts) -> Row:
    if facts.measured_milliwatts is None:
        return (reasons.ENERGY_MEASURED, False, reasons.NOT_MEASURED, facts.telemetry_problem)
    return (reasons.ENERGY_MEASURED, True, reasons.MEASURED, "")


def _selected(option: Option) -> dict[str, Any]:
    return {
        "model": option.model,
        "precision": option.precision,
        "reasoning": option.reasoning.value,
        "acceleratorClass": option.accelerator_class,
        "acceleratorsPerReplica": option.accelerators_per_replica,
        "batchLimit": option.batch_limit,
        "replicas": option.replicas,
        "engine": option.engine,
        "nodePool": option.pool,
        **_limit(option),
    }


def _limit(option: Option) -> dict[str, Any]:
    return {"boardLimitWatts": option.board_limit_watts} if option.board_limit_watts else {}


def _energy(option: Option, facts: WorkloadFacts, previous: Mapping[str, Any]) -> dict[str, Any]:
    energy: dict[str, Any] = {
        "joulesPerRequest": decimal_text(option.millijoules_per_request, 1000),
        "basis": option.basis.value,
        "committedWatts": steady_watts(facts.committed_milliwatts, previous.get("committedWatts")),
    }
    energy["stars"] = "Unrated" if facts.stars is None else "*" * facts.stars
    if facts.official_stars is not None:
        energy["officialStars"] = "*" * facts.official_stars
    if facts.measured_milliwatts is not None:
        energy["measuredWatts"] = steady_watts(facts.measured_milliwatts, previous.get("measuredWatts"))
    return energy


def steady_watts(milliwatts: int, written: int | None) -> int:
    """Whole watts; the value that was written before stays while the new one differs only by noise."""
    watts = round(milliwatts / 1000)
    if written is not None and abs(watts - written) <= max(WATTS_NOISE, written * WATTS_NOISE_PERCENT // 100):
        return written
    return watts


def decimal_text(value: int, unit: int) -> str:
    """`value / unit` with three significant digits and no exponent: 28412 mJ -> "28.4"."""
    number = min(value / unit, HIGHEST_DECIMAL)
    digits = 3 if number < 0.1 else 2 if number < 10 else 1 if number < 1000 else 0
    return f"{number:.{digits}f}"


def _alternative(alternative: Alternative) -> dict[str, Any]:
    option = alternative.option
    shown: dict[str, Any] = {
        "model": option.model,
        "precision": option.precision,
        "reasoning": option.reasoning.value,
        "acceleratorClass": option.accelerator_class,
        "acceleratorsPerReplica": option.accelerators_per_replica,
        "batchLimit": option.batch_limit,
        **_limit(option),
        "replicas": option.replicas,
        "joulesPerRequest": decimal_text(option.millijoules_per_request, 1000),
        "watts": round(option.expected_milliwatts / 1000),
        "reason": alternative.reason,
        "message": cut(alternative.message, MAX_SENTENCE_LENGTH),
    }
    if option.quality_centi is not None:
        shown["quality"] = decimal_text(option.quality_centi, 100)
    return shown


def _dimming(dimming: Dimming) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "lever": dimming.lever,
        "since": timestamp(dimming.since),
        "reason": dimming.reason,
        "powerCap": dimming.power_cap,
        "decisionId": dimming.decision_id,
        "wattsFreed": max(0, round(dimming.milliwatts_freed / 1000)),
    }
    if dimming.quality_lost_centi:
        shown["qualityLost"] = decimal_text(dimming.quality_lost_centi, 100)
    return shown


def _history_entry(entry: Decision) -> dict[str, Any]:
    return {
        "time": timestamp(entry.time),
        "decisionId": entry.decision_id,
        "action": entry.action,
        "message": cut(entry.message, MAX_SENTENCE_LENGTH),
    }
