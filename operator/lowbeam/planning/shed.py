"""Sheds: which moves free enough watts now, for the guard's fast path.

Decides who is dimmed, and how far, when a cap must lose watts within a tick; the full plan follows. Order: strictly by
priority, lowest first; within one priority the lightest lever first (batch and power limit together, replicas,
precision, model, pause); within one lever the least loss per watt; ties by (namespace, name). The last move of an order
goes no further than needed.

A step that serves less per watt freed than stopping altogether would (a small batch on a GPU that stays busy) is no use
and is not taken. Never a step below the floor without consent (sizing offers none), never a lever that the cap does not
allow, never a pause unless the cap says onInfeasible PauseLowest (or the workload has no minimum), never a step that
takes watts or accelerators anywhere: a shed stays in its pool and class, so it needs no other check.

Prepare a `ShedBook` with each plan; `choose` is then a matter of milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lowbeam.planning.moves import HOT, Lever, Move, allowed_by, levers_between, move_between
from lowbeam.planning.snapshot import Snapshot, WorkloadState
from lowbeam.power.caps import Cap
from lowbeam.sizing.options import Option, OptionSet

Key = tuple[str, str]

_TIERS = (
    HOT,
    frozenset({Lever.REPLICAS}),
    frozenset({Lever.REASONING, Lever.PRECISION, Lever.PLACEMENT, Lever.MODEL}),
    frozenset({Lever.PAUSE}),
)
"""Lightest first, by the heaviest lever of a step (control.md, "Order of moves")."""

WORSE_THAN_STOPPING = 1.5
"""How many times the requests per watt of a pause a step may cost; fewer replicas cost about as much as a pause."""


@dataclass(frozen=True, slots=True)
class ShedOrder:
    """A cap and what must go under it."""

    cap: str
    milliwatts_to_free: int
    committed: bool = False
    """False: measured watts, so steps count by what they are expected to save at today's demand. True (blind mode):
    committed watts, so steps count by their worst case."""


@dataclass(frozen=True, slots=True)
class Shed:
    """One downward move that was chosen."""

    namespace: str
    name: str
    option: Option | None
    """What it runs afterwards; None: paused."""
    cap: str
    """The order that it serves first."""
    move: Move
    freed_milliwatts: int
    """By the order's own measure."""

    @property
    def key(self) -> Key:
        """(namespace, name)."""
        return (self.namespace, self.name)


@dataclass(frozen=True, slots=True)
class _Step:
    option: Option | None
    levers: frozenset[Lever]
    saves_milliwatts: int
    frees_milliwatts: int
    loss: float
    """Requests per second no longer served, plus points of quality lost to the target."""

    def counts(self, order: ShedOrder) -> int:
        return self.frees_milliwatts if order.committed else self.saves_milliwatts


class ShedBook:
    """The downward steps of every running workload of one snapshot, worked out when first asked for."""

    def __init__(self, snapshot: Snapshot, option_sets: Mapping[Key, OptionSet]) -> None:
        self._caps = {cap.name: cap for cap in snapshot.caps.caps}
        self._option_sets = option_sets
        self._states = sorted(snapshot.workloads, key=lambda s: (s.requirements.priority, s.requirements.key))
        self._steps = {state.requirements.key: self._steps_of(state) for state in self._states}
        self._usable: dict[tuple[Key, str], tuple[tuple[_Step, ...], ...]] = {}
        for cap, _ in snapshot.caps.enforced():
            for state in self._states:
                self._allowed(state, cap)

    def choose(self, orders: Sequence[ShedOrder]) -> tuple[Shed, ...]:
        """Moves that meet the orders, or all that are allowed when they cannot be met; at most one per workload."""
        taken: dict[Key, tuple[ShedOrder, _Step]] = {}
        for order in sorted(orders, key=lambda o: o.cap):
            cap = self._caps.get(order.cap)
            if cap is not None:
                self._serve(order, cap, taken)
        states = {state.requirements.key: state for state in self._states}
        return tuple(
            Shed(
                *key,
                option=step.option,
                cap=order.cap,
                move=move_between(self._before(states[key]), step.option),
                freed_milliwatts=step.counts(order),
            )
            for key, (order, step) in sorted(taken.items())
        )

    def _serve(self, order: ShedOrder, cap: Cap, taken: dict[Key, tuple[ShedOrder, _Step]]) -> None:
        covered = [
            state
            for state in self._states
            if state.running is not None and cap.covers(state.requirements.namespace, state.running.pool)
        ]
        keys = {state.requirements.key for state in covered}
        missing = order.milliwatts_to_free - sum(step.counts(order) for k, (_, step) in taken.items() if k in keys)
        for priority in sorted({state.requirements.priority for state in covered}):
            peers = [state for state in covered if state.requirements.priority == priority]
            for tier in range(len(_TIERS)):
                if missing <= 0:
                    return
                missing = self._one_tier(order, cap, peers, tier, taken=taken, missing=missing)

    def _one_tier(
        self,
        order: ShedOrder,
        cap: Cap,
        peers: Sequence[WorkloadState],
        tier: int,
        *,
        taken: dict[Key, tuple[ShedOrder, _Step]],
        missing: int,
    ) -> int:
        """Take steps of one tier, least loss per watt first; what is still missing afterwards."""
        offers: list[tuple[float, Key, list[_Step], int]] = []
        for state in peers:
            key = state.requirements.key
            had = taken[key][1] if key in taken else None
            counted = 0 if had is None else had.counts(order)
            steps = [s for s in self._allowed(state, cap)[tier] if s.counts(order) > counted]
            if steps:
                furthest = max(steps, key=lambda s: (s.counts(order), -s.loss))
                extra_loss = furthest.loss - (0.0 if had is None else had.loss)
                offers.append((extra_loss / (furthest.counts(order) - counted), key, steps, counted))
        for _, key, steps, counted in sorted(offers, key=lambda offer: offer[:2]):
            if missing <= 0:
                break
            enough = [s for s in steps if s.counts(order) - counted >= missing]
            step = (
                min(enough, key=lambda s: (s.loss, s.counts(order), _id(s)))
                if enough
                else max(steps, key=lambda s: (s.counts(order), -s.loss, _id(s)))
            )
            missing -= step.counts(order) - counted
            taken[key] = (taken[key][0] if key in taken else order, step)
        return missing

    def _before(self, state: WorkloadState) -> Option | None:
        """What runs, at today's demand where sizing still knows it."""
        found = self._option_sets.get(state.requirements.key)
        return state.running if found is None or found.running is None else found.running

    def _allowed(self, state: WorkloadState, cap: Cap) -> tuple[tuple[_Step, ...], ...]:
        """The steps by tier that the cap's levers permit."""
        key = (state.requirements.key, cap.name)
        if key not in self._usable:
            self._usable[key] = tuple(
                tuple(step for step in tier if _permits(cap, step, state)) for tier in self._steps[key[0]]
            )
        return self._usable[key]

    def _steps_of(self, state: WorkloadState) -> tuple[tuple[_Step, ...], ...]:
        before, found = self._before(state), self._option_sets.get(state.requirements.key)
        tiers: tuple[list[_Step], ...] = tuple([] for _ in _TIERS)
        if before is None:
            return tuple(tuple(tier) for tier in tiers)
        served = max(0, state.requirements.demand.requests_per_second_milli - before.unserved_millirps) / 1000
        had = (before.expected_milliwatts, before.worst_case_milliwatts)
        tiers[-1].append(_Step(None, frozenset({Lever.PAUSE}), *had, served))
        dearest = WORSE_THAN_STOPPING * served / max(1, before.expected_milliwatts)
        for option in () if found is None else found.options:
            if (option.pool, option.accelerator_class) != (before.pool, before.accelerator_class):
                continue
            if option.worst_case_milliwatts > before.worst_case_milliwatts or option.accelerators > before.accelerators:
                continue
            unserved = max(0, option.unserved_millirps - before.unserved_millirps) / 1000
            saves = before.expected_milliwatts - option.expected_milliwatts
            if unserved > dearest * max(0, saves):
                continue
            step = _Step(
                option=option,
                levers=levers_between(before, option),
                saves_milliwatts=saves,
                frees_milliwatts=before.worst_case_milliwatts - option.worst_case_milliwatts,
                loss=unserved + max(0, option.quality_shortfall_centi - before.quality_shortfall_centi) / 100,
            )
            for tier, levers in enumerate(_TIERS):
                if (
                    step.levers
                    and step.levers & levers
                    and not any(step.levers & heavier for heavier in _TIERS[tier + 1 :])
                ):
                    tiers[tier].append(step)
        return tuple(tuple(tier) for tier in tiers)


def choose_sheds(
    snapshot: Snapshot, orders: Sequence[ShedOrder], option_sets: Mapping[Key, OptionSet]
) -> tuple[Shed, ...]:
    """One-off form of `ShedBook.choose`; a guard keeps the book of the last plan."""
    return ShedBook(snapshot, option_sets).choose(orders)


def _permits(cap: Cap, step: _Step, state: WorkloadState) -> bool:
    if step.option is None and state.requirements.min_replicas > 0 and not cap.pause_lowest:
        return False
    return allowed_by(step.levers, cap.levers)


def _id(step: _Step) -> str:
    return "" if step.option is None else step.option.id
