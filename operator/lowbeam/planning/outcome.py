"""Outcome: the optimiser's answer together with what was asked, as explanations need both.

Decides which cap stands between a workload and what it would run without caps.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from lowbeam.planning.problem import Flags, Ints, Problem
from lowbeam.sizing.options import Option


@dataclass(frozen=True, slots=True)
class Outcome:
    """One answer. `choice` has one column per entry, `desired` one option per entry."""

    problem: Problem
    choice: Ints
    allowed: Flags
    desired: tuple[Option | None, ...]
    too_small: dict[str, str] = field(default_factory=dict)
    proven: bool = True
    """Whether no better answer is possible."""
    given_up: int = 0
    """Passes of the optimiser that would not have ended."""

    def option(self, entry: int) -> Option | None:
        """What the entry gets."""
        return self.problem.option[int(self.choice[entry])]

    @property
    def is_dimmed(self) -> bool:
        """Whether anybody gets something else than desired."""
        return any(self.option(i) != want for i, want in enumerate(self.desired))

    def used(self) -> Ints:
        """Use of each row."""
        result: Ints = self.problem.usage[:, self.choice].sum(axis=1)
        return result

    def binding_cap(self, entry: int) -> str:
        """The cap that would be broken (most) if this entry alone got what it desires; empty when none would.

        When the desire fits alone and only not together with the desires of others, the fullest cap over it is named.
        """
        want, got = self.desired[entry], self.option(entry)
        if want is None or want == got:
            return ""
        problem = self.problem
        span = problem.columns_of(entry)
        column = next((c for c in range(span.start, span.stop) if problem.option[c] == want), None)
        if column is None or not problem.rows.caps:
            return ""
        caps = len(problem.rows.caps)
        limits = np.maximum(problem.rows.limits[:caps], 1)
        wanted = problem.usage[:caps, column]
        others = self.used()[:caps] - problem.usage[:caps, self.choice[entry]]
        fill = np.where(wanted > 0, (others + wanted) / limits, 0.0)
        if fill.max() <= 1.0:
            desires = np.zeros(caps, dtype=np.int64)
            for index, option in enumerate(self.desired):
                if option is not None:
                    for row, amount in problem.rows.usage(problem.entries[index].needs.namespace, option):
                        if row < caps:
                            desires[row] += amount
            fill = np.where((wanted > 0) & (desires > problem.rows.limits[:caps]), fill, 0.0)
        return problem.rows.caps[int(np.argmax(fill))] if fill.max() > 0 else ""
