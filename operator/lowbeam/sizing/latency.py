"""Latency under load: quantiles of queues, read from tables that an event simulation filled (`tools/latency`).

Two queues stand for all replicas. *Batch service* is an encoder: one server, the next batch takes what has arrived up
to the limit. *Continuous batching* is a decoder: a request waits for a slot, and each iteration advances every running
one. In both, the time of a batch (or of an iteration) is a straight line in its size; `slope` is the share of a full
one's time that grows with the size.

Decides nothing. Between the grid's points values are interpolated; beyond its ends the last point stands. Burstier
arrivals than the last point (a cv of 14) are read too low, everything else errs upwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import as_file, files
from math import sqrt

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

MAX_UTILISATION = 0.85
"""Above this a forecast error of 10 % doubles the queue."""
LOADS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, MAX_UTILISATION)
"""Columns of the file that are read. Times bend upwards with the load, so a straight line between two is above them."""
DELAY_P50, DELAY_P95, DELAY_P99, OWN_P50, OWN_P95, OWN_P99, PACE_P50, PACE_P95, PACE_P99 = range(9)
"""Figures of a cell. A delay is what a request spends beyond its own service: the wait for a slot of a decoder, the
whole time from arrival to answer of an encoder; in times of a full batch. Own is a quantile of a request's time in its
slot against the same quantile with all slots taken, a pace that of the time of an iteration over all tokens; both are 1
for encoders."""
FIGURES = 9


@dataclass(frozen=True, slots=True)
class Cells:
    """Where replicas lie in the tables: four corners and their weights each. The burstiness comes later."""

    corners: Ints
    """(4, n)"""
    weights: Floats
    """(4, n)"""


@dataclass(frozen=True, slots=True)
class LatencyTable:
    """Both tables over one grid."""

    cv: Floats
    limit: Floats
    slope: Floats
    load: Floats
    """Ends at MAX_UTILISATION."""
    figures: Floats
    """(cv, figure, queue x limit x slope, load); queue 0 = continuous batching, 1 = batch service."""

    def cells(self, is_encoder: Flags, limit: Floats, slope: Floats) -> Cells:
        """The place of each replica."""
        row, up = _place(self.limit, limit)
        column, right = _place(self.slope, slope)
        corner = (is_encoder * self.limit.size + row) * self.slope.size + column
        below = self.slope.size
        return Cells(
            corners=np.stack([corner, corner + 1, corner + below, corner + below + 1]),
            weights=np.stack([(1 - up) * (1 - right), (1 - up) * right, up * (1 - right), up * right]),
        )

    def rows(self, figure: int, cells: Cells, cv: float) -> Floats:
        """(n, loads): one figure of each replica at every load of the grid."""
        at = self._at_cv(figure, cv)
        total: Floats = at.take(cells.corners[0], axis=0)
        total *= cells.weights[0][:, None]
        for corner, weight in zip(cells.corners[1:], cells.weights[1:], strict=True):
            part = at.take(corner, axis=0)
            part *= weight[:, None]
            total += part
        return total

    def _at_cv(self, figure: int, cv: float) -> Floats:
        index, share = _place(self.cv, np.array([cv]))
        lower, upper = self.figures[index[0], figure], self.figures[index[0] + 1, figure]
        result: Floats = lower * (1 - share[0]) + upper * share[0]
        return result


@lru_cache(maxsize=1)
def latency_table() -> LatencyTable:
    """The table that ships with Lowbeam; read once per process."""
    with as_file(files("lowbeam.sizing").joinpath("data", "latency.npz")) as path, np.load(path) as stored:
        kept = np.isin(np.round(stored["load"].astype(np.float64), 6), LOADS)
        decoder = stored["continuous_batching"][..., kept].astype(np.float64)
        delay = stored["batch_service"][..., kept].astype(np.float64)
        encoder = np.concatenate([delay, np.ones((6, *delay.shape[1:]))])
        both = np.stack([decoder, encoder], axis=2)  # figure, cv, queue, limit, slope, load
        figures = np.moveaxis(both, 1, 0)
        return LatencyTable(
            cv=stored["cv"].astype(np.float64),
            limit=stored["limit"].astype(np.float64),
            slope=stored["slope"].astype(np.float64),
            load=np.round(stored["load"][kept].astype(np.float64), 6),
            figures=np.ascontiguousarray(figures.reshape(*figures.shape[:2], -1, figures.shape[-1])),
        )


def along_load(table: LatencyTable, rows: Floats, row: Ints, load: Floats) -> Floats:
    """Values at `load` of the given rows of a (n, loads) array."""
    column, share = _place(table.load, load)
    low, high = rows[row, column], rows[row, column + 1]
    result: Floats = low + (high - low) * share
    return result


def highest_load(table: LatencyTable, rows: Floats, limit: Floats | float) -> Floats:
    """Per row (growing with the load), the highest load of the grid at which it is at most `limit`; below 0: none."""
    bound = np.broadcast_to(np.asarray(limit, dtype=np.float64), rows.shape[:1])
    kept = (rows <= bound[:, None]).sum(axis=1)
    last = np.maximum(kept - 1, 0)
    after = np.minimum(last + 1, table.load.size - 1)
    every = np.arange(rows.shape[0])
    low, high = rows[every, last], rows[every, after]
    rise = np.where(high > low, high - low, 1.0)
    share = np.where(after > last, np.clip((bound - low) / rise, 0.0, 1.0), 0.0)
    result: Floats = np.where(kept > 0, table.load[last] + (table.load[after] - table.load[last]) * share, -1.0)
    return result


def replica_cv(cv: float, replicas: int) -> float:
    """Burstiness at each of `replicas` that share arrivals at random: the more replicas, the nearer to Poisson."""
    return sqrt(1 + max(0.0, cv**2 - 1) / replicas)


def _place(grid: Floats, values: Floats) -> tuple[Ints, Floats]:
    """(index of the grid's point at or below each value, share of the way to the next)."""
    index = np.clip(np.searchsorted(grid, values, side="right") - 1, 0, grid.size - 2)
    share = np.clip((values - grid[index]) / (grid[index + 1] - grid[index]), 0.0, 1.0)
    return index, share
