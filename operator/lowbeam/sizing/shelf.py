"""Shelves: the profiles of one task with their curves, and what was worked out from them for some lengths and targets.

Decides nothing. Workloads of one shape (task, lengths, burstiness, latency targets) share all of this, whatever their
rates, floors and replica limits are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from lowbeam.sizing.curves import Measured, at_lengths, facts_of, lengths, measured_curves
from lowbeam.sizing.loads import Capacities, Loads, capacities_of, loads_of
from lowbeam.sizing.requirements import Demand, Requirements

_KEPT = 64
"""Shapes that are remembered, some 100 kB each."""

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


class Shelf:
    """All profiles of one task."""

    def __init__(self, measured: Sequence[Measured]) -> None:
        self.measured = tuple(measured)
        self._facts = facts_of(self.measured)
        self._curves = measured_curves([(profile, accelerator) for profile, _, accelerator in measured])
        self._loads: Recent[tuple[int, int, int], Loads] = Recent(_KEPT)
        self._capacities: Recent[tuple[object, ...], Capacities] = Recent(_KEPT)

    def loads(self, demand: Demand) -> Loads:
        """Latency of every point at every load, for requests of these lengths and this burstiness."""
        asked = (demand.input_tokens, demand.output_tokens, max(100, demand.arrival_cv_percent))
        return self._loads.get(asked, lambda: self._loads_of(*asked))

    def capacities(self, needs: Requirements) -> Capacities:
        """What a replica may be given at every point so that the latency targets hold."""
        demand = needs.demand
        asked = (
            (demand.input_tokens, demand.output_tokens, max(100, demand.arrival_cv_percent)),
            (needs.end_to_end_ms, needs.time_to_first_token_ms, needs.inter_token_ms),
        )
        return self._capacities.get(asked, lambda: capacities_of(needs, self.loads(demand)))

    def _loads_of(self, input_tokens: int, output_tokens: int, cv_percent: int) -> Loads:
        effect = lengths(self._facts, input_tokens, output_tokens)
        return loads_of(at_lengths(self._curves, effect), cv_percent / 100)
