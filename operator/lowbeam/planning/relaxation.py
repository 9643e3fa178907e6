"""Models of passes for HiGHS: which rows are in them and how they are scaled; the linear relaxation of large ones.

Decides nothing: `optimise` says which columns and losses a pass has. Every model runs in one thread with one seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import highspy
import numpy as np
from numpy.typing import NDArray

from lowbeam.planning.problem import Flags, Ints, Problem

Floats = NDArray[np.float64]

LONGEST_PASS_SECONDS = 60
"""A pass takes some seconds; one that takes so long turns on the spot."""
TOLERANCE = 1e-9
"""Rows are scaled to coefficients of at most 1; a milliwatt too many in 100 kW is still seen."""
_HALF = 0.5
"""A kept level is a whole number: half a unit more lets nothing else in. Without it the relaxation is often a single
point, on which the simplex method turned for minutes (1,000 workloads, 70 % of the accelerators)."""


@dataclass(frozen=True, slots=True)
class Relaxed:
    """An optimum of the linear relaxation: value and reduced cost of each column, and the objective."""

    value: Floats
    reduced: Floats
    least: float


class Relaxation:
    """The linear relaxation of large passes, one model for all: they differ by losses and by columns that may not be
    used any more. One that asks for a single workload's loss begins where the last one ended."""

    def __init__(self, problem: Problem, columns: Ints) -> None:
        self.problem = problem
        self._columns = columns
        self._solver: highspy.Highs | None = None
        self._rows = 0

    def solve(self, columns: Ints, objective: Floats, kept: list[tuple[Ints, int]], *, anew: bool) -> Relaxed | None:
        """Over `columns`, which are some of those at the beginning; None: it did not end. `anew`: not from where the
        last one ended. Where several workloads share a loss, that optimum gave slightly worse cores."""
        every = self._columns
        if self._solver is None:
            self._solver = model_of(self.problem, every, np.zeros(self.problem.owner.size), [], integral=False).solver
        solver = self._solver
        for loss, level in kept[self._rows :]:
            worth = loss[every].astype(np.float64)
            size, places = max(float(worth.max()), 1e-9), np.flatnonzero(worth)
            solver.addRow(-np.inf, (level + _HALF) / size, places.size, places.astype(np.int32), worth[places] / size)
        self._rows = len(kept)
        inside, all_of_them = np.isin(every, columns), np.arange(every.size, dtype=np.int32)
        solver.changeColsBounds(every.size, all_of_them, np.zeros(every.size), inside.astype(np.float64))
        solver.changeColsCost(every.size, all_of_them, objective[every])
        if anew:
            solver.clearSolver()
        # The limit is one on the time of all runs together.
        solver.setOptionValue("time_limit", solver.getRunTime() + LONGEST_PASS_SECONDS)
        solver.run()
        if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
            solver.clearSolver()
            return None
        solution = solver.getSolution()
        return Relaxed(
            value=np.array(solution.col_value, dtype=np.float64)[inside],
            reduced=np.array(solution.col_dual, dtype=np.float64)[inside],
            least=solver.getInfo().objective_function_value,
        )


def linear_duals(problem: Problem, columns: Ints, loss: Floats) -> dict[int, float]:
    """Change of the least loss per unit of each row's limit (watts, accelerators) in the linear relaxation; <= 0."""
    model = model_of(problem, columns, loss, [], integral=False)
    model.solver.run()
    if model.solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        return {}
    duals = np.array(model.solver.getSolution().row_dual, dtype=np.float64)[len(problem.entries) :]
    return {row: float(dual / size) for row, dual, size in zip(model.rows, duals, model.sizes, strict=True)}


def binding(problem: Problem, columns: Ints) -> Flags:
    """Which rows could be too little for everybody's largest column. `columns` are in order."""
    owner = problem.owner[columns]
    begins = np.flatnonzero(np.r_[True, owner[1:] != owner[:-1]])
    highest = np.maximum.reduceat(problem.usage[:, columns], begins, axis=1)
    found: Flags = highest.sum(axis=1) > problem.rows.limits
    return found


@dataclass(frozen=True, slots=True)
class Model:
    """One that was passed to a solver."""

    solver: highspy.Highs
    rows: list[int]
    """Rows of the problem that are in the model, after the one-column-per-workload rows."""
    sizes: list[float]
    """What each of them was divided by, per watt or accelerator."""


def model_of(
    problem: Problem, columns: Ints, objective: Floats, kept: list[tuple[Ints, int]], *, integral: bool
) -> Model:
    """The model over `columns`: one column per workload, the rows that can bind at all, and the kept levels."""
    usage, limits, binds = problem.usage[:, columns], problem.rows.limits, binding(problem, columns)
    # Caps in watts, inventory in accelerators.
    unit = np.where(np.arange(limits.size) < len(problem.rows.caps), 1000.0, 1.0)[binds]
    blocks, uppers = [usage[binds] / unit[:, None]], [limits[binds] / unit]
    for loss, level in kept:
        blocks.append(loss[None, columns].astype(np.float64))
        uppers.append(np.array([level + _HALF]))
    dense = np.vstack(blocks)
    # Each row is divided by its largest coefficient: watts, boards and losses differ by orders of magnitude.
    size = np.maximum(np.abs(dense).max(axis=1, initial=0.0), 1e-9)
    dense, upper = dense / size[:, None], np.concatenate(uppers) / size
    entries, count = len(problem.entries), columns.size
    rows, cols = np.nonzero(dense.T)  # by column
    sizes = 1 + np.bincount(rows, minlength=count)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    index = np.empty(starts[-1], dtype=np.int32)
    value = np.empty(starts[-1], dtype=np.float64)
    index[starts[:-1]], value[starts[:-1]] = problem.owner[columns], 1.0
    rest = np.ones(starts[-1], dtype=bool)
    rest[starts[:-1]] = False
    index[rest], value[rest] = entries + cols, dense.T[rows, cols]

    model = highspy.HighsLp()
    model.num_col_, model.num_row_ = count, entries + dense.shape[0]
    model.col_cost_ = objective[columns]
    model.col_lower_, model.col_upper_ = np.zeros(count), np.ones(count)
    model.row_lower_ = np.r_[np.ones(entries), np.full(dense.shape[0], -np.inf)]
    model.row_upper_ = np.r_[np.ones(entries), upper]
    model.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    model.a_matrix_.start_, model.a_matrix_.index_, model.a_matrix_.value_ = starts.astype(np.int32), index, value
    if integral:
        model.integrality_ = [highspy.HighsVarType.kInteger] * count
    solver = highspy.Highs()
    solver.setOptionValue("output_flag", False)
    solver.setOptionValue("threads", 1)
    solver.setOptionValue("random_seed", 0)
    solver.setOptionValue("time_limit", float(LONGEST_PASS_SECONDS))
    solver.setOptionValue("primal_feasibility_tolerance", TOLERANCE)
    solver.setOptionValue("mip_feasibility_tolerance", TOLERANCE)
    solver.passModel(model)
    inside = [int(row) for row in np.flatnonzero(binds)]
    return Model(solver, inside, [float(it) for it in size[: len(inside)]])
