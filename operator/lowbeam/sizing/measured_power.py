"""Whether live watts contradict the profile that a replica was chosen by, and what then counts instead.

Decides when a contradiction is certain and by how much the profile is off. Pure. Never looks at a meter: what arrives
here was believed by `power.trust`, is fresh, and covers boards that are the replica's alone.

How
- Each interval between two readings compares the draw with the profile's watts at the rate of that interval: bursts
  within a window must not look like a wrong profile. Both are added up over a window. Intervals of an almost idle
  replica are left out: idle watts belong to the class, not to the profile.
- A window far enough off (`CONTRADICTED_PERCENT`) is one vote. After `VOTES` in a row to the same side the profile is
  contradicted: from then on it counts times the median of those windows, in steps of `demand.STEP_PERCENT`. After
  `VOTES` windows in a row within `AGREED_PERCENT` it counts as published again. In between nothing changes.
- The factor holds for every batch of the profile, on this workload only: the same boards and requests were measured at
  one batch and not at the others, and a shifted curve is nearer to the truth there than one that is known to be wrong.

Invariants: no votes without measurement; a factor below 1 lowers expected watts and joules, never the worst case that
the committed ledger charges; the factor belongs to the profile as it was when it was measured, and ends with it.
"""

from __future__ import annotations

import statistics
from bisect import bisect_right
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lowbeam.catalog.facts import AcceleratorClass, EnergyProfile, Model
from lowbeam.sizing.correction import Correction, ProfileKey
from lowbeam.sizing.demand import STEP_PERCENT
from lowbeam.sizing.operating_point import at_lengths, measured_curve
from lowbeam.sizing.words import figure

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CONTRADICTED_PERCENT = 30
"""A window further off than this speaks against the profile. Boards of one class differ by less than half of it."""
AGREED_PERCENT = 20
"""A window nearer than this speaks for it. Between the two it says nothing, so that nothing flaps at the edge."""
VOTES = 3
MOST_PERCENT = 10_000
"""A hundred times the profile: its unit is wrong, and the boards' limit is what counts."""
BUSY_PERCENT = 10
"""Share of the profile's highest throughput below which an interval is left out."""
SEEN_PERCENT = 50
"""Share of the ready replicas' time in a window that has to be measured and busy."""


@dataclass(frozen=True, slots=True)
class PowerCurve:
    """Watts of one replica over its rate, at the lengths of the workload's requests."""

    millirps: tuple[float, ...]
    milliwatts: tuple[float, ...]

    def at(self, millirps: float) -> float:
        """Milliwatts at a rate; beyond the last point those of the last point."""
        place = bisect_right(self.millirps, millirps)
        if place == len(self.millirps):
            return self.milliwatts[-1]
        left, right = self.millirps[place - 1], self.millirps[place]
        share = (millirps - left) / (right - left)
        return self.milliwatts[place - 1] + share * (self.milliwatts[place] - self.milliwatts[place - 1])

    def busy(self, millirps: float) -> bool:
        """Whether the draw at this rate says something about the profile."""
        return millirps * 100 >= self.millirps[-1] * BUSY_PERCENT


def power_curve(
    profile: EnergyProfile, model: Model, accelerator: AcceleratorClass, *, input_tokens: int, output_tokens: int
) -> PowerCurve:
    """The profile's watts at these lengths, from idle at rate 0 on."""
    curve = at_lengths(
        measured_curve(profile, accelerator),
        profile,
        model,
        accelerator,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
    )
    return PowerCurve(
        (0.0, *(float(rate) * 1000 for rate in curve.throughput)),
        (float(curve.idle_milliwatts[0]), *(float(milliwatts) for milliwatts in curve.milliwatts)),
    )


@dataclass(frozen=True, slots=True)
class Comparison:
    """Measured and expected draw of one window, added up: milliwatts times milliseconds."""

    measured: float = 0.0
    expected: float = 0.0
    milliseconds: int = 0
    requests: int = 0

    def with_interval(
        self, curve: PowerCurve, *, measured_milliwatts: int, requests: int, milliseconds: int
    ) -> Comparison:
        """With one interval of one replica; as it was where that one was nearly idle."""
        rate = requests * 1_000_000 / milliseconds
        if not curve.busy(rate):
            return self
        return Comparison(
            self.measured + measured_milliwatts * milliseconds,
            self.expected + curve.at(rate) * milliseconds,
            self.milliseconds + milliseconds,
            self.requests + requests,
        )

    def percent(self, ready_ms: int) -> int | None:
        """Measured in percent of expected; None where too little of the replicas' time was compared."""
        if self.expected <= 0 or ready_ms <= 0 or self.milliseconds * 100 < ready_ms * SEEN_PERCENT:
            return None
        return round(self.measured * 100 / self.expected)

    def per_replica(self) -> tuple[int, int, float]:
        """(measured watts, expected watts, requests per second) of one replica, for people."""
        watts = 1000 * self.milliseconds
        return round(self.measured / watts), round(self.expected / watts), self.requests * 1000 / self.milliseconds


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the windows of one workload on one profile said so far."""

    key: ProfileKey
    digest: str
    votes: tuple[int, ...] = ()
    """Percentages of the last `VOTES` windows that were compared, oldest first."""
    percent: int = 100
    """What the profile counts: 100 until it is contradicted."""
    evidence: str = ""
    """Figures of the contradiction, in words."""

    @property
    def contradicted(self) -> bool:
        """Whether the measured value stands in for the profile's."""
        return self.percent != 100

    @property
    def compared(self) -> bool:
        """Whether enough windows were compared to say anything."""
        return len(self.votes) >= VOTES

    @property
    def correction(self) -> Correction | None:
        """For sizing; None while the profile holds."""
        return Correction(self.key, self.digest, self.percent) if self.contradicted else None


def vote(before: Judgement, comparison: Comparison, ready_ms: int) -> Judgement:
    """The judgement after one more window."""
    percent = comparison.percent(ready_ms)
    if percent is None:
        return before
    now = replace(before, votes=(*before.votes, percent)[-VOTES:])
    if not now.compared:
        return now
    if all(abs(it - 100) <= AGREED_PERCENT for it in now.votes):
        return replace(now, percent=100, evidence="")
    above, below = (all((it - 100) * side > CONTRADICTED_PERCENT for it in now.votes) for side in (1, -1))
    if not above and not below:
        return now
    median = round(statistics.median(now.votes))
    # One step of difference is noise: the plan is not made anew for it.
    if now.contradicted and abs(median - now.percent) * 100 <= now.percent * STEP_PERCENT:
        return now
    measured, expected, rate = comparison.per_replica()
    evidence = f"{measured} W instead of {expected} W at {figure(rate)} requests/s per replica"
    return replace(now, percent=min(max(1, median), MOST_PERCENT), evidence=evidence)


def corrected(expected: Floats, worst: Floats, percent: Ints, limit_milliwatts: Ints) -> tuple[Floats, Floats]:
    """(expected, worst-case) milliwatts with each one's percentage; never raised above the boards' limit (0 = unknown).

    The worst case only rises: what the ledger charges must hold also when the measurement was of a quiet hour.
    """
    limit = np.where(limit_milliwatts > 0, limit_milliwatts, np.inf)
    raised = (np.maximum(figure, np.minimum(figure * percent / 100, limit)) for figure in (expected, worst))
    higher, worst = raised
    return np.where(percent < 100, expected * percent / 100, higher), worst
