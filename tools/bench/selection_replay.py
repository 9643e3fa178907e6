"""One workload on one choice, replayed request by request: joules, and which latency targets were kept.

Decides nothing. The queues are those of `tools.latency` (a batch service for answers that come as a whole, slots for
text), with the curve of the profile at the workload's lengths, real arrivals and real lengths. Watts follow what runs
at every moment, idle boards included, and are not those that sizing forecast. Arrivals go to the replicas at random, as
a Service sends them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lowbeam.sizing import Requirements
from lowbeam.sizing.operating_point import Curve
from tools.bench.selection_cases import Moment
from tools.latency import replay as queues
from tools.traces.servegen import WINDOW_SECONDS

Floats = NDArray[np.float64]


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
            kept &= bool(np.quantile(times, queues.SHARE, method="inverted_cdf") <= limit)
    between, tokens = (np.concatenate([getattr(it, name) for it in outcomes]) for name in ("between_ms", "tokens"))
    if needs.inter_token_ms is not None and between.size:
        slow = float(tokens[between > needs.inter_token_ms].sum())
        kept &= slow <= (1 - queues.SHARE) * float(tokens.sum())
    return kept


def replay(setting: Setting, moment: Moment, seed: int) -> Outcome:
    """Run one window."""
    curve, at = setting.curve, setting.at
    service = float(curve.service_ms[at]) / 1000
    slope = float(curve.slope()[at])
    limit = int(curve.batch[at])
    encoder = bool(curve.is_encoder[0])
    replica = queues.Replica(encoder, limit, slope, service)
    to = np.random.default_rng(seed).integers(0, setting.replicas, moment.arrivals.size)
    seen = [
        queues.replay(replica, moment.arrivals[to == number], moment.work[to == number])
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
