"""Replay of real arrivals through the same two queues, request by request, and how far the tables are from it.

Written apart from the simulation that fills the tables: a heap instead of lanes in lock step, and the lengths of the
trace instead of exponential ones. Decides nothing.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lowbeam.sizing import latency

Floats = NDArray[np.float64]

SHARE = 0.95
"""The quantile that is compared: latency targets are 95th percentiles."""


@dataclass(frozen=True, slots=True)
class Replica:
    """A replica to replay on; a full batch (all slots taken) serves a request in `full_seconds` on average."""

    encoder: bool
    limit: int
    slope: float
    full_seconds: float

    @property
    def most_per_second(self) -> float:
        """Throughput at full batches."""
        return self.limit / self.full_seconds

    def pace(self, running: int) -> float:
        """Time of a batch, or an iteration, of so many against a full one."""
        return (1 - self.slope) + self.slope * running / self.limit


@dataclass(frozen=True, slots=True)
class Seen:
    """Of one replica: seconds with so many running, and per request its wait and its time from arrival to answer."""

    busy: Floats
    waits: Floats
    wholes: Floats


def replay(replica: Replica, arrival: Floats, work: Floats) -> Seen:
    """Every request, in seconds. `work`: length of each answer against the mean; encoders answer all alike."""
    return _batches(replica, arrival, work) if replica.encoder else _slots(replica, arrival, work)


def predicted_p95(replica: Replica, rate: float, cv: float, work_p95: float) -> float:
    """What sizing reads from the tables for the same replica, in seconds.

    `work_p95` is the p95 length of an answer against the mean: a profile knows it as its p95 latency.
    """
    table = latency.latency_table()
    cells = table.cells(np.array([replica.encoder]), np.array([float(replica.limit)]), np.array([replica.slope]))
    load = np.array([min(rate / replica.most_per_second, latency.MAX_UTILISATION)])
    delay, pace = (
        float(latency.along_load(table, table.rows(figure, cells, cv), np.zeros(1, dtype=np.int64), load)[0])
        for figure in (latency.DELAY_P95, latency.OWN_P95)
    )
    own = 0.0 if replica.encoder else work_p95 * pace
    return (delay + own) * replica.full_seconds


def _batches(replica: Replica, arrival: Floats, work: Floats) -> Seen:
    """One batch after the other takes what has arrived, up to the limit; answers are all alike."""
    busy, wholes = np.zeros(replica.limit + 1), np.empty_like(arrival)
    first, free_at = 0, 0.0
    while first < arrival.size:
        start = max(free_at, float(arrival[first]))
        size = max(1, min(int(np.searchsorted(arrival, start, side="right")) - first, replica.limit))
        seconds = replica.pace(size) * replica.full_seconds
        free_at = start + seconds
        busy[size] += seconds
        wholes[first : first + size] = free_at - arrival[first : first + size]
        first += size
    return Seen(busy, np.zeros_like(work), wholes)


def _slots(replica: Replica, arrival: Floats, work: Floats) -> Seen:
    """All running requests advance alike, so each ends when the common progress reaches its own."""
    busy, waits, wholes = np.zeros(replica.limit + 1), np.zeros_like(arrival), np.zeros_like(arrival)
    pace = [replica.pace(running) * replica.full_seconds for running in range(replica.limit + 1)]
    progress = now = 0.0
    ends: list[tuple[float, int]] = []
    waiting: list[int] = []
    begun = 0
    for request in [*range(arrival.size), -1]:
        until = float(arrival[request]) if request >= 0 else float("inf")
        while ends:
            running = len(ends)
            moment = now + (ends[0][0] - progress) * pace[running]
            if moment > until:
                progress += (until - now) / pace[running]
                busy[running] += until - now
                break
            busy[running] += moment - now
            progress, now = ends[0][0], moment
            done = heapq.heappop(ends)[1]
            wholes[done] = moment - arrival[done]
            if begun < len(waiting):
                chosen = waiting[begun]
                waits[chosen] = moment - arrival[chosen]
                heapq.heappush(ends, (progress + float(work[chosen]), chosen))
                begun += 1
        now = until
        if request < 0:
            break
        if len(ends) < replica.limit:
            heapq.heappush(ends, (progress + float(work[request]), request))
        else:
            waiting.append(request)
    return Seen(busy, waits, wholes)
