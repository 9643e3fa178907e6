"""What may be said of repeated figures: their mean with its confidence, their tail, and whether they stand still.

Pure. Decides when a figure is too unsure to be stated: a tail that too few values reach is None, never a guess.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

CONFIDENCE_PERCENT = 95
_STUDENT = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
"""Student's t for 95 %, two-sided, by degrees of freedom from 1 (NIST/SEMATECH e-Handbook of Statistical Methods,
1.3.6.7.2, column 0.975)."""
LEAST_REPEATS, MOST_REPEATS = 3, len(_STUDENT) + 1
STEADY_WINDOWS = 3
"""So many windows in a row must agree before anything counts."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean, and how far the true one may be from it with 95 % confidence."""

    mean: float
    half_width: float
    repeats: int

    @property
    def share(self) -> float:
        """Half-width over the mean; infinite for a mean of 0."""
        return self.half_width / abs(self.mean) if self.mean else math.inf


def interval(values: Sequence[float]) -> Interval:
    """Of `LEAST_REPEATS` to `MOST_REPEATS` independent repeats, taken as normally distributed."""
    if not LEAST_REPEATS <= len(values) <= MOST_REPEATS:
        raise ValueError(f"{len(values)} repeats are outside {LEAST_REPEATS} to {MOST_REPEATS}")
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return Interval(mean, _STUDENT[len(values) - 2] * math.sqrt(variance / len(values)), len(values))


def quantile(values: Sequence[tuple[float, int]], thousandths: int) -> float | None:
    """The value that so many thousandths of the values do not exceed, by nearest rank; each comes with its count.

    None when not even one value is expected beyond it: 20 values tell a 95th percentile and no 99th.
    """
    ordered = sorted(values)
    ranks = list(accumulate(count for _, count in ordered))
    total = ranks[-1] if ranks else 0
    if total * (1000 - thousandths) < 1000:
        return None
    return next(value for (value, _), rank in zip(ordered, ranks, strict=True) if rank * 1000 >= total * thousandths)


def spread(values: Sequence[float]) -> float:
    """Between the largest and the smallest, over their mean; infinite for a mean of 0."""
    mean = math.fsum(values) / len(values)
    return (max(values) - min(values)) / abs(mean) if mean else math.inf


def is_steady(values: Sequence[float], most_spread: float) -> bool:
    """True when the last `STEADY_WINDOWS` figures agree."""
    last = values[-STEADY_WINDOWS:]
    return len(last) == STEADY_WINDOWS and spread(last) <= most_spread
