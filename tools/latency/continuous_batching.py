"""Event simulation of a decoder: so many slots, each iteration advances every running request by one token.

With n requests running, an iteration takes (1 - slope) + slope x n / slots of one with all slots taken. Answers have
exponential lengths (ServeGen finds the same of real ones), so the next of n to end is any of them.
The unit of time is the mean time in service with all slots taken. Requests wait in order of arrival for a slot.

All lanes (load, slots, slope) of one burstiness run in lock step on the same random numbers; one step is one arrival or
one answer in every lane. Decides nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .arrivals import SEED, gamma_arrivals, unit_exponentials
from .batch_service import QUANTILES, WARM_UP_SHARE, Lanes
from .histogram import Histogram

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_CHUNK = 256
_LEAST_PACE = 1e-12
"""An idle replica whose iterations cost nothing but their requests has no pace: nothing to divide by."""


def delays_and_paces(lanes: Lanes, cv: float, requests: int) -> Floats:
    """(9, lanes): p50, p95, p99 of the wait for a slot, of the own time, and over all tokens of the iteration's time.

    Waits in mean times of service with all slots taken; the own time in a slot against the same quantile with all slots
    taken; iterations in times of one with all slots taken.
    """
    arrivals, drawn = gamma_arrivals(cv, requests, 2), unit_exponentials(cv, 2 * requests, 2)
    leaving = np.random.default_rng([SEED, round(cv * 1000), 3]).random(2 * requests)
    count, most = lanes.load.size, int(lanes.limit.max())
    rate, slots = lanes.load * lanes.limit, lanes.limit.astype(np.int64)
    waits, services, tokens = Histogram(count), Histogram(count), np.zeros((count, most + 1))
    began = np.zeros((count, most + 1))
    running, started, arrived = (np.zeros(count, dtype=np.int64) for _ in range(3))
    now = np.zeros(count)
    alive = np.arange(count)
    begins: list[tuple[Ints, Ints, Floats]] = []
    ends: list[tuple[Ints, Floats]] = []
    for exponential, who in zip(drawn, leaving, strict=True):
        speed, busy, came = rate[alive], running[alive], arrived[alive]
        pace = lanes.batch_time(busy.astype(np.float64), alive)
        to_arrival = arrivals[came] / speed - now[alive]
        to_answer = np.where(busy > 0, exponential * pace / np.maximum(busy, 1), np.inf)
        arrives = to_arrival <= to_answer
        passed = np.minimum(to_arrival, to_answer)
        counted = came >= requests * WARM_UP_SHARE
        tokens[alive, busy] += np.where(counted & (busy > 0), passed * busy / np.maximum(pace, _LEAST_PACE), 0.0)
        moment = now[alive] + passed
        now[alive] = moment
        done = np.flatnonzero(~arrives)
        chosen, last = (who * busy[done]).astype(np.int64), busy[done] - 1
        lane = alive[done]
        warm = counted[done]
        ends.append((lane[warm], moment[done][warm] - began[lane, chosen][warm]))
        began[lane, chosen] = began[lane, last]
        came = came + arrives
        busy = busy - ~arrives
        begin = started[alive]
        starts = (busy < slots[alive]) & (begin < came)
        row = np.flatnonzero(starts)
        begins.append((alive[row], begin[row], moment[row]))
        began[alive[row], busy[row]] = moment[row]
        running[alive], started[alive], arrived[alive] = busy + starts, begin + starts, came
        if (came >= requests).any():
            alive = alive[came < requests]
        if len(begins) >= _CHUNK or not alive.size:
            _count(waits, begins, arrivals, rate)
            services.add(*(np.concatenate([end[i] for end in ends]) for i in range(2)))
            begins.clear()
            ends.clear()
        if not alive.size:
            break
    own = np.stack([services.quantile(share) / -np.log(1 - share) for share in QUANTILES])
    return np.concatenate([np.stack([waits.quantile(share) for share in QUANTILES]), own, _paces(lanes, tokens)])


def _count(waits: Histogram, begins: list[tuple[Ints, Ints, Floats]], arrivals: Floats, rate: Floats) -> None:
    lane, request, start = (np.concatenate([begin[i] for begin in begins]) for i in range(3))
    counted = request >= arrivals.size * WARM_UP_SHARE
    lane, request, start = lane[counted], request[counted], start[counted]
    waits.add(lane, start - arrivals[request] / rate[lane])


def _paces(lanes: Lanes, tokens: Floats) -> Floats:
    """Quantiles of the iteration's time over all tokens written."""
    cumulative = np.cumsum(tokens / tokens.sum(axis=1, keepdims=True), axis=1)
    return np.stack([lanes.batch_time((cumulative < q).sum(axis=1).astype(np.float64)) for q in QUANTILES])
