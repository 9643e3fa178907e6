"""The optimum under all caps together, by HiGHS, in lexicographic passes.

Decides one column per workload. Order of the goals, each kept while the next is sought:
  1. from the highest priority down: nobody who should run gets nothing
  2. from the highest priority down: least unserved demand, then least quality shortfall
  3. least expected watts over all, the running setting rated 5 % below its figure (hysteresis)
  4. ties: most head-room, no power limit, least worst case, option id
Goal 2 is what makes priorities strict: no workload of a priority is dimmed while a lower one under the same cap could
still give way. A cap thus never trades one important request for many unimportant ones.

A pass over very many columns branches over a core of them: first the linear relaxation, which has one fractional
workload per binding row at most; then the columns that it uses, those of the workloads whose loss is asked for, and
those that would cost least to use instead. Where accelerators are short it tells losses apart by steps only: kept in
rows whose coefficients span seven orders of magnitude, they had the simplex method turn for ever beside rows of a few
whole numbers. It is proven when losses are whole steps and no column that was left out could do better.

A pass that everybody can win at once (its lower bound is reached) only filters columns and needs no solver; most passes
are of that kind. Without binding caps there is no pass at all.

A priority of one workload needs no row: it keeps the columns that lose no more. A fleet in which each has its own is
planned with few rows, and its relaxations begin where the last one ended.

Invariants: the answer respects every row (checked in integers after each solver call); one thread and limits in nodes:
the same problem gives the same answer on any machine under any load. When a limit ends a pass, its best answer is kept
and `exact` is False; exchanges of two (`planning.give_way`) keep priorities strict in it all the same. The one limit in
seconds is a net under a solver that turns on the spot, far above what passes take: such a pass finds nothing, however
long it is let. What a limit leaves out is counted (`Answer.given_up`), and keeps what the search had before.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

import highspy
import numpy as np

from lowbeam.planning.give_way import let_give_way
from lowbeam.planning.greedy import by_priority, first_answer, improve
from lowbeam.planning.problem import Flags, Ints, Problem
from lowbeam.planning.relaxation import TOLERANCE, Relaxation, Relaxed, binding, model_of

NODE_BUDGET = 400_000
"""Branch-and-bound nodes x columns per pass: small fleets are always finished, large ones end in seconds."""
MIN_NODES = 20
WHOLE_COLUMNS = 30_000
"""Passes of up to so many columns (500 workloads) are solved as they are, and nearly all of them proven."""
CORE_COLUMNS = 8_000
"""Larger ones over a core of so many (docs/design/a-core-for-large-fleets.md)."""
LOSS_STEPS = 3_000
"""In those where accelerators are short a loss is told in so many steps of the greatest, at most."""
MOST_TURNING = 3
"""Passes of a search that may end like that: each holds up the plan by a minute, and the next is like the last."""
MOST_PASSES = 400
"""Passes of a search that need the solver. A fleet of 1,000 with 100 priorities, short of everything, takes some 110;
with as many priorities as workloads some 370."""
_CORE_TOLERANCE = 1e-7
"""Of large passes: a tighter one had the simplex method turn. An answer that takes too much is thrown away."""
_PROOF_TOLERANCE = 1e-4
"""In units of the loss: what the relaxation's objective may be off."""
_ALL_MOVES = 0.4
"""What it costs to leave the best answer so far with every workload: less than the smallest loss with what the gap
leaves open, so that it decides between equal answers only. What a pass does not ask for stays as it is."""
_OBJECTIVE_SPAN = 1e5
"""Costs are scaled to at most this, well inside the solver's tolerances."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One column per entry, and whether every pass was proven."""

    choice: Ints
    exact: bool
    given_up: int = 0
    """Passes that met the net of LONGEST_PASS_SECONDS, or were left out for MOST_TURNING or MOST_PASSES; and one for
    exchanges that did not come to rest."""


def solve(problem: Problem, allowed: Flags) -> Answer:
    """The best answer among the allowed columns; "nothing" is always allowed, at its price."""
    alone = problem.best_alone(allowed)
    if problem.fits(alone):
        return Answer(alone, exact=True)
    search = _Search(problem, allowed)
    priorities = sorted({entry.needs.priority for entry in problem.entries}, reverse=True)
    levels = np.array([entry.needs.priority for entry in problem.entries], dtype=np.int64)[problem.owner]
    for priority in priorities:
        search.minimise(np.where(levels == priority, problem.paused, 0))
    for priority in priorities:
        search.minimise(np.where(levels == priority, problem.unserved, 0))
        search.minimise(np.where(levels == priority, problem.shortfall, 0))
    search.minimise(problem.cost, last=True)
    best = improve(problem, allowed, search.best, by_priority(problem))
    if not search.exact:
        best, rests = let_give_way(problem, allowed, best)
        search.given_up += not rests
    return Answer(best, search.exact, search.given_up)


class _End(Enum):
    """How a pass ended."""

    PROVEN = auto()
    STOPPED = auto()
    """By its limit of nodes, or over too few columns to be sure."""
    GIVEN_UP = auto()
    """By the limit of time."""


class _Search:
    """State of the passes: which columns are left, which levels must be kept, and the best answer that keeps them."""

    def __init__(self, problem: Problem, allowed: Flags) -> None:
        self.problem = problem
        self.left = allowed.copy()
        self.left[problem.start[1:] - 1] = True
        self.kept: list[tuple[Ints, int]] = []
        self.best = self._begin()
        self.exact = True
        self.given_up = 0
        self._passes = 0
        self._turned = 0
        self._beaten = np.zeros(allowed.size, dtype=np.bool_)
        """Columns that another of the same workload beats in the kept levels and all rows, and maybe in a loss."""
        self._stale = np.ones(len(problem.entries), dtype=np.bool_)
        """Of whom that is to be found again."""
        self._relaxation = Relaxation(problem, np.flatnonzero(self.left))

    def _begin(self) -> Ints:
        """What runs, with improvements, or the greedy answer where that is better: a plan that could not be proven
        moves nobody for an answer that is no better."""
        greedy = first_answer(self.problem, self.left)
        running = np.where(self.left[self.problem.running], self.problem.running, self.problem.start[1:] - 1)
        if not self.problem.fits(running):
            return greedy
        running = improve(self.problem, self.left, running, by_priority(self.problem))
        return min(running, greedy, key=self._worth)

    def _worth(self, choice: Ints) -> list[int]:
        """The goals in their order; smaller is better."""
        priorities = np.array([entry.needs.priority for entry in self.problem.entries])
        levels = [choice[priorities == priority] for priority in sorted(set(priorities.tolist()), reverse=True)]
        losses = (self.problem.unserved, self.problem.shortfall)
        return [
            *(int(self.problem.paused[columns].sum()) for columns in levels),
            *(int(loss[columns].sum()) for columns in levels for loss in losses),
            int(self.problem.cost[choice].sum()),
        ]

    def minimise(self, loss: Ints, *, last: bool = False) -> None:
        """Make `loss` (per column) as small as the kept levels allow, and keep it there. Large passes take it in steps
        where accelerators are short, but the last one: nothing is kept of it."""
        if self._lost(loss):
            columns = self._useful(loss)
            if columns.size > WHOLE_COLUMNS and not last:
                steps = _in_steps(loss)
                if not np.array_equal(steps, loss) and self._boards_bind(columns):
                    self.exact = False
                    loss = steps
            self._search(loss, columns)
        self._keep(loss)

    def _keep(self, loss: Ints) -> None:
        """From now on no answer may lose more. Where one workload alone could, it keeps the columns that do not, and
        there needs to be no row; so it is with a priority of its own."""
        least, reached = self._least_per_entry(loss), int(loss[self.best].sum())
        spare = reached - int(least.sum())
        differs = -self._least_per_entry(-loss) > least
        if spare and differs.sum() > 1:
            self.kept.append((loss, reached))
        else:
            self.left &= loss <= (least + spare)[self.problem.owner]
        self._stale |= self._per_entry(np.maximum, loss) > 0

    def _boards_bind(self, columns: Ints) -> bool:
        return bool(binding(self.problem, columns)[len(self.problem.rows.caps) :].any())

    def _lost(self, loss: Ints) -> int:
        """How much more the best answer loses than if everybody could win at once."""
        return int(loss[self.best].sum() - self._least_per_entry(loss).sum())

    def _least_per_entry(self, loss: Ints) -> Ints:
        return self._per_entry(np.minimum, np.where(self.left, loss, np.iinfo(np.int64).max))

    def _per_entry(self, of: np.ufunc, figures: Ints) -> Ints:
        found: Ints = of.reduceat(figures, self.problem.start[:-1])
        return found

    def _search(self, loss: Ints, columns: Ints) -> None:
        if self._passes >= MOST_PASSES or self._turned >= MOST_TURNING:
            self.given_up += 1
            self.exact = False
            return
        answer, ended = _run_highs(self._relaxation, columns, loss, self.kept, self.best)
        self._passes += 1
        self._turned += ended is _End.GIVEN_UP
        self.given_up += ended is _End.GIVEN_UP
        if answer is not None and self._keeps(answer) and int(loss[answer].sum()) < int(loss[self.best].sum()):
            self.best = answer
        self.exact &= ended is _End.PROVEN or not self._lost(loss)

    def _keeps(self, choice: Ints) -> bool:
        return self.problem.fits(choice) and all(int(loss[choice].sum()) <= level for loss, level in self.kept)

    def _useful(self, loss: Ints) -> Ints:
        """Columns that no other column of the same workload beats in this loss, the kept ones and all rows."""
        asked = self._per_entry(np.maximum, loss) > 0
        for entry in np.flatnonzero(self._stale & ~asked):
            self._compare(int(entry), [])
        self._stale &= asked
        for entry in np.flatnonzero(asked):
            self._compare(int(entry), [loss])
        self._stale |= asked
        useful = self.left & ~self._beaten
        useful[self.best] = True
        return np.flatnonzero(useful)

    def _compare(self, entry: int, losses: list[Ints]) -> None:
        """Find the columns of one workload that another one of its own beats."""
        span = self.problem.columns_of(entry)
        columns = np.flatnonzero(self.left[span]) + span.start
        kept = [it[columns] for it, _ in self.kept if it[span].any()]
        mine = np.vstack([*(loss[columns] for loss in losses), *kept, self.problem.usage[:, columns]])
        mine = mine[(mine != mine[:, :1]).any(axis=1)]
        no_worse = (mine[:, :, None] <= mine[:, None, :]).all(axis=0)
        tie = self.problem.tie[columns]
        first = no_worse.T & (tie[:, None] >= tie[None, :])
        beaten = no_worse & ~first
        np.fill_diagonal(beaten, val=False)
        self._beaten[columns] = beaten.any(axis=0)


def _in_steps(loss: Ints) -> Ints:
    """The same in steps, what is begun counts as a whole one: something is never nothing."""
    step = max(1, -(-int(loss.max()) // LOSS_STEPS))
    steps: Ints = -(-loss // step)
    return steps


def _run_highs(
    relaxation: Relaxation, columns: Ints, loss: Ints, kept: list[tuple[Ints, int]], start: Ints
) -> tuple[Ints | None, _End]:
    """(answer or None, how it ended) of one pass over `columns`. The answer is not yet checked."""
    problem = relaxation.problem
    span = float(max(1, np.abs(loss[columns]).max()))
    scale = min(1.0, _OBJECTIVE_SPAN / span)
    moves = np.ones(loss.size)
    moves[start] = 0.0
    objective, best_without = (loss + moves * (_ALL_MOVES / len(problem.entries))) * scale, np.inf
    if columns.size > WHOLE_COLUMNS:
        many = np.unique(problem.owner[columns][_differs(problem.owner[columns], loss[columns])]).size > 1
        relaxed = relaxation.solve(columns, objective, kept, anew=many)
        if relaxed is not None and relaxed.least / scale > loss[start].sum() - 1 + _ALL_MOVES + _PROOF_TOLERANCE:
            return start, _End.PROVEN
        if relaxed is not None:
            columns, best_without = _core(problem, columns, loss, relaxed, start=start)
    solver = model_of(problem, columns, objective, kept, integral=True).solver
    if not np.isinf(best_without):
        solver.setOptionValue("mip_feasibility_tolerance", _CORE_TOLERANCE)
    solver.setOptionValue("mip_rel_gap", 0.0)
    solver.setOptionValue("mip_abs_gap", 0.5 * scale)
    solver.setOptionValue("mip_max_nodes", max(MIN_NODES, NODE_BUDGET // columns.size))
    first = highspy.HighsSolution()
    first.col_value = np.isin(columns, start).astype(float).tolist()
    solver.setSolution(first)
    solver.run()
    status, values = solver.getModelStatus(), np.array(solver.getSolution().col_value, dtype=np.float64)
    ended = _End.GIVEN_UP if status == highspy.HighsModelStatus.kTimeLimit else _End.STOPPED
    if values.size != columns.size:
        return None, ended
    order = np.lexsort((columns, -values, problem.owner[columns]))
    owners, where = np.unique(problem.owner[columns][order], return_index=True)
    answer = np.empty(len(problem.entries), dtype=np.int64)
    answer[owners] = columns[order][where]
    optimal = status == highspy.HighsModelStatus.kOptimal and float(objective[answer].sum()) <= best_without
    return answer, _End.PROVEN if optimal else ended


def _core(problem: Problem, columns: Ints, loss: Ints, relaxed: Relaxed, *, start: Ints) -> tuple[Ints, float]:
    """The columns of `start` and of the linear relaxation, those of workloads whose loss differs, then the others'; of
    each the least reduced cost first (of equal ones each workload's best before anybody's second). And the least
    objective that any answer with another column can have.

    A relaxation serves a part of a workload by halves of all and nothing, and prices columns that do it dear: where the
    loss differs, reduced costs say little about what whole answers need.
    """
    # Rounded, so that columns which cost nothing to use are told apart by what is asked for, not by noise.
    reduced = np.maximum(np.round(relaxed.reduced, 6), 0.0)
    inside = (relaxed.value > TOLERANCE) | np.isin(columns, start)
    owner = problem.owner[columns]
    rank = _rank_within(owner, np.lexsort((problem.tie[columns], reduced, owner)))
    order = np.lexsort((rank, reduced, ~_differs(owner, loss[columns])))
    order = order[~inside[order]]
    room = max(0, CORE_COLUMNS - int(inside.sum()))
    inside[order[:room]] = True
    best_without = relaxed.least + float(reduced[order[room:]].min(initial=np.inf))
    return columns[inside], best_without


def _differs(owner: Ints, loss: Ints) -> Flags:
    """Which columns are of an owner whose columns have several losses."""
    most, least = np.zeros(owner.max() + 1, dtype=np.int64), np.full(owner.max() + 1, np.iinfo(np.int64).max)
    np.maximum.at(most, owner, loss)
    np.minimum.at(least, owner, loss)
    return (most > least)[owner]


def _rank_within(owner: Ints, order: Ints) -> Ints:
    """Place of each column among those of its owner; `order` sorts by owner first."""
    begins = np.r_[True, owner[order][1:] != owner[order][:-1]]
    places = np.arange(order.size)
    rank = np.empty(order.size, dtype=np.int64)
    rank[order] = places - np.maximum.accumulate(np.where(begins, places, 0))
    return rank
