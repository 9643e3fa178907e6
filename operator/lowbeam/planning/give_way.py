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


def let_give_way(problem: Problem, allowed: Flags, choice: Ints) -> Ints:
    """Exchange until there is none left to make."""
    order = by_priority(problem)
    while True:
        exchange = _Exchange(problem, allowed, choice)
        if not sum(exchange.better(entry) for entry in order):
            return choice
        choice = improve(problem, allowed, exchange.choice, order)


class _Exchange:
    """One round: the answer, what it uses, and what each column would free beside its workload's present one."""

    def __init__(self, problem: Problem, allowed: Flags, choice: Ints) -> None:
        self.problem = problem
        self.choice = choice.copy()
        self._allowed = allowed
        self._priority = np.array([entry.needs.priority for entry in problem.entries], dtype=np.int64)
        self._room = problem.rows.limits - problem.usage[:, choice].sum(axis=1)
        now = choice[problem.owner]
        self._frees = problem.usage[:, now] - problem.usage
        self._gives = allowed & (problem.paused <= problem.paused[now])
        self._most: dict[int, Ints] = {}
        """Priority -> the most that any less important column frees of each row, or more than that."""

    def better(self, entry: int) -> bool:
        """Whether one less important workload gave way for a better column of this one."""
        problem, now = self.problem, self.choice[entry]
        span = problem.columns_of(entry)
        columns = np.flatnonzero(self._allowed[span]) + span.start
        worth = np.stack([problem.paused[columns], problem.unserved[columns], problem.shortfall[columns]])
        order = np.lexsort((problem.tie[columns], problem.cost[columns], *worth[::-1]))
        present = (problem.paused[now], problem.unserved[now], problem.shortfall[now])
        wanted = [columns[at] for at in order if tuple(worth[:, at]) < present]
        if not wanted:
            return False
        less = self._gives & (self._priority[problem.owner] < self._priority[entry])
        priority = int(self._priority[entry])
        if priority not in self._most:
            self._most[priority] = self._frees.max(axis=1, initial=0, where=less)
        for column in wanted:
            lacking = -(self._room + self._frees[:, column])
            if (lacking > self._most[priority]).any():
                continue  # nobody alone frees as much
            if (giver := self._giver(less, lacking)) is not None:
                self._take(entry, column)
                self._take(int(problem.owner[giver]), giver)
                return True
        return False

    def _giver(self, less: Flags, lacking: Ints) -> int | None:
        """The column of a less important workload that frees what is lacking at the least loss."""
        scarce = int(np.argmax(lacking))
        found = np.flatnonzero(less & (self._frees[scarce] >= lacking[scarce]))
        found = found[(self._frees[:, found] >= lacking[:, None]).all(axis=0)]
        if not found.size:
            return None
        problem, owner = self.problem, self.problem.owner[found]
        now = self.choice[owner]
        losses = [it[found] - it[now] for it in (problem.unserved, problem.shortfall)]
        best: NDArray[np.intp] = np.lexsort((problem.tie[found], *losses[::-1], self._priority[owner]))
        return int(found[best[0]])

    def _take(self, entry: int, column: int) -> None:
        problem, span = self.problem, self.problem.columns_of(entry)
        self._room = self._room + self._frees[:, column]
        self.choice[entry] = column
        self._frees[:, span] = problem.usage[:, [column]] - problem.usage[:, span]
        self._gives[span] = self._allowed[span] & (problem.paused[span] <= problem.paused[column])
        for priority, most in self._most.items():
            if self._priority[entry] < priority:
                self._most[priority] = np.maximum(most, self._frees[:, span].max(axis=1))
