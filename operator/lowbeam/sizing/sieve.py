"""The sieve: which profiles pass the filters of `feasibility` and have room, and the first objection to all others.

Decides nothing that a filter does not decide. Filters do not look at rates, replica counts, latency targets and limits
of watts or joules (`sizing.ways` does), so workloads that differ in these alone share one answer.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from operator import attrgetter

import numpy as np

from lowbeam.api.v1alpha1 import reasons
from lowbeam.catalog.board_limits import limited, limits_of
from lowbeam.catalog.facts import Basis, Catalogue, EnergyProfile, Model, Variant
from lowbeam.sizing.correction import Correction
from lowbeam.sizing.curves import Measured
from lowbeam.sizing.feasibility import (
    MODEL_CHAIN,
    PROFILE_CHAIN,
    UNBOUNDED,
    VARIANT_CHAIN,
    Candidate,
    context_room,
    first_miss,
)
from lowbeam.sizing.inventory import Inventory
from lowbeam.sizing.options import Rejection
from lowbeam.sizing.pruning import Placement, Room
from lowbeam.sizing.requirements import Requirements
from lowbeam.sizing.shelf import Recent, Shelf
from lowbeam.sizing.ways import Allowed

_KEPT = 512
"""Answers that are remembered, some 20 kB each."""
_UNASKED = frozenset(
    {
        "namespace",
        "name",
        "uid",
        "demand",
        "end_to_end_ms",
        "time_to_first_token_ms",
        "inter_token_ms",
        "priority",
        "min_replicas",
        "max_replicas",
        "fixed_replicas",
        "max_millijoules_per_request",
        "max_milliwatts",
        "text_tokens",
        "notes",
    }
)
"""What no filter looks at; of demand and texts, only which context windows hold a request."""
_asked = attrgetter(*(field.name for field in fields(Requirements) if field.name not in _UNASKED))


@dataclass(frozen=True, slots=True)
class Passed:
    """A profile that passed the filters. `number` is its place on the shelf of the task."""

    number: int
    candidate: Candidate
    profile: EnergyProfile
    quality_centi: int | None
    below_floor: bool
    most_replicas: int
    best_pool: str
    watts_percent: int = 100
    """What live watts of this workload say that the profile counts."""
    limit_milliwatts: int = 0
    context_room: int = UNBOUNDED
    """Tokens of context that fit beside the weights."""


@dataclass(frozen=True, slots=True)
class Sifted:
    """What is left, by number on the shelf, as values and as columns; and why the rest is not."""

    passed: tuple[Passed, ...]
    profiles: bytes
    """Their numbers, as the shelf takes them."""
    allowed: Allowed
    placement: Placement
    rejections: tuple[Rejection, ...]
    too_long: frozenset[int]
    """Which of the rejections speak of the workload's own lengths."""


class Stock:
    """The catalogue's profiles laid out by task, and by the variant that they speak of.

    `board_limits`: each is followed by what it becomes under the power limits of its class.
    """

    def __init__(self, catalogue: Catalogue, *, board_limits: bool = False) -> None:
        self.catalogue = catalogue
        self.shelves: dict[str, Shelf] = {}
        self.candidates: dict[tuple[object, ...], list[tuple[int, Candidate]]] = {}
        """Of the profiles as they are."""
        self.limited: dict[tuple[str, int], list[tuple[int, Candidate]]] = {}
        """By task and number of such a profile: the same under each power limit, the highest first."""
        by_task: dict[str, list[tuple[Measured, Variant]]] = {}
        for profile in sorted(catalogue.profiles, key=lambda p: p.name):
            found = _facts_of(profile, catalogue)
            if found is not None:
                rows = by_task.setdefault(profile.task, [])
                rows += [found, *(_under_limits(*found) if board_limits else ())]
        for task, rows in by_task.items():
            base = 0
            bases: list[EnergyProfile] = []
            for number, ((profile, model, accelerator), variant) in enumerate(rows):
                candidate = Candidate(model, variant, profile, accelerator)
                if profile.board_limit_watts:
                    self.limited.setdefault((task, base), []).append((number, candidate))
                else:
                    base = number
                    self.candidates.setdefault((*variant.key, task), []).append((number, candidate))
                bases.append(rows[base][0][0])
            self.shelves[task] = Shelf([it for it, _ in rows], bases)
        windows = {model.context_tokens for model in catalogue.models.values() if model.context_tokens > 0}
        self.contexts = sorted(windows)


class Stocks:
    """Both stocks of one catalogue, made when first asked for: where no limits are set, none are worked out."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._made: dict[bool, Stock] = {}

    def of(self, inventory: Sequence[Inventory]) -> Stock:
        """The stock for these nodes."""
        board_limits = any(row.board_limits for row in inventory)
        if board_limits not in self._made:
            self._made[board_limits] = Stock(self._catalogue, board_limits=board_limits)
        return self._made[board_limits]


class Sieve:
    """Filters over one stock and one inventory."""

    def __init__(self, stock: Stock, inventory: Sequence[Inventory]) -> None:
        self._stock = stock
        self._inventory = inventory
        self._rooms: dict[tuple[str, int, bool], tuple[int, str]] = {}
        self._answers: Recent[object, Sifted] = Recent(_KEPT)

    def sift(self, needs: Requirements) -> Sifted:
        """Profiles that pass every filter and have room; the first objection to each of the others."""
        # Lengths that fit into the same context windows are all the same to the filters, but for their words.
        lengths = needs.text_tokens, needs.demand.input_tokens + needs.demand.output_tokens
        fits = tuple(bisect_left(self._stock.contexts, tokens) for tokens in lengths)
        return self._answers.get((fits, _asked(needs)), lambda: self._sift(needs))

    def rejections(self, needs: Requirements, sifted: Sifted) -> tuple[Rejection, ...]:
        """The objections of `sifted`, in words about this workload."""
        if not sifted.too_long:
            return sifted.rejections
        models = self._stock.catalogue.models
        return tuple(
            Rejection(it.subject, it.reason, text.message)
            if number in sifted.too_long
            and (text := first_miss(MODEL_CHAIN, needs, Candidate(models[it.subject]))) is not None
            else it
            for number, it in enumerate(sifted.rejections)
        )

    def _sift(self, needs: Requirements) -> Sifted:
        rejections: list[Rejection] = []
        passed = tuple(sorted(self._passed(needs, rejections), key=lambda it: it.number))
        numbers = np.array([it.number for it in passed], dtype=np.int64)
        allowed = Allowed(
            boards=np.array([max(1, it.profile.accelerators) for it in passed], dtype=np.int64),
            most_replicas=np.array([it.most_replicas for it in passed], dtype=np.int64),
            shortfall=np.array([max(0, needs.target_centi - (it.quality_centi or 0)) for it in passed], dtype=np.int64),
            below_floor=np.array([it.below_floor for it in passed], dtype=np.int64),
            watts_percent=np.array([it.watts_percent for it in passed], dtype=np.int64),
            limit_milliwatts=np.array([it.limit_milliwatts for it in passed], dtype=np.int64),
            context_room=np.array([it.context_room for it in passed], dtype=np.int64),
        )
        return Sifted(
            passed=passed,
            profiles=numbers.tobytes(),
            allowed=allowed,
            placement=self._placement(needs, passed, allowed),
            rejections=tuple(rejections),
            too_long=frozenset(n for n, it in enumerate(rejections) if it.reason == reasons.CONTEXT_TOO_SHORT),
        )

    def _placement(self, needs: Requirements, passed: Sequence[Passed], allowed: Allowed) -> Placement:
        classes = sorted({it.profile.accelerator_class for it in passed})
        number = {name: at for at, name in enumerate(classes)}
        inventory = self._inventory if needs.reachable is None else needs.reachable
        rooms = {
            (row.pool, row.accelerator_class): Room(
                row.pool,
                number[row.accelerator_class],
                row.accelerators,
                min(row.largest_node, row.accelerators),
                row.board_limits,
            )
            for row in inventory
            if row.accelerator_class in number and row.accelerators > 0
        }
        of = np.array([number[it.profile.accelerator_class] for it in passed], dtype=np.int64)
        is_limited = np.array([it.profile.board_limit_watts > 0 for it in passed], dtype=np.bool_)
        family = np.maximum.accumulate(np.where(is_limited, 0, np.arange(len(passed))))
        return Placement(of, allowed.boards, tuple(room for _, room in sorted(rooms.items())), is_limited, family)

    def _passed(self, needs: Requirements, rejections: list[Rejection]) -> Iterator[Passed]:
        asked_for = {needs.pinned_model, *needs.model_names}
        models = self._stock.catalogue.models
        for name in sorted(models):
            model = models[name]
            if needs.task not in model.tasks and name not in asked_for:
                continue  # models of other tasks are no news to anybody
            objection = first_miss(MODEL_CHAIN, needs, Candidate(model))
            if objection is not None:
                rejections.append(Rejection(model.name, objection.reason, objection.message))
                continue
            for variant in sorted(model.variants, key=lambda v: v.key):
                yield from self._of_variant(needs, model, variant, rejections)

    def _of_variant(
        self, needs: Requirements, model: Model, variant: Variant, rejections: list[Rejection]
    ) -> Iterator[Passed]:
        subject = Candidate(model, variant).subject
        miss = first_miss(VARIANT_CHAIN, needs, Candidate(model, variant))
        below_floor = miss is not None and miss.reason == reasons.BELOW_FLOOR and needs.below_floor_when_capped
        if miss is not None and not below_floor:
            rejections.append(Rejection(subject, miss.reason, miss.message))
            return
        candidates = self._stock.candidates.get((*variant.key, needs.task), [])
        if not candidates:
            text = f"nobody measured it for {needs.task}: add an EnergyProfile (lowbeam calibrate)"
            rejections.append(Rejection(subject, reasons.NO_PROFILE, text))
        for number, candidate in candidates:
            objection = first_miss(PROFILE_CHAIN, needs, candidate)
            if objection is not None:
                rejections.append(Rejection(candidate.subject, objection.reason, objection.message))
                continue
            profile = self._stock.shelves[needs.task].measured[number][0]
            most, where = self._room_for(needs, profile)
            if most < 1:
                rejections.append(Rejection(candidate.subject, reasons.NO_INVENTORY, where))
                continue
            quality = variant.quality_centi(needs.benchmark)
            room = context_room(candidate)
            passed = Passed(number, candidate, profile, quality, below_floor, most, best_pool=where, context_room=room)
            corrected = _corrected(passed, needs.corrections) if needs.corrections else passed
            yield corrected
            # What a limit does was worked out from the published draw. Where live watts contradict that, nobody knows
            # from which load on the limit holds a board back, nor by how much: such a profile is offered as it is.
            if corrected is passed:
                yield from self._under_limits(needs, passed)

    def _under_limits(self, needs: Requirements, passed: Passed) -> Iterator[Passed]:
        """The same profile under the power limits of its class, where some pool sets them and has room."""
        for number, candidate in self._stock.limited.get((needs.task, passed.number), ()):
            assert candidate.profile is not None  # noqa: S101 - every candidate of a stock has one
            most, where = self._room_for(needs, candidate.profile)
            if most >= 1:
                yield replace(
                    passed,
                    number=number,
                    candidate=candidate,
                    profile=candidate.profile,
                    most_replicas=most,
                    best_pool=where,
                )

    def _room_for(self, needs: Requirements, profile: EnergyProfile) -> tuple[int, str]:
        """(replicas that the roomiest pool holds, its name), or (0, why none fits)."""
        boards, name, is_limited = (
            max(1, profile.accelerators),
            profile.accelerator_class,
            profile.board_limit_watts > 0,
        )
        if needs.reachable is not None:
            of_those = f" that {needs.reach_limits} leave"
            return _room(needs.reachable, name, boards, of_those=of_those, is_limited=is_limited)
        known = self._rooms.get((name, boards, is_limited))
        if known is None:
            known = self._rooms[name, boards, is_limited] = _room(self._inventory, name, boards, is_limited=is_limited)
        return known


def _corrected(passed: Passed, corrections: Sequence[Correction]) -> Passed:
    """What the workload's own watts say about the profile, where they contradict it: then that is what was measured."""
    profile, accelerator = passed.profile, passed.candidate.accelerator
    found = next((it for it in corrections if it.is_of(profile)), None)
    if found is None:
        return passed
    return replace(
        passed,
        profile=replace(profile, basis=Basis.MEASURED, uncertainty_percent=0),
        watts_percent=found.percent,
        limit_milliwatts=accelerator.max_milliwatts * max(1, profile.accelerators) if accelerator else 0,
    )


def _room(
    inventory: Sequence[Inventory], name: str, boards: int, *, of_those: str = "", is_limited: bool
) -> tuple[int, str]:
    """`is_limited`: only in pools that set power limits."""
    of_class = [row for row in inventory if row.accelerator_class == name and (row.board_limits or not is_limited)]
    taken = sum(row.held_by_others for row in of_class)
    others = f"; pods of others hold {taken}" if taken else ""
    rows = [row for row in of_class if row.accelerators > 0]
    if not rows:
        return 0, f"no node{of_those} has {'a free ' if taken else ''}{name}{others}"
    largest = max(row.largest_node for row in rows)
    if largest < boards:
        return 0, f"no node{of_those} has {boards} {name} together (the largest has {largest}{others})"
    roomiest = max((row for row in rows if row.largest_node >= boards), key=lambda row: (row.accelerators, row.pool))
    return roomiest.accelerators // boards, roomiest.pool


def _facts_of(profile: EnergyProfile, catalogue: Catalogue) -> tuple[Measured, Variant] | None:
    """A profile with what it speaks of; None when model, variant or class is not in the catalogue, or it is empty."""
    model = catalogue.models.get(profile.model)
    accelerator = catalogue.accelerator_classes.get(profile.accelerator_class)
    if model is None or accelerator is None or not any(p.requests_per_second_milli > 0 for p in profile.points):
        return None
    wanted = (profile.model, profile.precision, profile.reasoning)
    variant = next((v for v in model.variants if v.key == wanted), None)
    return None if variant is None else ((profile, model, accelerator), variant)


def _under_limits(measured: Measured, variant: Variant) -> Iterator[tuple[Measured, Variant]]:
    """The same under each power limit of its class that changes it."""
    profile, model, accelerator = measured
    for limit_watts in limits_of(accelerator):
        if (under := limited(profile, accelerator, limit_watts)) is not None:
            yield (under, model, accelerator), variant
