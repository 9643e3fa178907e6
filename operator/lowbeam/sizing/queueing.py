"""Queueing: how busy a replica may be before the wait breaks a latency target.

A replica with batch limit b is modelled as a queue with b servers of mean service S(b) and Poisson arrivals (M/M/b,
Erlang C). The highest utilisation is the one at which the 95th percentile of the wait still fits between the measured
p95 of the service and the target; adding two p95s errs on the safe side for such waits. Decides nothing else.

Never above MAX_UTILISATION. A test compares the table with a simulation of that queue. Burstier arrivals than Poisson
are not covered by the formula, only by the head-room that MAX_UTILISATION leaves.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MAX_UTILISATION = 0.85
"""Above this a forecast error of 10 % doubles the queue."""
TAIL = 0.05
"""Latency targets are 95th percentiles."""
_UTILISATION_STEP = 0.01
_UTILISATION_COUNT = round(MAX_UTILISATION / _UTILISATION_STEP) + 1
_SERVER_STEPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)


def utilisation_ceiling(servers: Floats, slack_ratio: Floats) -> Floats:
    """Highest utilisation of each number of servers at which the p95 wait is at most `slack_ratio` service times."""
    waits = _wait_table()[_queue_row(servers)]
    affordable = (waits <= np.asarray(slack_ratio)[..., None]).sum(axis=-1)
    result: Floats = np.maximum(affordable - 1, 0) * _UTILISATION_STEP
    return result


def wait_p95(servers: Floats, utilisation: Floats) -> Floats:
    """p95 of the wait in M/M/c, in mean service times; the utilisation is rounded up to the table's step."""
    step = np.minimum(np.ceil(np.asarray(utilisation) / _UTILISATION_STEP - 1e-9).astype(int), _UTILISATION_COUNT - 1)
    result: Floats = _wait_table()[_queue_row(servers), step]
    return result


def _queue_row(servers: Floats) -> NDArray[np.intp]:
    """Row of the next smaller queue of the table: fewer servers wait longer, so this errs on the safe side."""
    row: NDArray[np.intp] = np.searchsorted(_SERVER_STEPS, np.maximum(servers, 1), side="right") - 1
    return row


@lru_cache(maxsize=1)
def _wait_table() -> Floats:
    """p95 waits by (servers, utilisation). Erlang C: P(wait > t) = C exp(-(1 - u) c t / S), solved for the 5 % tail."""
    utilisation = np.arange(_UTILISATION_COUNT) * _UTILISATION_STEP
    rows = []
    for servers in _SERVER_STEPS:
        offered, blocking = servers * utilisation, np.ones(_UTILISATION_COUNT)
        for k in range(1, servers + 1):
            blocking = offered * blocking / (k + offered * blocking)
        waiting = blocking / (1 - utilisation * (1 - blocking))
        tail = np.log(np.maximum(waiting, TAIL) / TAIL)
        rows.append(tail / (servers * (1 - utilisation)))
    return np.array(rows)
