"""The two ledgers: what replicas may draw (committed) and what they draw (measured).

Decides how many milliwatts each cap is charged with. `committed` admits and restores; `measured` sheds. Never credits a
replica before its pod is gone, and never leaves a replica out because nothing is known about it.

Invariants: each replica counts in every cap that covers it and once in each; a stale reading is its worst case; adding
a charge never lowers a sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from lowbeam.power.caps import CapTree
from lowbeam.power.trust import MeterLimits, Quality, Verdict, age


class ReplicaState(StrEnum):
    """Where a replica is in its life; every state is charged."""

    LIVE = "live"
    PENDING = "pending"
    TERMINATING = "terminating"
    ASSUMED = "assumed"
    """Wanted by a Deployment and without a pod: a new one, or one that ended and is about to be made again."""


@dataclass(frozen=True, slots=True)
class ReplicaCharge:
    """One replica in the committed ledger."""

    namespace: str
    workload: str
    pool: str
    pod_uid: str
    """Empty for an assumed replica."""
    limit_milliwatts: int | None
    """Enforced limit of its boards together; None when unknown."""
    worst_case_milliwatts: int
    """Of the profile at the batch limit that the worker last confirmed (a promised lower limit is not a fact yet)."""
    highest_observed_milliwatts: int | None
    """Of the last 15 minutes; None when nothing was observed."""
    state: ReplicaState
    placement: str = ""
    """Which Deployment it belongs to (`planning.committed.placement_of`); empty when unknown."""
    accelerators: int = 0
    """Boards that it asks for; 0 for a CPU replica."""

    @property
    def milliwatts(self) -> int:
        """min(limit, max(worst case, highest observed))."""
        most = max(self.worst_case_milliwatts, self.highest_observed_milliwatts or 0)
        return most if self.limit_milliwatts is None else min(self.limit_milliwatts, most)


@dataclass(frozen=True, slots=True)
class Reading:
    """What is known about the draw of one replica whose containers have started (others draw nothing of their own).

    One per such replica, also when it never answered: then `milliwatts` is None.
    """

    namespace: str
    workload: str
    pool: str
    pod_uid: str
    accelerators: int
    milliwatts: int | None
    """The last believed value at its own time; None when missing or rejected."""
    sampled_at_ms: int
    worst_case_milliwatts: int
    """Enforced limit, else the class's maximum, over all its boards."""
    metered: bool = True

    @classmethod
    def judged(
        cls,
        verdict: Verdict,
        limits: MeterLimits,
        *,
        namespace: str,
        workload: str,
        pool: str,
        pod_uid: str,
        accelerators: int,
        sampled_at_ms: int,
    ) -> Reading:
        """The reading behind a verdict; each cap ages it by its own limits."""
        return cls(
            namespace=namespace,
            workload=workload,
            pool=pool,
            pod_uid=pod_uid,
            accelerators=accelerators,
            milliwatts=verdict.believed_milliwatts,
            sampled_at_ms=sampled_at_ms,
            worst_case_milliwatts=limits.worst_case_milliwatts,
            metered=verdict.metered,
        )


@dataclass(frozen=True, slots=True)
class Measured:
    """The measured ledger of one cap. Counts are accelerators (a CPU replica counts as one)."""

    milliwatts: int
    coverage_percent: int
    """Fresh share of the accelerators that have a meter; 100 when none has one (see `unmetered`)."""
    fresh: int = 0
    late: int = 0
    stale: int = 0
    unmetered: int = 0
    """Accelerators of workers that say they have no meter: counted at worst case, nothing to repair."""

    @property
    def heard_percent(self) -> int:
        """Share that is fresh or late: enough to shed by, not to restore by."""
        metered = self.fresh + self.late + self.stale
        return 100 * (self.fresh + self.late) // metered if metered else 100


def committed(tree: CapTree, charges: Iterable[ReplicaCharge]) -> dict[str, int]:
    """Milliwatts that may be drawn under each cap."""
    totals = {cap.name: 0 for cap in tree.caps}
    for charge in charges:
        for cap in tree.caps:
            if cap.covers(charge.namespace, charge.pool):
                totals[cap.name] += charge.milliwatts
    return totals


def over(
    tree: CapTree, totals: Mapping[str, int], extra: Mapping[str, int], asked: Mapping[str, int] | None = None
) -> tuple[str, ...]:
    """The enforced caps that are above usable with `extra` milliwatts. Caps that it does not raise are not its fault,
    unless milliwatts under them are `asked` for."""
    wanted = extra if asked is None else asked
    return tuple(
        cap.name
        for cap, usable in tree.admitted()
        if wanted.get(cap.name, 0) > 0 and totals.get(cap.name, 0) + extra.get(cap.name, 0) > usable
    )


def measured(tree: CapTree, readings: Iterable[Reading], now_ms: int) -> dict[str, Measured]:
    """What is drawn under each cap, each reading aged by that cap's own late and stale limits."""
    by_cap: dict[str, Measured] = {}
    known = tuple(readings)
    for cap in tree.caps:
        total = unmetered = 0
        counts = dict.fromkeys(Quality, 0)
        for reading in known:
            if not cap.covers(reading.namespace, reading.pool):
                continue
            worst = reading.worst_case_milliwatts
            if not reading.metered or reading.milliwatts is None:
                milliwatts, quality = worst, Quality.STALE
            else:
                elapsed = now_ms - reading.sampled_at_ms
                late_ms, stale_ms = cap.late_seconds * 1000, cap.stale_seconds * 1000
                milliwatts, quality = age(reading.milliwatts, elapsed, worst, late_ms, stale_ms)
            total += milliwatts
            boards = max(1, reading.accelerators)
            if reading.metered:
                counts[quality] += boards
            else:
                unmetered += boards
        metered = sum(counts.values())
        by_cap[cap.name] = Measured(
            milliwatts=total,
            coverage_percent=100 * counts[Quality.FRESH] // metered if metered else 100,
            fresh=counts[Quality.FRESH],
            late=counts[Quality.LATE],
            stale=counts[Quality.STALE],
            unmetered=unmetered,
        )
    return by_cap


def measured_by_workload(readings: Iterable[Reading]) -> dict[tuple[str, str, str], int]:
    """Last believed (else worst-case) milliwatts per (namespace, workload, pool): what moves are checked by."""
    totals: dict[tuple[str, str, str], int] = {}
    for reading in readings:
        key = (reading.namespace, reading.workload, reading.pool)
        value = reading.worst_case_milliwatts if reading.milliwatts is None else reading.milliwatts
        totals[key] = totals.get(key, 0) + value
    return totals
