"""The guard: is a cap kept, and how many milliwatts must go now.

Decides the state of one cap, how urgent it is, and the whole deficit down to the shed target, in one step. Never
decides who is dimmed (`planning.shed`) and never lets watts return (`power.gate`).

Invariants: a mean that spans a shed for the cap is not used; what running moves still owe is not asked for again; when
most meters are silent their sum is an assumption, so the committed ledger is judged instead (blind mode); a cap that
only observes is assessed like any other, with `act` False.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from lowbeam.api.v1alpha1.powercap import CapState
from lowbeam.power.caps import Cap
from lowbeam.power.ledger import Measured
from lowbeam.power.windows import PowerWindow

SOFT_WINDOW_SECONDS = 10
HARD_WINDOW_SECONDS = 2
ONCE_PERCENT = 5
"""So far above the emergency threshold one sample is enough; below it takes two in a row."""
BLIND_BELOW_PERCENT = 50
BLIND_AFTER_MS = 30_000
SIGHT_PERCENT = 95
SIGHT_AFTER_MS = 60_000
BLIND_COMMITTED_PERCENT = 90
GROWTH_COVERAGE_PERCENT = 80
"""Below this share of heard accelerators nothing grows and nothing returns."""


class Urgency(StrEnum):
    """How fast watts must go."""

    NONE = "None"
    SOFT = "Soft"
    HARD = "Hard"
    EMERGENCY = "Emergency"
    BLIND = "Blind"


WITHIN = "WithinCap"
OVER = "OverCap"
SETTLING = "MovesSettling"
SOFT_SHED = "SoftShed"
HARD_SHED = "HardShed"
EMERGENCY = "Emergency"
TELEMETRY_LOST = "TelemetryLost"
UNSATISFIABLE = "CapUnsatisfiable"
RESTORING = "Restoring"


@dataclass(frozen=True, slots=True)
class GuardMemory:
    """What the guard remembers of one cap between ticks."""

    strikes: int = 0
    """Ticks in a row above the emergency threshold."""
    unheard_since_ms: int | None = None
    blind: bool = False
    sighted_since_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Assessment:
    """The guard's view of one cap at one tick."""

    cap: str
    state: CapState
    urgency: Urgency
    milliwatts_to_free: int
    reason: str
    message: str
    act: bool
    """True when moves must be chosen now: urgent, and the cap enforces."""
    growth_allowed: bool
    """False freezes admission and restore under this cap."""
    memory: GuardMemory


def assess(
    cap: Cap,
    usable_milliwatts: int,
    *,
    committed_milliwatts: int,
    measured: Measured,
    window: PowerWindow,
    now_ms: int,
    memory: GuardMemory | None = None,
    decided_milliwatts: int | None = None,
    outstanding_milliwatts: int = 0,
    unsatisfiable: str = "",
    restoring: bool = False,
) -> Assessment:
    """Judge one cap. `window` already holds this tick's `measured`; `memory` is that of the last assessment.

    `decided_milliwatts`: what the targets alone commit, without pods on their way out: blind mode asks for no watts
    twice; None = as `committed_milliwatts`. `outstanding_milliwatts`: what running moves still owe
    (`progress.outstanding`). `unsatisfiable`: the planner's sentence when even the minimum does not fit. `restoring`:
    workloads under the cap are dimmed by it and want back.
    """
    latest = window.latest() or 0
    hard, soft = window.mean(HARD_WINDOW_SECONDS, now_ms), window.mean(SOFT_WINDOW_SECONDS, now_ms)
    # A mean that is still high while the draw has fallen is the settling of the last move, no reason for another.
    levels = _Levels(
        usable=usable_milliwatts,
        latest=latest - outstanding_milliwatts,
        hard=None if hard is None else min(hard, latest) - outstanding_milliwatts,
        soft=None if soft is None else min(soft, latest) - outstanding_milliwatts,
    )
    heard = measured.heard_percent
    memory = _remember(memory or GuardMemory(), cap, levels, heard, now_ms)
    if memory.blind:
        remains = committed_milliwatts if decided_milliwatts is None else min(committed_milliwatts, decided_milliwatts)
        excess = max(0, remains - usable_milliwatts * BLIND_COMMITTED_PERCENT // 100)
        urgency, to_free = (Urgency.BLIND if excess else Urgency.NONE), excess
    elif heard < BLIND_BELOW_PERCENT:
        urgency, to_free = Urgency.NONE, 0
    else:
        urgency, to_free = _urgency(cap, levels, memory)
    # Moves that were made for another cap are no shedding of this one.
    is_settling = outstanding_milliwatts > 0 and latest * 100 > cap.thresholds.shed_target_percent * usable_milliwatts
    is_over = latest > usable_milliwatts
    state, reason = _state(
        urgency, memory, unsatisfiable, is_settling=is_settling, is_over=is_over, restoring=restoring
    )
    figures = (
        f"{_watts(measured.milliwatts)} measured, {_watts(committed_milliwatts)} committed, "
        f"{_watts(usable_milliwatts)} usable"
    )
    return Assessment(
        cap=cap.name,
        state=state,
        urgency=urgency,
        milliwatts_to_free=to_free,
        reason=reason,
        message=_message(cap, reason, figures, heard, to_free or outstanding_milliwatts) or unsatisfiable,
        act=cap.enforce and to_free > 0,
        growth_allowed=not memory.blind
        and urgency is Urgency.NONE
        and not is_settling
        and heard >= GROWTH_COVERAGE_PERCENT,
        memory=memory,
    )


@dataclass(frozen=True, slots=True)
class _Levels:
    """What is drawn, less what running moves still free; None = not enough history since the last shed."""

    usable: int
    latest: int
    hard: int | None
    soft: int | None

    def crosses(self, level: int | None, percent: int) -> bool:
        return level is not None and level > 0 and level * 100 >= percent * self.usable


def _remember(memory: GuardMemory, cap: Cap, levels: _Levels, heard_percent: int, now_ms: int) -> GuardMemory:
    unheard_since = sighted_since = None
    if heard_percent < BLIND_BELOW_PERCENT:
        unheard_since = now_ms if memory.unheard_since_ms is None else memory.unheard_since_ms
    if heard_percent >= SIGHT_PERCENT:
        sighted_since = now_ms if memory.sighted_since_ms is None else memory.sighted_since_ms
    blind = memory.blind or (unheard_since is not None and now_ms - unheard_since >= BLIND_AFTER_MS)
    if sighted_since is not None and now_ms - sighted_since >= SIGHT_AFTER_MS:
        blind = False
    strikes = memory.strikes + 1 if levels.crosses(levels.latest, cap.thresholds.emergency_percent) else 0
    return GuardMemory(strikes, unheard_since, blind, sighted_since)


def _urgency(cap: Cap, levels: _Levels, memory: GuardMemory) -> tuple[Urgency, int]:
    """The strongest threshold that is crossed, and the milliwatts from there down to the shed target."""
    limits = cap.thresholds
    at_once = limits.emergency_percent + ONCE_PERCENT
    ladder = (
        (Urgency.EMERGENCY, levels.latest, limits.emergency_percent if memory.strikes > 1 else at_once),
        (Urgency.HARD, levels.hard, limits.hard_shed_percent),
        (Urgency.SOFT, levels.soft, limits.soft_shed_percent),
    )
    for urgency, level, percent in ladder:
        if level is not None and levels.crosses(level, percent):
            return urgency, max(0, level - levels.usable * limits.shed_target_percent // 100)
    return Urgency.NONE, 0


def _state(
    urgency: Urgency,
    memory: GuardMemory,
    unsatisfiable: str,
    *,
    is_settling: bool,
    is_over: bool,
    restoring: bool,
) -> tuple[CapState, str]:
    if memory.blind:
        return CapState.BLIND, TELEMETRY_LOST
    if unsatisfiable:
        return CapState.INFEASIBLE, UNSATISFIABLE
    if urgency is not Urgency.NONE:
        return CapState.SHEDDING, {Urgency.SOFT: SOFT_SHED, Urgency.HARD: HARD_SHED}.get(urgency, EMERGENCY)
    if is_settling:
        return CapState.SHEDDING, SETTLING
    if is_over:
        return CapState.OVER_CAP, OVER
    return (CapState.RESTORING, RESTORING) if restoring else (CapState.WITHIN_CAP, WITHIN)


def _message(cap: Cap, reason: str, figures: str, heard_percent: int, milliwatts: int) -> str:
    """What a user reads; empty for CapUnsatisfiable, whose sentence the planner wrote."""
    tail = {
        WITHIN: ".",
        OVER: "; shed if that lasts."
        if heard_percent >= BLIND_BELOW_PERCENT
        else f"; only {heard_percent} % of the accelerators report, the others count at their worst case.",
        RESTORING: "; dimmed workloads come back step by step.",
        SETTLING: f"; running moves still free {_watts(milliwatts)}.",
        TELEMETRY_LOST: f"; only {heard_percent} % of the accelerators report, so at most {BLIND_COMMITTED_PERCENT} % "
        "of usable may be committed. Check the workers' control ports.",
        UNSATISFIABLE: "",
    }.get(reason, f"; {_watts(milliwatts)} must go to reach the shed target.")
    return f'PowerCap "{cap.name}": {figures}{tail}' if tail else ""


def _watts(milliwatts: int) -> str:
    return f"{milliwatts / 1000:.0f} W" if milliwatts < 10_000_000 else f"{milliwatts / 1_000_000:.1f} kW"
