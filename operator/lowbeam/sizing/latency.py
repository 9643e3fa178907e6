"""Latency under load: quantiles of queues, read from tables that an event simulation filled (`tools/latency`).

Two queues stand for all replicas. *Batch service* is an encoder: one server, the next batch takes what has arrived up
to the limit. *Continuous batching* is a decoder: a request waits for a slot, and each iteration advances every running
one. In both, the time of a batch (or of an iteration) is a straight line in its size; `slope` is the share of a full
one's time that grows with the size.

Decides nothing. Between the grid's points values are interpolated; beyond its ends the last point stands. Burstier
arrivals than the last point (a cv of 14) are read too low, everything else errs upwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import as_file, files
from math import sqrt

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
Times = Callable[[Ints], Floats]
"""ms by number of a load of the grid: one for all, or one for each; with more dimensions in front, times for each."""

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
    """Where replicas lie in the tables. The burstiness and the load come later."""

    corner: Ints
    """(n): the first of the corners of each one's cell."""
    weights: Floats
    """(corners, n): of that corner and its neighbours; two where every limit is on the grid, else four."""


@dataclass(frozen=True, slots=True)
class LatencyTable:
    """Both tables over one grid."""

    cv: Floats
    limit: Floats
    slope: Floats
    load: Floats
    """Ends at MAX_UTILISATION."""
    figures: Floats
    """(cv, figure, load, corner); corners are queue x limit x slope, queue 0 = continuous batching, 1 = batch
    service."""

    @property
    def corners(self) -> int:
        """How many figures one load has."""
        return int(self.figures.shape[-1])

    def cells(self, is_encoder: Flags | bool, limit: Floats, slope: Floats) -> Cells:
        """The place of each replica; `is_encoder` is False in a table of one queue."""
        row, up = _place(self.limit, limit)
        column, right = _place(self.slope, slope)
        weights = [(1 - up) * (1 - right), (1 - up) * right]
        if up.any():
            weights += [up * (1 - right), up * right]
        return Cells((is_encoder * self.limit.size + row) * self.slope.size + column, np.stack(weights))

    def sheets(self, figure: int, cvs: Sequence[float]) -> Floats:
        """(cvs x loads x corners), flattened: one figure at these burstinesses."""
        index, share = _place(self.cv, np.array(cvs))
        sheets = np.empty((len(cvs), *self.figures.shape[2:]))
        # One at a time: what is worked on stays in the nearest cache.
        for sheet, low, right in zip(sheets, index.tolist(), share.tolist(), strict=True):
            np.multiply(self.figures[low, figure], 1 - right, out=sheet)
            sheet += self.figures[low + 1, figure] * right
        return sheets.ravel()

    def read(self, sheets: Floats, spot: Ints, weights: Floats) -> Floats:
        """Figures in the cells whose first corners are at `spot` of the flattened sheets, in the shape of `spot`."""
        total: Floats = sheets.take(spot)
        total *= weights[0]
        below = self.slope.size
        for step, weight in zip((1, below, below + 1), weights[1:], strict=False):
            part = sheets[step:].take(spot)
            part *= weight
            total += part
        return total

    def rows(self, figure: int, cells: Cells, cv: float) -> Floats:
        """(loads, n): one figure of each replica at every load of the grid."""
        spot = np.arange(self.load.size)[:, None] * self.corners + cells.corner
        return self.read(self.sheets(figure, [cv]), spot, cells.weights)


@lru_cache(maxsize=1)
def latency_table() -> LatencyTable:
    """The table that ships with Lowbeam; read once per process."""
    with as_file(files("lowbeam.sizing").joinpath("data", "latency.npz")) as path, np.load(path) as stored:
        kept = np.isin(np.round(stored["load"].astype(np.float64), 6), LOADS)
        decoder = stored["continuous_batching"][..., kept].astype(np.float64)
        delay = stored["batch_service"][..., kept].astype(np.float64)
        encoder = np.concatenate([delay, np.ones((6, *delay.shape[1:]))])
        both = np.stack([decoder, encoder], axis=2)  # figure, cv, queue, limit, slope, load
        figures = both.transpose(1, 0, 5, 2, 3, 4)
        return LatencyTable(
            cv=stored["cv"].astype(np.float64),
            limit=stored["limit"].astype(np.float64),
            slope=stored["slope"].astype(np.float64),
            load=np.round(stored["load"][kept].astype(np.float64), 6),
            figures=np.ascontiguousarray(figures.reshape(*figures.shape[:3], -1)),
        )


@lru_cache(maxsize=2)
def one_queue(is_encoder: bool) -> LatencyTable:
    """The half of the table that is of one queue; its only queue is number 0."""
    both = latency_table()
    half = both.corners // 2
    return replace(
        both, figures=np.ascontiguousarray(both.figures[..., half:] if is_encoder else both.figures[..., :half])
    )


def along_load(table: LatencyTable, rows: Floats, row: Ints, load: Floats) -> Floats:
    """Values at `load` of the given columns of a (loads, n) array."""
    index, share = place_of_load(table, load)
    low, high = rows[index, row], rows[index + 1, row]
    result: Floats = low + (high - low) * share
    return result


def place_of_load(table: LatencyTable, load: Floats) -> tuple[Ints, Floats]:
    """(index of the load of the grid at or below each, share of the way to the next)."""
    return _place(table.load, load)


def highest_load(table: LatencyTable, times: Callable[[Ints], Times], limit: Floats, least: int) -> Floats:
    """The highest load at which each time is at most its limit; 0 where that is not so at load number `least` already.

    `times(some)` gives those of some, by index. They must grow with the load: most are within their limit at the last
    one, or not at `least`; of the others the loads are halved.
    """
    result, end = np.full(limit.size, table.load[-1]), table.load.size - 1
    high = times(np.arange(limit.size))(np.array(end))
    some = np.flatnonzero(high > limit)
    result[some], high, bound = 0.0, high[some], limit[some]
    low = times(some)(np.array(least))
    worth = np.flatnonzero(low <= bound)
    some, low, high, bound = some[worth], low[worth], high[worth], bound[worth]
    last, after, of_some = np.full(some.size, least), np.full(some.size, end), times(some)
    while (after - last).max(initial=0) > 1:
        middle = (last + after) // 2
        found = of_some(middle)
        kept = found <= bound
        last, low = np.where(kept, middle, last), np.where(kept, found, low)
        after, high = np.where(kept, after, middle), np.where(kept, high, found)
    share = np.minimum(np.maximum((bound - low) / (high - low), 0.0), 1.0)
    result[some] = table.load[last] + (table.load[after] - table.load[last]) * share
    return result


def replica_cv(cv: float, replicas: int) -> float:
    """Burstiness at each of `replicas` that share arrivals at random: the more replicas, the nearer to Poisson."""
    return sqrt(1 + max(0.0, cv**2 - 1) / replicas)


def _place(grid: Floats, values: Floats) -> tuple[Ints, Floats]:
    """(index of the grid's point at or below each value, share of the way to the next)."""
    index = np.minimum(np.maximum(grid.searchsorted(values, "right") - 1, 0), grid.size - 2)
    share = (values - grid[index]) / (grid[1:][index] - grid[index])
    return index, np.minimum(np.maximum(share, 0.0), 1.0)
