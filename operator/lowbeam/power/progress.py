"""Whether moves do what they promised.

Decides how many of the watts that were promised are still to come, and which moves failed to deliver. The guard counts
the outstanding ones as gone, else it would shed twice for one crossing; after the settle time it does not, so a move
without effect is followed by the next one.

Invariant: at most what was promised is outstanding, and nothing after the settle time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lowbeam.power.caps import Cap

DELIVERED_PERCENT = 50
"""A move that gives less of its predicted drop within its settle time is ineffective."""

KEPT_PERCENT = 90
"""From here on a promise is kept: the rest is noise of the meters and of the load."""

Place = tuple[str, str, str]
"""(namespace, workload, pool)."""


@dataclass(frozen=True, slots=True)
class Promise:
    """The predicted drop in one pool of one move under way."""

    namespace: str
    workload: str
    pool: str
    baseline_milliwatts: int
    """What the workload drew there when the move was decided."""
    predicted_milliwatts: int
    decided_ms: int
    settle_ms: int

    @property
    def place(self) -> Place:
        """Where the drop is expected."""
        return (self.namespace, self.workload, self.pool)

    def delivered(self, drawn_milliwatts: int) -> int:
        """How much of the drop can be seen."""
        return max(0, min(self.predicted_milliwatts, self.baseline_milliwatts - drawn_milliwatts))


@dataclass(frozen=True, slots=True)
class Progress:
    """Promises that are still running, and those that were broken at this tick."""

    running: tuple[Promise, ...] = ()
    ineffective: tuple[Promise, ...] = ()


def check(promises: Iterable[Promise], drawn: Mapping[Place, int], now_ms: int) -> Progress:
    """Split promises by time and effect; kept and expired ones disappear."""
    running, broken = [], []
    for promise in promises:
        seen = promise.delivered(drawn.get(promise.place, 0))
        if seen * 100 >= KEPT_PERCENT * promise.predicted_milliwatts:
            continue
        if now_ms < promise.decided_ms + promise.settle_ms:
            running.append(promise)
        elif seen * 100 < DELIVERED_PERCENT * promise.predicted_milliwatts:
            broken.append(promise)
    return Progress(tuple(running), tuple(broken))


def outstanding(cap: Cap, promises: Iterable[Promise], drawn: Mapping[Place, int]) -> int:
    """Milliwatts under `cap` that running moves still have to free."""
    return sum(
        promise.predicted_milliwatts - promise.delivered(drawn.get(promise.place, 0))
        for promise in promises
        if cap.covers(promise.namespace, promise.pool)
    )
