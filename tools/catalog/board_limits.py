"""The response of boards to a lowered power limit, fitted to the sweeps in sources/power-limits.

    throughput under the limit / throughput before = 1 - loss * (1 - limit / draw before)

One constant for each kind of work. `Draw before` is the mean draw at the limit that the board is delivered with. Every
sweep is read at the same ratios of limit to draw, between the limits that were measured, so that one in steps of 10 W
says no more than one in steps of 50 W. Fitted to relative errors; each board counts the same, as twelve batch sizes on
one board say less than two boards.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from lowbeam.catalog.board_limits import LEAST_RATIO_PERCENT
from tools.catalog.physics import Errors, Floats
from tools.catalog.rows import Row, csv_rows

KINDS = ("generation", "compute")
FITTED_PERCENT = tuple(range(LEAST_RATIO_PERCENT, 100, 5))
"""Limit over draw."""
BELOW_PERCENT = tuple(range(50, LEAST_RATIO_PERCENT, 5))
"""Where the response is continued to see what goes wrong there."""


COLUMNS = ("limit_watts", "draw_watts", "rate")


@dataclass(frozen=True, slots=True)
class Sample:
    """One sweep at one ratio of limit to draw, against itself at the delivered limit."""

    kind: str
    board: str
    workload: str
    ratio: float
    rate: float
    """Share of the throughput before."""
    draw: float
    """Share of the draw before."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Errors of one board, predicted from the other boards."""

    board: str
    rate: Errors
    joules: Errors


@dataclass(frozen=True, slots=True)
class FittedResponse:
    """The constant of one kind of work and its errors."""

    kind: str
    loss: float
    boards: tuple[LeftOut, ...]
    below: tuple[LeftOut, ...]
    """The same response continued to half of the draw, where it is not used."""

    @property
    def uncertainty_percent(self) -> int:
        """The worse of throughput and joules."""
        return math.ceil(
            max(p90_percent([it.rate for it in self.boards]), p90_percent([it.joules for it in self.boards]))
        )


@cache
def fitted_responses() -> dict[str, FittedResponse]:
    """By kind of work."""
    found = {}
    for kind in KINDS:
        known = [sample for sample in samples() if sample.kind == kind]
        fitted = [sample for sample in known if sample.ratio * 100 >= LEAST_RATIO_PERCENT]
        below = [sample for sample in known if sample.ratio * 100 < LEAST_RATIO_PERCENT]
        found[kind] = FittedResponse(kind, fit(fitted), _left_out(fitted, fitted), _left_out(fitted, below))
    return found


def board_limits() -> dict[str, Any]:
    """The content of boardlimits.json."""
    return {
        "attribution": "Fitted to sweeps of the power limit; sources and licences: docs/catalogue-physics.md",
        **{
            kind: {"lossPermille": round(it.loss * 1000), "uncertaintyPercent": it.uncertainty_percent}
            for kind, it in fitted_responses().items()
        },
    }


def samples() -> Iterator[Sample]:
    """Every sweep at the ratios between its lowest and its highest measured limit."""
    for (kind, board, workload), rows in sweeps().items():
        limits, draws, rates = (np.array([float(row[name]) for row in rows]) for name in COLUMNS)
        for percent in (*BELOW_PERCENT, *FITTED_PERCENT):
            limit = percent / 100 * draws[-1]
            if limits[0] <= limit <= limits[-1]:
                rate, draw = (float(np.interp(limit, limits, column)) for column in (rates, draws))
                yield Sample(kind, board, workload, percent / 100, rate / rates[-1], draw / draws[-1])


def sweeps() -> dict[tuple[str, str, str], list[Row]]:
    """By kind, board and workload; limits ascending, the last one being the delivered one."""
    found: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in csv_rows("power-limits/sweeps.csv"):
        if float(row["limit_watts"]) <= float(row["default_limit_watts"]):
            found[row["kind"], row["board"], row["workload"]].append(row)
    return {key: sorted(rows, key=lambda row: float(row["limit_watts"])) for key, rows in found.items()}


def fit(known: Sequence[Sample]) -> float:
    """Least squares of the relative error of throughput, each board with the same weight."""
    rows = Counter(sample.board for sample in known)
    weights = np.array([rows[sample.board] ** -0.5 / sample.rate for sample in known])
    withheld = weights * np.array([1 - sample.ratio for sample in known])
    lost = weights * np.array([1 - sample.rate for sample in known])
    return float(np.dot(withheld, lost) / np.dot(withheld, withheld))


def modelled_rate(loss: float, ratio: float) -> float:
    """Share of the throughput before."""
    return 1 - loss * (1 - ratio)


def p90_percent(boards: Sequence[Errors]) -> float:
    """Nine of ten points are closer, each board counting the same."""
    errors = np.concatenate([np.abs(it.relative) for it in boards])
    weights = np.concatenate([np.full(len(it.relative), 1 / len(it.relative)) for it in boards])
    order = np.argsort(errors)
    place = int(np.searchsorted(np.cumsum(weights[order]), 0.9 * len(boards)))
    return float(errors[order][place] * 100)


def _left_out(known: Sequence[Sample], checked: Sequence[Sample]) -> tuple[LeftOut, ...]:
    found = []
    for board in sorted({sample.board for sample in checked}):
        loss = fit([sample for sample in known if sample.board != board])
        own = [sample for sample in checked if sample.board == board]
        rates = _relative([modelled_rate(loss, it.ratio) / it.rate for it in own])
        joules = _relative([it.ratio / modelled_rate(loss, it.ratio) * it.rate / it.draw for it in own])
        found.append(LeftOut(board, rates, joules))
    return tuple(found)


def _relative(ratios: Sequence[float]) -> Errors:
    relative: Floats = np.array(ratios) - 1.0
    return Errors(relative)
