"""A feasible answer at once: admit everybody by priority, then give more by priority.

Decides a first answer and improves answers one workload at a time. Never returns an answer that breaks a row. It is the
start of the exact search, its fallback, and its last polish (ties).

Invariant: afterwards no workload alone could do better with what is left.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from lowbeam.planning.problem import Flags, Ints, Problem

MAX_ROUNDS = 4
"""Rounds of improvement; each needs room that an earlier one freed, which is rare after the second."""


def by_priority(problem: Problem) -> list[int]:
    """Entries from the highest priority down, canonical order within one."""
    return sorted(range(len(problem.entries)), key=lambda i: -problem.entries[i].needs.priority)


def first_answer(problem: Problem, allowed: Flags) -> Ints:
    """Everybody's most frugal option, by priority, as long as it fits; then improvements by priority."""
    choice = problem.start[1:] - 1  # nothing
    used = problem.usage[:, choice].sum(axis=1)
    share = problem.usage / np.maximum(problem.rows.limits, 1)[:, None]
    weight = share.max(axis=0) if share.shape[0] else np.zeros(problem.owner.size)
    for entry in by_priority(problem):
        columns = _columns(problem, entry, allowed)
        for column in columns[np.lexsort((problem.tie[columns], weight[columns], problem.paused[columns]))]:
            after = used + problem.usage[:, column] - problem.usage[:, choice[entry]]
            if (after <= problem.rows.limits).all():
                choice[entry], used = column, after
                break
    return improve(problem, allowed, choice, by_priority(problem))


def improve(problem: Problem, allowed: Flags, choice: Ints, order: Iterable[int]) -> Ints:
    """Give each workload in turn the best column that fits beside the others; repeat while anything gets better."""
    choice = choice.copy()
    used = problem.usage[:, choice].sum(axis=1)
    turns = list(order)
    for _ in range(MAX_ROUNDS):
        changed = False
        for entry in turns:
            columns = _columns(problem, entry, allowed)
            for column in columns[_rank(problem, columns)]:
                if column == choice[entry]:
                    break
                after = used + problem.usage[:, column] - problem.usage[:, choice[entry]]
                if (after <= problem.rows.limits).all():
                    choice[entry], used, changed = column, after, True
                    break
        if not changed:
            break
    return choice


def _columns(problem: Problem, entry: int, allowed: Flags) -> Ints:
    span = problem.columns_of(entry)
    result: Ints = np.flatnonzero(allowed[span]) + span.start
    return result


def _rank(problem: Problem, columns: Ints) -> Ints:
    """Best first: paused, unserved, shortfall, cost, tie."""
    result: Ints = np.lexsort(
        (
            problem.tie[columns],
            problem.cost[columns],
            problem.shortfall[columns],
            problem.unserved[columns],
            problem.paused[columns],
        )
    )
    return result
