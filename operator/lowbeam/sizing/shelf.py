"""Shelves: the profiles of one task with their curves, and what was worked out from them for some lengths and targets.

Decides nothing. Workloads of one shape (lengths, burstiness, latency targets) whose filters pass the same profiles
share all of this, whatever their rates and replica limits are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from lowbeam.catalog.facts import EnergyProfile
from lowbeam.sizing.curves import (
    Curves,
    Facts,
    Measured,
    at_lengths,
    curves_of_some,
    facts_of,
    facts_of_some,
    lengths,
    measured_curves,
)
from lowbeam.sizing.feasibility import is_cut
from lowbeam.sizing.loads import Capacities, Loads, Targets, capacities_of, loads_of, targets_of
from lowbeam.sizing.requirements import Requirements

_KEPT = 64
"""Of each kind, some 100 kB each at most."""
_BYTES = np.dtype(np.int64).itemsize

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class Recent(Generic[_Key, _Value]):
    """The last answers; the oldest one goes when there are too many."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: dict[_Key, _Value] = {}

    def get(self, key: _Key, work: Callable[[], _Value]) -> _Value:
        """The remembered answer, or a new one."""
        found = self._kept.get(key)
        if found is None:
            if len(self._kept) >= self._most:
                del self._kept[next(iter(self._kept))]
            found = self._kept[key] = work()
        return found


class Traffic(NamedTuple):
    """What decides the latency of some profiles at a load."""

    profiles: bytes
    """Their numbers on the shelf, growing."""
    input_tokens: int
    output_tokens: int
    cv_percent: int
    """At least 100."""
    cut: bool
    """The input is one text, and longer ones are cut."""


class Shape(NamedTuple):
    """What workloads share that may be given the same."""

    traffic: Traffic
    targets: Targets


def shape_of(needs: Requirements, profiles: bytes) -> Shape:
    """The shape of a workload whose filters pass these profiles."""
    demand = needs.demand
    cv_percent = max(100, demand.arrival_cv_percent)
    traffic = Traffic(profiles, demand.input_tokens, demand.output_tokens, cv_percent, cut=is_cut(needs))
    return Shape(traffic, targets_of(needs))


class Shelf:
    """All profiles of one task."""

    def __init__(self, measured: Sequence[Measured], unlimited: Sequence[EnergyProfile]) -> None:
        """`unlimited`: each profile as it is for boards without a power limit, itself mostly."""
        self.measured = tuple(measured)
        self._facts = facts_of(self.measured)
        self._curves = measured_curves([(profile, accelerator) for profile, _, accelerator in measured], unlimited)
        self._picked: Recent[bytes, tuple[Facts, Curves]] = Recent(_KEPT)
        self._loads: Recent[Traffic, Loads] = Recent(_KEPT)
        self._capacities: Recent[Shape, Capacities] = Recent(_KEPT)

    def tables(self, shapes: Sequence[Shape]) -> tuple[Loads, Capacities]:
        """What a replica may be given at every point, shape after shape. Remembered when it is one shape alone."""
        if len(shapes) > 1:
            loads = self._loads_of([shape.traffic for shape in shapes])
            return loads, capacities_of(loads, [shape.targets for shape in shapes])
        shape = shapes[0]
        loads = self._loads.get(shape.traffic, lambda: self._loads_of([shape.traffic]))
        return loads, self._capacities.get(shape, lambda: capacities_of(loads, [shape.targets]))

    def _loads_of(self, traffic: Sequence[Traffic]) -> Loads:
        if len(traffic) == 1:
            profiles = traffic[0].profiles
            facts, curves = self._picked.get(profiles, lambda: self._pick([profiles]))
        else:
            facts, curves = self._pick([it.profiles for it in traffic])
        sizes = [len(it.profiles) // _BYTES for it in traffic]
        given, answered = np.array([it[1:3] for it in traffic], dtype=np.float64).T.repeat(sizes, axis=1)
        bounds = np.concatenate([[0], np.cumsum(sizes)])
        cut = np.array([it.cut for it in traffic]).repeat(sizes)
        at_their_lengths = at_lengths(curves, lengths(facts, given, answered, cut))
        return loads_of(at_their_lengths, bounds, [it.cv_percent / 100 for it in traffic])

    def _pick(self, profiles: Sequence[bytes]) -> tuple[Facts, Curves]:
        numbers = np.frombuffer(b"".join(profiles), dtype=np.int64)
        return facts_of_some(self._facts, numbers), curves_of_some(self._curves, numbers)
