"""Moves: the step from the option that runs to another one.

Decides which levers a step uses, whether it is hot (no new pod), what it frees, what it needs in passing, and how long
it takes until the watts have followed. Never decides whether the step is taken.

Invariant: `freed_milliwatts` is in worst-case watts, as the committed ledger counts; negative = the step takes watts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum

from lowbeam.sizing.options import Option


class Lever(StrEnum):
    """What a step turns, lightest first; the heaviest lever of a step names it."""

    STAY = "Stay"
    BATCH = "Batch"
    POWER_LIMIT = "PowerLimit"
    REPLICAS = "Replicas"
    REASONING = "Reasoning"
    PRECISION = "Precision"
    PLACEMENT = "Placement"
    MODEL = "Model"
    START = "Start"
    RESUME = "Resume"
    PAUSE = "Pause"


_WEIGHT = {lever: rank for rank, lever in enumerate(Lever)}

HOT = frozenset({Lever.BATCH, Lever.POWER_LIMIT})
"""Changed in place: a worker takes another batch limit, a node's agent sets another power limit of its boards."""

SETTLE_MS = {
    Lever.STAY: 0,
    Lever.BATCH: 10_000,
    Lever.POWER_LIMIT: 5_000,
    Lever.REPLICAS: 45_000,
    Lever.REASONING: 180_000,
    Lever.PRECISION: 180_000,
    Lever.PLACEMENT: 180_000,
    Lever.MODEL: 180_000,
    Lever.START: 180_000,
    Lever.RESUME: 180_000,
    Lever.PAUSE: 45_000,
}
"""Until the watts must have followed (control.md, "no progress").

A pause ends pods as fewer replicas do. Whatever needs another Deployment loads weights first, as another model does."""


def settle_seconds(levers: Iterable[str]) -> int:
    """Of the slowest move that a cap with these levers allows: so long before a scheduled cut it has to begin."""
    return max(SETTLE_MS[Lever(lever)] for lever in levers) // 1000


@dataclass(frozen=True, slots=True)
class Move:
    """One step of one workload."""

    lever: Lever
    hot: bool
    """True: changed in place, within seconds and without a new pod."""
    freed_milliwatts: int
    surge_milliwatts: int
    """What must be free beside the running option while the step is under way, make-before-break."""
    settle_ms: int
    levers: frozenset[Lever] = frozenset()
    """All levers that the step turns; a cap must allow every one of them."""


def levers_between(before: Option | None, after: Option | None) -> frozenset[Lever]:
    """Every lever that differs; empty for the same setting."""
    if before is None or after is None:
        if before is after:
            return frozenset()
        return frozenset({Lever.START if before is None else Lever.PAUSE})
    used: set[Lever] = set()
    if before.placement_key == after.placement_key:
        if before.replicas != after.replicas:
            used.add(Lever.REPLICAS)
        if before.batch_limit != after.batch_limit:
            used.add(Lever.BATCH)
        # A limit that is lifted beside another lever dims nothing: a cap that may not limit boards may do without it.
        lifts_only = before.board_limit_watts != after.board_limit_watts and not used
        if lifts_only or _limits_more(before, after):
            used.add(Lever.POWER_LIMIT)
        return frozenset(used)
    if _limits_more(before, after):
        # The new Deployment brings its own limit as it brings its batch limit, and what it replaces names the step. But
        # where a cap may not limit boards, it may not do so by way of another model either.
        used.add(Lever.POWER_LIMIT)
    if before.model != after.model:
        used.add(Lever.MODEL)
    elif before.precision != after.precision:
        used.add(Lever.PRECISION)
    if before.reasoning is not after.reasoning:
        used.add(Lever.REASONING)
    here = (before.accelerator_class, before.accelerators_per_replica, before.pool, before.engine)
    if here != (after.accelerator_class, after.accelerators_per_replica, after.pool, after.engine):
        used.add(Lever.PLACEMENT)
    if not used - {Lever.POWER_LIMIT}:
        # The engine reads its batch limit when it starts: as heavy as another placement, and a cap must allow both.
        counts = {Lever.REPLICAS} if before.replicas != after.replicas else set()
        return frozenset({Lever.BATCH, Lever.PLACEMENT, *used, *counts})
    # The new Deployment brings its own batch limit and count; only a loss of capacity is a cut of its own.
    if after.capacity_millirps < before.capacity_millirps:
        used.add(Lever.REPLICAS)
    return frozenset(used)


def _limits_more(before: Option, after: Option) -> bool:
    return after.board_limit_watts > 0 and not 0 < before.board_limit_watts <= after.board_limit_watts


def heaviest(levers: Collection[Lever]) -> Lever:
    """The lever that names a step."""
    return max(levers, key=_WEIGHT.__getitem__, default=Lever.STAY)


def move_between(before: Option | None, after: Option | None, *, was_paused: bool = False) -> Move:
    """The step between two options; `was_paused` tells a workload that comes back from one that starts."""
    levers = levers_between(before, after)
    if was_paused and Lever.START in levers:
        levers = frozenset({Lever.RESUME})
    lever = heaviest(levers)
    had = 0 if before is None else before.worst_case_milliwatts
    gets = 0 if after is None else after.worst_case_milliwatts
    replaces = before is not None and after is not None and before.placement_key != after.placement_key
    return Move(
        lever=lever,
        hot=levers <= HOT,
        freed_milliwatts=had - gets,
        surge_milliwatts=gets if replaces else max(0, gets - had),
        settle_ms=max((SETTLE_MS[it] for it in levers), default=0),
        levers=levers,
    )


def allowed_by(levers: frozenset[Lever], cap_levers: tuple[str, ...]) -> bool:
    """Whether a cap's `levers` permit a step.

    Another class or pool needs another Deployment, as another model does, so Placement and Reasoning go with Model; a
    start or a resumption takes watts and is no lever of a cap.
    """
    needed = {Lever.MODEL if lever in {Lever.PLACEMENT, Lever.REASONING} else lever for lever in levers}
    return all(lever in cap_levers for lever in needed - {Lever.START, Lever.RESUME})
