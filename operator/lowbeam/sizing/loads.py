"""Loads: the latency of every (profile, batch limit) at every load, and the rate that a replica may be given.

Decides how much a replica may be given so that all latency targets hold at p95 under arrivals of the observed
burstiness. Never above MAX_UTILISATION of what was measured. A target per token must hold with every slot taken; a
target for the first token or the whole answer must hold at the load that the replica is given.

Replicas of one workload share its arrivals: the more there are, the nearer each one's are to Poisson. Burstiness is
taken from the next smaller count of STEPS, so that a count is never judged calmer than it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lowbeam.sizing import latency
from lowbeam.sizing.curves import Curves
from lowbeam.sizing.requirements import Requirements

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

LEAST_UTILISATION = 0.1
"""A batch limit that keeps the target only on a replica idle for 90 % of the time is not worth offering."""
STEPS = (1, 4, 16)
"""Replica counts from which a workload's burstiness is spread over more of them."""


@dataclass(frozen=True, slots=True)
class Loads:
    """Curves with their latency at every load of the table. First axis of all arrays: `steps`, then points."""

    curves: Curves
    steps: Ints
    """Replica counts from which each layer holds."""
    queue_ms: Floats
    """(steps, points, loads): p95 of what a request spends beyond its own service (`sizing.latency`)."""
    end_to_end_ms: Floats
    """(steps, points, loads): p95 from arrival to answer."""
    alone_ms: Floats
    """(points): p95 of the whole answer on an idle replica."""


@dataclass(frozen=True, slots=True)
class Capacities:
    """What one replica may be given under a workload's latency targets; 0 where it cannot keep them."""

    per_second: Floats
    """(steps, points)"""
    useful: Ints
    """Points whose capacity is above that of every smaller batch of the same profile, for some count of replicas."""


def loads_of(curves: Curves, cv: float) -> Loads:
    """Latency at every load for arrivals of this burstiness."""
    table = latency.latency_table()
    steps = np.array(STEPS if cv > 1 else STEPS[:1], dtype=np.int64)
    encoder = curves.is_encoder[curves.of]
    cells = table.cells(encoder, curves.batch, curves.slope())
    # An encoder's delay holds the service itself: only what the measured p95 is above it comes on top.
    own = np.where(encoder, np.maximum(curves.latency_p95_ms - curves.service_ms, 0.0), curves.latency_p95_ms)
    queue, whole = [], []
    for step in steps:
        local = latency.replica_cv(cv, int(step))
        waiting = table.rows(latency.DELAY_P95, cells, local) * curves.service_ms[:, None]
        queue.append(waiting)
        whole.append(waiting + table.rows(latency.OWN_P95, cells, local) * own[:, None])
    return Loads(curves, steps, np.stack(queue), np.stack(whole), alone_ms=whole[0][:, 0])


def spread_cv(cv: float, replicas: int) -> float:
    """The burstiness that a layer for so many replicas assumes at each of them."""
    return latency.replica_cv(cv, max(step for step in STEPS if step <= replicas)) if cv > 1 else 1.0


def capacities_of(needs: Requirements, loads: Loads) -> Capacities:
    """The rate at which every target still holds at p95."""
    curves, table = loads.curves, latency.latency_table()
    encoder = curves.is_encoder[curves.of]
    rates = []
    for queue, whole in zip(loads.queue_ms, loads.end_to_end_ms, strict=True):
        load = np.full(curves.batch.size, latency.MAX_UTILISATION)
        if needs.end_to_end_ms is not None:
            load = np.minimum(load, latency.highest_load(table, whole, needs.end_to_end_ms))
        if needs.time_to_first_token_ms is not None:
            # The answer of an encoder is its first token.
            begins = np.where(encoder[:, None], whole, queue + curves.first_token_ms[:, None])
            load = np.minimum(load, latency.highest_load(table, begins, needs.time_to_first_token_ms))
        if needs.inter_token_ms is not None:
            load = np.where(curves.inter_token_p95_ms <= needs.inter_token_ms, load, -1.0)
        rates.append(np.where(load >= LEAST_UTILISATION, curves.throughput * load, 0.0))
    per_second = np.stack(rates)
    useful = np.zeros(curves.batch.size, dtype=np.bool_)
    for rate in rates:
        useful |= (rate > 0) & _rises(curves, rate)
    return Capacities(per_second, np.flatnonzero(useful))


def end_to_end_p95_ms(loads: Loads, step: Ints, at: Ints, rate: Floats) -> Floats:
    """p95 from arrival to answer at `rate` per replica, by layer and point."""
    table, points = latency.latency_table(), loads.curves.batch.size
    rows = loads.end_to_end_ms.reshape(-1, table.load.size)
    load = np.minimum(rate / loads.curves.throughput[at], latency.MAX_UTILISATION)
    return latency.along_load(table, rows, step * points + at, load)


def _rises(curves: Curves, capacity: Floats) -> Flags:
    far = 1.0 + capacity.max(initial=0.0)
    shifted = capacity + curves.of * far
    before = np.concatenate([[-1.0], np.maximum.accumulate(shifted)[:-1]])
    result: Flags = shifted > before
    return result
