"""One workload on one choice, replayed request by request: joules, and which latency targets were kept.

Decides nothing. The queues are those of `tools.latency` (a batch service for answers that come as a whole, slots for
text), with the curve of the profile at the workload's lengths, real arrivals and real lengths. Watts follow what runs
at every moment, idle boards included, and are not those that sizing forecast. Arrivals go to the replicas at random, as
a Service sends them.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lowbeam.sizing import Requirements
from lowbeam.sizing.operating_point import Curve
from tools.bench.selection_cases import Moment
from tools.latency.replay import Replica
from tools.traces.servegen import WINDOW_SECONDS

Floats = NDArray[np.float64]

SHARE = 0.95


@dataclass(frozen=True, slots=True)
class Setting:
    """What was chosen: a curve at the workload's lengths, the batch limit as a point of it, and replicas."""

    profile: str
    quality_centi: int | None
    curve: Curve
    at: int
    replicas: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one replay saw: joules, and the times of its requests and tokens in ms."""

    joules: float
    whole_ms: Floats
    """Per request, arrival to answer."""
    first_ms: Floats
    """Per request, arrival to first token; the whole answer where it comes as a whole."""
    between_ms: Floats
    """Time between tokens while so many ran; empty where the answer comes as a whole."""
    tokens: Floats
    """How many tokens were written so, in requests running x seconds."""


def keeps(needs: Requirements, outcomes: Sequence[Outcome]) -> bool:
    """Whether every latency target held at p95 over all replayed requests."""
    kept = True
    for limit, name in ((needs.end_to_end_ms, "whole_ms"), (needs.time_to_first_token_ms, "first_ms")):
        if limit is not None:
            times = np.concatenate([getattr(outcome, name) for outcome in outcomes])
            kept &= bool(np.quantile(times, SHARE, method="inverted_cdf") <= limit)
    between, tokens = (np.concatenate([getattr(it, name) for it in outcomes]) for name in ("between_ms", "tokens"))
    if needs.inter_token_ms is not None and between.size:
        slow = float(tokens[between > needs.inter_token_ms].sum())
        kept &= slow <= (1 - SHARE) * float(tokens.sum())
    return kept


@dataclass(slots=True)
class _Seen:
    """Of one replica: seconds with so many running, and per request its wait and its time from arrival to answer."""

    busy: Floats
    waits: Floats
    wholes: Floats


def replay(setting: Setting, moment: Moment, seed: int) -> Outcome:
    """Run one window."""
    curve, at = setting.curve, setting.at
    service = float(curve.service_ms[at]) / 1000
    slope = float(curve.slope()[at])
    limit = int(curve.batch[at])
    encoder = bool(curve.is_encoder[0])
    replica = Replica(encoder, limit, slope, service)
    to = np.random.default_rng(seed).integers(0, setting.replicas, moment.arrivals.size)
    seen = [
        (_batches if encoder else _slots)(replica, moment.arrivals[to == number], moment.work[to == number])
        for number in range(setting.replicas)
    ]
    busy = np.sum([one.busy for one in seen], axis=0)
    waits, wholes = (np.concatenate([getattr(one, name) for one in seen]) * 1000 for name in ("waits", "wholes"))
    joules = _joules(curve, busy, setting.replicas)
    if encoder:
        wholes += max(0.0, float(curve.latency_p95_ms[at] - curve.service_ms[at]))
        return Outcome(joules, wholes, wholes, np.zeros(0), np.zeros(0))
    running = np.arange(1, busy.size)
    pace = np.array([replica.pace(int(number)) for number in running])
    return Outcome(
        joules=joules,
        whole_ms=wholes,
        first_ms=waits + float(curve.first_token_ms[at]),
        between_ms=np.interp(running, curve.batch, curve.inter_token_p95_ms),
        tokens=busy[1:] * running / np.maximum(pace, 1e-9),
    )


def _joules(curve: Curve, busy: Floats, replicas: int) -> float:
    """Watts by what runs; a replica draws idle watts for the rest of the window."""
    running = np.arange(busy.size)
    idle = float(curve.idle_milliwatts[0])
    watts = np.interp(running, np.concatenate([[0.0], curve.batch]), np.concatenate([[idle], curve.milliwatts])) / 1000
    total = float((busy * watts).sum())
    rest = max(0.0, WINDOW_SECONDS * replicas - float(busy.sum()))
    return total + rest * idle / 1000


def _batches(replica: Replica, arrival: Floats, work: Floats) -> _Seen:
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
    return _Seen(busy, np.zeros_like(work), wholes)


def _slots(replica: Replica, arrival: Floats, work: Floats) -> _Seen:
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
    return _Seen(busy, waits, wholes)
