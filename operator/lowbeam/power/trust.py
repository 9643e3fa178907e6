"""How far one meter is believed.

Decides what a sample counts as: its own value, 10 % more because it is late, or the worst case because it is stale,
missing or impossible. Never answers 0 for something unknown, and never lets one meter count for more than its enforced
limit x 1.05, so that a lying sensor moves nothing but its own share.

Invariants: a rejected or stale meter counts at its worst case; a worker without a meter counts at the same worst case
but is told apart, because nobody has to repair it; units are those of the wire (watts, joules) and a claim that fits
only when multiplied or divided by 1000 is rejected by that name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import pairwise

LATE_MS = 5_000
"""An older reading is late (control.md)."""
STALE_MS = 15_000
"""An older one is stale."""
LATE_MARGIN_PERCENT = 10
"""A reading older than the late age: the last value plus this."""
CLAMP_PERCENT = 105
"""Boards overshoot their enforced limit briefly by a few percent; more than this is not believed."""
IMPOSSIBLE_PERCENT = 130
"""Above this share of the largest limit a value is an error, not an overshoot."""
TOO_LOW_PERCENT = 50
"""Below this share of the bare idle watts a powered board cannot be."""
DISAGREEMENT_PERCENT = 25
"""Largest difference between the energy counter and the power readings over `COMPARED_MS`."""
COMPARED_MS = 30_000
FROZEN_MS = 10_000
"""A busy board's energy counter cannot stand still for longer."""
UNIT_FACTOR = 1000


class Quality(StrEnum):
    """How good a reading is now."""

    FRESH = "Fresh"
    LATE = "Late"
    STALE = "Stale"


class Reason(StrEnum):
    """Why a sample counts as it does: metric label, Event reason and log field alike."""

    TRUSTED = "Trusted"
    CLAMPED = "ClampedToLimit"
    LATE = "SampleLate"
    STALE = "SampleStale"
    MISSING = "SampleMissing"
    NO_METER = "NoMeter"
    NOT_FINITE = "NotFinite"
    NEGATIVE = "Negative"
    UNIT = "UnitError"
    TOO_HIGH = "AboveMaximum"
    TOO_LOW = "BelowIdle"
    COUNTER_BACK = "CounterWentBack"
    COUNTER_FROZEN = "CounterFrozen"
    DISAGREES = "EnergyDisagrees"


@dataclass(frozen=True, slots=True)
class MeterLimits:
    """What is possible for the boards behind one meter, all together."""

    max_milliwatts: int
    """The class's default limit times the boards."""
    idle_milliwatts: int
    """Idle watts times the boards."""
    enforced_milliwatts: int | None = None
    """The power limit read back from the boards; None when unknown."""
    late_ms: int = LATE_MS
    stale_ms: int = STALE_MS

    @property
    def worst_case_milliwatts(self) -> int:
        """The enforced limit, else the class's maximum."""
        return self.max_milliwatts if self.enforced_milliwatts is None else self.enforced_milliwatts


@dataclass(frozen=True, slots=True)
class Sample:
    """What one meter claims, in the units of the wire; None where it claims nothing."""

    at_ms: int
    """When the meter was read, not when the answer arrived."""
    watts: float | None
    joules_total: float | None = None
    busy: bool = False
    """The worker had requests running."""
    metered: bool = True
    """False: the worker says that it has no meter (`method: unavailable`)."""
    missing_boards: int = 0
    """Boards of the replica that the claim does not contain."""


@dataclass(frozen=True, slots=True)
class MeterHistory:
    """The samples of one meter that the checks need, oldest first; starts anew when the counter goes back.

    Each meter has its own: a board, a worker and an agent count joules from moments of their own.
    """

    samples: tuple[Sample, ...] = ()

    def append(self, sample: Sample) -> MeterHistory:
        """The history with `sample`; one that is not newer than the last is left out."""
        if not self.samples:
            return MeterHistory((sample,))
        last = self.samples[-1]
        if sample.at_ms <= last.at_ms:
            return self
        if _went_back(last, sample):
            return MeterHistory((sample,))
        # One sample older than the compared time stays, so that the comparison spans all of it.
        since = sample.at_ms - COMPARED_MS
        first = max((i for i, s in enumerate(self.samples) if s.at_ms <= since), default=0)
        return MeterHistory((*self.samples[first:], sample))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a sample counts as."""

    milliwatts: int
    quality: Quality
    reason: Reason
    message: str = ""
    """What is wrong and what to look at; empty when nothing is."""
    metered: bool = True
    believed_milliwatts: int | None = None
    """What the meter said at its own time, clamped and without a margin for age; None when it is not believed."""

    @property
    def trusted(self) -> bool:
        """True when the value comes from the meter."""
        return self.quality is not Quality.STALE


def judge(sample: Sample | None, previous: MeterHistory, limits: MeterLimits, now_ms: int) -> Verdict:
    """Judge the newest sample of a meter against its history (without that sample) and its limits.

    Append the sample to the history after judging it, also when it was rejected: recovery needs the comparison.
    """
    if sample is None:
        return _worst(limits, Reason.MISSING, "no reading yet: check that the worker's control port answers")
    if not sample.metered:
        return replace(_worst(limits, Reason.NO_METER, ""), metered=False)
    rejected = _rejection(sample, previous, limits)
    if rejected is not None:
        return _worst(limits, *rejected)
    assert sample.watts is not None  # noqa: S101  # _rejection answers Missing for None
    milliwatts = math.ceil(sample.watts * 1000)
    worst = limits.worst_case_milliwatts
    believed = min(milliwatts, worst * CLAMP_PERCENT // 100)
    aged, quality = age(believed, now_ms - sample.at_ms, worst, limits.late_ms, limits.stale_ms)
    reason, message = Reason.TRUSTED, ""
    if quality is Quality.STALE:
        reason, message = Reason.STALE, f"last reading {(now_ms - sample.at_ms) / 1000:.0f} s old"
    elif believed < milliwatts:
        reason, message = Reason.CLAMPED, f"{sample.watts:.0f} W is above the enforced limit: check limit and meter"
    elif quality is Quality.LATE:
        reason = Reason.LATE
    return Verdict(aged, quality, reason, message, believed_milliwatts=believed)


def age(milliwatts: int, age_ms: int, worst_case_milliwatts: int, late_ms: int, stale_ms: int) -> tuple[int, Quality]:
    """What a believed value counts as at this age; never more than the worst case x 1.05."""
    if age_ms > stale_ms:
        return worst_case_milliwatts, Quality.STALE
    ceiling = worst_case_milliwatts * CLAMP_PERCENT // 100
    if age_ms > late_ms:
        return min(-(-milliwatts * (100 + LATE_MARGIN_PERCENT) // 100), ceiling), Quality.LATE
    return min(milliwatts, ceiling), Quality.FRESH


def _worst(limits: MeterLimits, reason: Reason, message: str) -> Verdict:
    return Verdict(limits.worst_case_milliwatts, Quality.STALE, reason, message)


def _rejection(sample: Sample, previous: MeterHistory, limits: MeterLimits) -> tuple[Reason, str] | None:
    """The first reason not to believe the sample, in order: shape, boards, range, counter, agreement."""
    watts, joules = sample.watts, sample.joules_total
    if watts is None:
        return Reason.MISSING, "the worker answers without watts: check its meter"
    if sample.missing_boards:
        missing = "1 of its boards has" if sample.missing_boards == 1 else f"{sample.missing_boards} of its boards have"
        return Reason.MISSING, f"{missing} no reading: check the exporter on its node, or CUDA_VISIBLE_DEVICES"
    if not math.isfinite(watts) or (joules is not None and not math.isfinite(joules)):
        return Reason.NOT_FINITE, f"reading {watts} W is not a number: check the meter"
    if watts < 0 or (joules is not None and joules < 0):
        return Reason.NEGATIVE, f"reading {watts:g} W is negative: check the meter"
    out_of_range = _range_rejection(watts, limits)
    if out_of_range is not None:
        return out_of_range
    if joules is None or not previous.samples:
        return None
    last = previous.samples[-1]
    if _went_back(last, sample):
        return Reason.COUNTER_BACK, f"energy counter fell from {last.joules_total:g} to {joules:g} J (driver reloaded?)"
    return _counter_rejection(sample, joules, previous, limits)


def _range_rejection(watts: float, limits: MeterLimits) -> tuple[Reason, str] | None:
    highest = limits.max_milliwatts * IMPOSSIBLE_PERCENT / 100_000
    lowest = limits.idle_milliwatts * TOO_LOW_PERCENT / 100_000
    if lowest <= watts <= highest:
        return None
    possible = f"possible are {lowest:.0f} to {highest:.0f} W"
    for factor, unit in ((1 / UNIT_FACTOR, "milliwatts"), (UNIT_FACTOR, "kilowatts")):
        if limits.idle_milliwatts * TOO_LOW_PERCENT / 100_000 <= watts * factor <= highest and watts > 0:
            return Reason.UNIT, f"reading {watts:g} W looks like {unit}; {possible}: correct the meter's unit"
    if watts > highest:
        return Reason.TOO_HIGH, f"reading {watts:g} W; {possible}: check the meter"
    return Reason.TOO_LOW, f"reading {watts:g} W; {possible}: check the meter"


def _went_back(last: Sample, sample: Sample) -> bool:
    return last.joules_total is not None and sample.joules_total is not None and sample.joules_total < last.joules_total


def _counter_rejection(
    sample: Sample, joules: float, previous: MeterHistory, limits: MeterLimits
) -> tuple[Reason, str] | None:
    # Samples that were rejected by their range are no evidence: a glitch must not make the 30 s after it disagree.
    evidence = [s for s in previous.samples if s.at_ms < sample.at_ms and _is_evidence(s, limits)]
    span = [*evidence, sample]
    still = [s for s in span if s.joules_total == joules]
    if all(s.busy for s in still) and sample.at_ms - still[0].at_ms > FROZEN_MS:
        seconds = (sample.at_ms - still[0].at_ms) / 1000
        return (
            Reason.COUNTER_FROZEN,
            f"busy, but the energy counter has stood still for {seconds:.0f} s: check the meter",
        )
    begin = max((i for i, s in enumerate(evidence) if s.at_ms <= sample.at_ms - COMPARED_MS), default=None)
    if begin is None:
        return None
    # What was drawn while nobody looked is in the counter and in no reading.
    near = [(a, b) for a, b in pairwise(span[begin:]) if b.at_ms - a.at_ms <= LATE_MS]
    seconds = sum(b.at_ms - a.at_ms for a, b in near) / 1000
    if seconds * 1000 < FROZEN_MS:
        return None
    counted = sum((b.joules_total or 0.0) - (a.joules_total or 0.0) for a, b in near)
    summed = sum(((a.watts or 0.0) + (b.watts or 0.0)) / 2 * (b.at_ms - a.at_ms) / 1000 for a, b in near)
    if abs(counted - summed) * 100 <= DISAGREEMENT_PERCENT * max(counted, summed):
        return None
    return (
        Reason.DISAGREES,
        f"over {seconds:.0f} s the energy counter says {counted / seconds:.0f} W and the power readings "
        f"{summed / seconds:.0f} W: check the meter",
    )


def _is_evidence(sample: Sample, limits: MeterLimits) -> bool:
    watts, joules = sample.watts, sample.joules_total
    if watts is None or joules is None or sample.missing_boards:
        return False
    if not math.isfinite(watts) or not math.isfinite(joules):
        return False
    return _range_rejection(watts, limits) is None
