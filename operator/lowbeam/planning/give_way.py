"""Answers that are not proven: nobody important stays dimmed while somebody less important could still give way.

Decides exchanges of two workloads: one takes a better column for which a less important one takes a smaller one. Of
those who could give way the least important does, with the column that it loses least by. Nobody is stopped for it.

Invariant: an answer that fits stays one that fits, and gets better in the order of the goals (`optimise`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lowbeam.planning.greedy import by_priority, improve
from lowbeam.planning.problem import Flags, Ints, Problem

MOST_ROUNDS = 200
"""Rounds of exchanges, each over all workloads from the most important one down. They end by themselves, as each makes
somebody better, but nothing says after how many: fleets of 1,000 served upside down come to rest after some 20."""
_NEVER = np.iinfo(np.int64).min


def let_give_way(problem: Problem, allowed: Flags, choice: Ints) -> tuple[Ints, bool]:
    """The answer after the exchanges, and whether there is none left to make; else MOST_ROUNDS were not enough."""
    order = by_priority(problem)
    for _ in range(MOST_ROUNDS):
        exchange = _Exchange(problem, allowed, choice)
        if not sum(exchange.better(entry) for entry in order):
            return choice, True
        choice = improve(problem, allowed, exchange.choice, order)
    return choice, False


class _Exchange:
    """One round: the answer, what it uses, and what each column would free beside its workload's present one."""

    def __init__(self, problem: Problem, allowed: Flags, choice: Ints) -> None:
        self.problem = problem
        self.choice = choice.copy()
        self._allowed = allowed
        priority = np.array([entry.needs.priority for entry in problem.entries], dtype=np.int64)
        levels, self._level = np.unique(priority, return_inverse=True)
        """Of each workload; 0 is the least important."""
        self._room = problem.rows.limits - problem.usage[:, choice].sum(axis=1)
        now = choice[problem.owner]
        self._frees = problem.usage[:, now] - problem.usage
        self._gives = allowed & (problem.paused <= problem.paused[now])
        self._most = np.maximum.reduceat(
            np.where(self._gives, self._frees, _NEVER), problem.start[:-1], axis=1, dtype=np.int64
        )
        """rows x workloads: the most that any column of a workload frees."""
        self._most_below = np.zeros((problem.rows.limits.size, levels.size + 1), dtype=np.int64)
        """rows x levels: the most that any column of any workload below a level frees, or more than that."""
        np.maximum.at(self._most_below.T, self._level + 1, self._most.T)
        self._most_below = np.maximum.accumulate(self._most_below, axis=1)

    def better(self, entry: int) -> bool:
        """Whether one less important workload gave way for a better column of this one."""
        problem, now = self.problem, self.choice[entry]
        present = (problem.paused[now], problem.unserved[now], problem.shortfall[now])
        span = problem.columns_of(entry)
        columns = np.flatnonzero(self._allowed[span]) + span.start
        paused, unserved, shortfall = (it[columns] for it in (problem.paused, problem.unserved, problem.shortfall))
        wanted = (paused < present[0]) | (
            (paused == present[0]) & ((unserved < present[1]) | ((unserved == present[1]) & (shortfall < present[2])))
        )
        lacking = -(self._room[:, None] + self._frees[:, columns])
        wanted &= (lacking <= self._most_below[:, [self._level[entry]]]).all(axis=0)  # else nobody alone frees as much
        if not wanted.any():
            return False
        order = np.lexsort((problem.tie[columns], problem.cost[columns], shortfall, unserved, paused))
        less = np.flatnonzero(self._level < self._level[entry])
        for at in order:
            if not wanted[at]:
                continue
            if (giver := self._giver(less, lacking[:, at])) is not None:
                self._take(entry, int(columns[at]))
                self._take(int(problem.owner[giver]), giver)
                return True
            wanted &= (lacking < lacking[:, [at]]).any(axis=0)  # what lacks as much finds nobody either
        return False

    def _giver(self, less: Ints, lacking: Ints) -> int | None:
        """The column of a less important workload that frees what is lacking at the least loss."""
        problem, scarce = self.problem, int(np.argmax(lacking))
        who = less[self._most[scarce, less] >= lacking[scarce]]
        who = who[(self._most[:, who] >= lacking[:, None]).all(axis=0)]
        if not who.size:
            return None
        asked = np.zeros(self.choice.size, dtype=np.bool_)
        asked[who] = True
        found = np.flatnonzero(self._gives & asked[problem.owner] & (self._frees[scarce] >= lacking[scarce]))
        found = found[(self._frees[:, found] >= lacking[:, None]).all(axis=0)]
        if not found.size:
            return None
        owner = problem.owner[found]
        now = self.choice[owner]
        losses = [it[found] - it[now] for it in (problem.unserved, problem.shortfall)]
        best: NDArray[np.intp] = np.lexsort((problem.tie[found], *losses[::-1], self._level[owner]))
        return int(found[best[0]])

    def _take(self, entry: int, column: int) -> None:
        problem, span = self.problem, self.problem.columns_of(entry)
        self._room = self._room + self._frees[:, column]
        self.choice[entry] = column
        self._frees[:, span] = problem.usage[:, [column]] - problem.usage[:, span]
        self._gives[span] = self._allowed[span] & (problem.paused[span] <= problem.paused[column])
        most = self._frees[:, span].max(axis=1, initial=_NEVER, where=self._gives[span])
        self._most[:, entry] = most
        above = self._most_below[:, self._level[entry] + 1 :]
        np.maximum(above, most[:, None], out=above)
