"""Event simulation of an encoder: one server that takes what has arrived, up to a batch limit.

A batch of k takes (1 - slope) + slope x k / limit of the time of a full batch, which is the unit of time. All lanes
(load, limit, slope) of one burstiness run in lock step on the same arrivals; one step is one batch of every lane that
still has requests. Decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .arrivals import gamma_arrivals
from .histogram import Histogram

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

QUANTILES = (0.5, 0.95, 0.99)
WARM_UP_SHARE = 0.1
"""Requests at the start that are not counted: the queue begins empty."""
_CHUNK = 256


@dataclass(frozen=True, slots=True)
class Lanes:
    """Parallel columns, one simulated replica each. Load is the rate over the throughput at full batches."""

    load: Floats
    limit: Floats
    slope: Floats

    def batch_time(self, batch: Floats, rows: Ints | slice = slice(None)) -> Floats:
        """Time of a batch, or of an iteration with so many requests running."""
        slope: Floats = self.slope[rows]
        result: Floats = (1 - slope) + slope * batch / self.limit[rows]
        return result


def sojourn_quantiles(lanes: Lanes, cv: float, requests: int) -> Floats:
    """(3, lanes): p50, p95 and p99 of the time from arrival to answer, in times of a full batch."""
    arrivals = gamma_arrivals(cv, requests, 1)
    rate = lanes.load * lanes.limit
    found = Histogram(rate.size)
    alive = np.arange(rate.size)
    first = np.zeros(rate.size, dtype=np.int64)
    free_at = np.zeros(rate.size)
    steps: list[tuple[Ints, Ints, Ints, Floats]] = []
    while alive.size:
        speed, begin = rate[alive], first[alive]
        start = np.maximum(free_at[alive], arrivals[begin] / speed)
        # A request that arrives exactly at the start goes along, whatever rounding says.
        waiting = np.searchsorted(arrivals, start * speed, side="right")
        end = np.maximum(begin + 1, np.minimum(waiting, begin + lanes.limit[alive].astype(np.int64)))
        done = start + lanes.batch_time((end - begin).astype(np.float64), alive)
        steps.append((alive, begin, end, done))
        free_at[alive], first[alive] = done, end
        alive = alive[end < requests]
        if len(steps) >= _CHUNK or not alive.size:
            _count(found, steps, arrivals, rate)
            steps.clear()
    return np.stack([found.quantile(share) for share in QUANTILES])


def _count(found: Histogram, steps: list[tuple[Ints, Ints, Ints, Floats]], arrivals: Floats, rate: Floats) -> None:
    lane, begin, end, done = (np.concatenate([step[i] for step in steps]) for i in range(4))
    size = end - begin
    lane_of, done_of = np.repeat(lane, size), np.repeat(done, size)
    within = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
    request = np.repeat(begin, size) + within
    counted = request >= arrivals.size * WARM_UP_SHARE
    lane_of, request = lane_of[counted], request[counted]
    found.add(lane_of, done_of[counted] - arrivals[request] / rate[lane_of])
