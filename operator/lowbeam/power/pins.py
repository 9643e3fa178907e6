"""Keeps a workload from going up and down: few reversals, then pinned at the lower state.

Decides whether a workload may change direction upwards. Never stands in the way of a shed.

Invariants: in any ten minutes a workload reverses at most twice, unless the caps force a third time downwards; a pin
doubles from 10 to 60 minutes while the workload keeps reversing, and is forgotten after an hour of calm.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

WINDOW_MS = 600_000
REVERSALS = 2
FIRST_PIN_MS = 600_000
LONGEST_PIN_MS = 3_600_000
CALM_MS = 3_600_000


class Direction(StrEnum):
    """Towards fewer watts, or back."""

    DOWN = "Down"
    UP = "Up"


@dataclass(frozen=True, slots=True)
class MoveHistory:
    """What the power control did to one workload lately."""

    last: Direction | None = None
    reversals_ms: tuple[int, ...] = ()
    """Times of the changes of direction in the last ten minutes, oldest first."""
    pinned_until_ms: int = 0
    pin_ms: int = 0
    """Length of the last pin; 0 = none in the last hour."""

    def moved(self, direction: Direction, now_ms: int) -> MoveHistory:
        """The history after a move; the second reversal within ten minutes pins the workload."""
        if self.last in {None, direction}:
            return replace(self, last=direction)
        recent = (*(t for t in self.reversals_ms if t > now_ms - WINDOW_MS), now_ms)
        if len(recent) < REVERSALS:
            return replace(self, last=direction, reversals_ms=recent)
        calm = now_ms - self.pinned_until_ms > CALM_MS
        pin_ms = FIRST_PIN_MS if calm or not self.pin_ms else min(2 * self.pin_ms, LONGEST_PIN_MS)
        return MoveHistory(direction, recent, pinned_until_ms=now_ms + pin_ms, pin_ms=pin_ms)

    def may_rise_at(self, now_ms: int) -> int:
        """The earliest time for an upward move; `now_ms` when it is allowed at once.

        A restore may be followed by a forced shed, and both are reversals: an upward reversal waits until the ten
        minutes hold none.
        """
        free = max(now_ms, self.pinned_until_ms)
        if self.last is Direction.DOWN and self.reversals_ms:
            free = max(free, self.reversals_ms[-1] + WINDOW_MS)
        return free

    def pinned(self, now_ms: int) -> bool:
        """True while a pin lasts."""
        return now_ms < self.pinned_until_ms
