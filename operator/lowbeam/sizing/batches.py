"""Batches: workloads that are worked out together, so that they share what a call of numpy costs.

Decides who goes with whom: workloads of one task, those of one shape next to each other, as many as keep the tables
small. Never what anybody gets: each workload gets what it would get alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lowbeam.sizing.feasibility import Miss
from lowbeam.sizing.loads import Loads
from lowbeam.sizing.misses import misses_of, within_limits
from lowbeam.sizing.requirements import Requirements
from lowbeam.sizing.shelf import Shape, Shelf, shape_of
from lowbeam.sizing.sieve import Sifted
from lowbeam.sizing.ways import Asked, Ways, ways_of

_PROFILES = 2000
"""Of all workloads of a batch together: tables of a few MB, which caches hold."""
_NO_WAYS = Ways(*(np.zeros(0, dtype=np.int64) for _ in Ways.__slots__))


@dataclass(frozen=True, slots=True)
class Question:
    """A workload with what passed its filters."""

    needs: Requirements
    sifted: Sifted
    running: tuple[int, int] | None = None
    """(row of what passed, replicas)."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The ways of one workload; none for one that is scaled to zero."""

    number: int
    """Of the question."""
    ways: Ways
    beyond_limits: dict[int, Miss] = field(default_factory=dict)
    """Profiles (rows of what passed) that lost all their ways to a limit of joules or watts."""
    loads: Loads | None = None
    shape: int = 0
    """In `loads`."""

    def misses(self, question: Question) -> dict[int, Miss]:
        """Why profiles (rows of what passed) have no way."""
        if self.loads is None:
            return {}
        room = question.sifted.allowed.context_room
        return misses_of(question.needs, room, self.ways, self.loads, self.shape) | self.beyond_limits


def answers_of(shelves: Mapping[str, Shelf], questions: Sequence[Question]) -> Iterator[Answer]:
    """An answer to each question, in no particular order; no more than one batch is held at a time."""
    groups: dict[tuple[str, bool], dict[Shape, list[int]]] = {}
    for number, it in enumerate(questions):
        if it.needs.fixed_replicas == 0 or not it.sifted.passed:
            yield Answer(number, _NO_WAYS)
            continue
        # Arrivals that are no burstier than Poisson's take fewer tables: they stay among themselves.
        group = groups.setdefault((it.needs.task, it.needs.demand.arrival_cv_percent > 100), {})
        group.setdefault(shape_of(it.needs, it.sifted.profiles), []).append(number)
    for (task, _), shapes in groups.items():
        for batch in _batches(questions, shapes):
            yield from _worked_out(shelves[task], questions, batch)


def _running(it: Question) -> tuple[int, int, int] | None:
    """As `Asked.running` has it."""
    if it.running is None:
        return None
    family = it.sifted.placement.family
    first, after = family.searchsorted([family[it.running[0]], family[it.running[0]] + 1]).tolist()
    return first, after - 1, it.running[1]


def _batches(questions: Sequence[Question], shapes: Mapping[Shape, Sequence[int]]) -> Iterator[list[tuple[Shape, int]]]:
    """Shapes and questions, shape after shape."""
    batch: list[tuple[Shape, int]] = []
    profiles = 0
    # Those of like burstiness together: they share tables.
    for shape, numbers in sorted(shapes.items(), key=lambda it: it[0].traffic.cv_percent):
        for number in numbers:
            batch.append((shape, number))
            profiles += len(questions[number].sifted.passed)
            if profiles >= _PROFILES:
                yield batch
                batch, profiles = [], 0
    if batch:
        yield batch


def _worked_out(shelf: Shelf, questions: Sequence[Question], batch: Sequence[tuple[Shape, int]]) -> Iterator[Answer]:
    place: dict[Shape, int] = {}
    asked = []
    for shape, number in batch:
        it = questions[number]
        asked.append(Asked(it.needs, it.sifted.allowed, place.setdefault(shape, len(place)), _running(it)))
    loads, capacities = shelf.tables(list(place))
    table = ways_of(asked, loads, capacities)
    for at, (shape, number) in enumerate(batch):
        ways, beyond_limits = within_limits(questions[number].needs, *table.of(at))
        yield Answer(number, ways, beyond_limits, loads, place[shape])
