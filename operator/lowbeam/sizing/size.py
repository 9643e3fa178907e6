"""Sizing: all options of one workload, from the catalogue's profiles and the inventory.

Decides which (variant x class x accelerators x batch x replicas x pool) can serve a workload and what each costs; says
for everything else why not. Never looks at caps or at other workloads.

The steps: filters on models, variants and profiles (`feasibility`), what is left as one table (`ways`), the rows worth
offering (`pruning`), and those as options.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from lowbeam.api.v1alpha1 import reasons
from lowbeam.catalog.facts import Catalogue, EnergyProfile, Model, Variant
from lowbeam.sizing import curves as profile_curves
from lowbeam.sizing.feasibility import (
    MODEL_CHAIN,
    PROFILE_CHAIN,
    VARIANT_CHAIN,
    Candidate,
    first_miss,
)
from lowbeam.sizing.inventory import Inventory
from lowbeam.sizing.options import NATIVE, Option, OptionSet, Rejection
from lowbeam.sizing.pruning import also_ran, select
from lowbeam.sizing.requirements import Requirements
from lowbeam.sizing.ways import Profiles, Ways, ways_of

ALSO_RAN = 3
"""As many as an explanation shows."""
_CACHE_LIMIT = 8192
"""Answers per generation, about 15 kB each; `next_cycle` keeps it far below in a running operator."""


@dataclass(slots=True)
class _Shelf:
    """All profiles of one task with their curves, and the effect of lengths as far as it was asked for."""

    measured: list[profile_curves.Measured]
    curves: profile_curves.Curves
    effects: dict[tuple[int, int], profile_curves.Lengths] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Passed:
    """A profile that passed the filters. `number` is its place on the shelf of the task."""

    number: int
    candidate: Candidate
    profile: EnergyProfile
    quality_centi: int | None
    below_floor: bool
    most_replicas: int
    best_pool: str


class Sizer:
    """Options for one catalogue and one inventory. Pure: the same question gets the same answer, remembered."""

    def __init__(self, catalogue: Catalogue, inventory: Sequence[Inventory]) -> None:
        self.catalogue = catalogue
        self.inventory = tuple(sorted(inventory, key=lambda row: (row.pool, row.accelerator_class)))
        self._candidates: dict[tuple[object, ...], list[tuple[int, Candidate]]] = {}
        self._shelves: dict[str, _Shelf] = {}
        self._answers: dict[tuple[Requirements, object], OptionSet] = {}
        self._older: dict[tuple[Requirements, object], OptionSet] = {}
        by_task: dict[str, list[tuple[profile_curves.Measured, Variant]]] = {}
        for profile in sorted(catalogue.profiles, key=lambda p: p.name):
            found = _facts_of(profile, catalogue)
            if found is not None:
                by_task.setdefault(profile.task, []).append(found)
        for task, rows in by_task.items():
            measured = [it for it, _ in rows]
            self._shelves[task] = _Shelf(measured, profile_curves.measured_curves([(p, a) for p, _, a in measured]))
            for number, ((profile, model, accelerator), variant) in enumerate(rows):
                candidate = Candidate(model, variant, profile, accelerator)
                self._candidates.setdefault((*variant.key, task), []).append((number, candidate))

    def options_for(self, needs: Requirements, running: Option | None = None) -> OptionSet:
        """Every useful way to run the workload. `running` is kept among them while it is allowed, at today's demand."""
        same = replace(needs, namespace="", name="", uid="", priority=0, notes=())
        question = (same, None if running is None else running.setting)
        answer = self._answers.get(question) or self._older.get(question) or self._size(needs, running)
        if len(self._answers) >= _CACHE_LIMIT:
            self.next_cycle()
        self._answers[question] = answer
        return answer

    def next_cycle(self) -> None:
        """Forget what was not asked since the last call: demand changes, and old questions never come back."""
        self._older, self._answers = self._answers, {}

    def _size(self, needs: Requirements, running: Option | None) -> OptionSet:
        if needs.fixed_replicas == 0:
            message = "spec.replicas is 0: an autoscaler or `kubectl scale` asked for no replica; raise it to run"
            return OptionSet((), (Rejection("spec.replicas", reasons.SCALED_TO_ZERO, message),), relaxation=message)
        rejections: list[Rejection] = []
        passed = sorted(self._passed(needs, rejections), key=lambda it: it.number)
        if not passed:
            return OptionSet((), tuple(rejections))
        profiles = self._profiles(needs, passed)
        now = None if running is None else next((i for i, it in enumerate(passed) if _is_of(it.profile, running)), None)
        ways, misses = ways_of(needs, profiles, None if running is None or now is None else (now, running.replicas))
        rejections += [Rejection(passed[i].candidate.subject, m.reason, m.message) for i, m in sorted(misses.items())]
        rows = select(
            ways,
            [it.profile.accelerator_class for it in passed],
            profiles.boards,
            self.inventory,
            None if running is None or now is None else (now, running.batch_limit, running.replicas, running.pool),
        )
        options = sorted((_option(passed[int(ways.profile[row])], ways, row, pool) for row, pool in rows), key=_id)
        current = None if running is None else next((o for o in options if o.setting == running.setting), None)
        lost = tuple(
            _option(passed[at], ways, row, passed[at].best_pool)
            for row in also_ran(ways, [row for row, _ in rows], ALSO_RAN)
            for at in [int(ways.profile[row])]
        )
        return OptionSet(tuple(options), tuple(rejections), lost, current)

    def _profiles(self, needs: Requirements, passed: Sequence[_Passed]) -> Profiles:
        shelf = self._shelves[needs.task]
        demand = needs.demand
        asked = (demand.input_tokens, demand.output_tokens)
        if asked not in shelf.effects:
            if len(shelf.effects) >= _CACHE_LIMIT:
                shelf.effects.clear()
            shelf.effects[asked] = profile_curves.lengths(shelf.measured, *asked)
        effect, numbers = shelf.effects[asked], np.array([it.number for it in passed], dtype=np.int64)
        mine = profile_curves.Lengths(effect.stretch[numbers], effect.extra_ms[numbers], effect.prompt_ms[numbers])
        return Profiles(
            curves=profile_curves.at_lengths(profile_curves.pick(shelf.curves, numbers), mine),
            boards=np.array([max(1, it.profile.accelerators) for it in passed], dtype=np.int64),
            most_replicas=np.array([it.most_replicas for it in passed], dtype=np.int64),
            is_encoder=np.array([it.profile.output_tokens <= 1 for it in passed], dtype=np.bool_),
            shortfall=np.array([max(0, needs.target_centi - (it.quality_centi or 0)) for it in passed], dtype=np.int64),
            below_floor=np.array([it.below_floor for it in passed], dtype=np.bool_),
        )

    def _passed(self, needs: Requirements, rejections: list[Rejection]) -> Iterator[_Passed]:
        """Profiles that pass every filter and have room; the first objection to each of the others."""
        asked_for = {needs.pinned_model, *needs.model_names}
        for name in sorted(self.catalogue.models):
            model = self.catalogue.models[name]
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
    ) -> Iterator[_Passed]:
        subject = Candidate(model, variant).subject
        miss = first_miss(VARIANT_CHAIN, needs, Candidate(model, variant))
        below_floor = miss is not None and miss.reason == reasons.BELOW_FLOOR and needs.below_floor_when_capped
        if miss is not None and not below_floor:
            rejections.append(Rejection(subject, miss.reason, miss.message))
            return
        candidates = self._candidates.get((*variant.key, needs.task), [])
        if not candidates:
            text = f"nobody measured it for {needs.task}: add an EnergyProfile (lowbeam calibrate)"
            rejections.append(Rejection(subject, reasons.NO_PROFILE, text))
        for number, candidate in candidates:
            objection = first_miss(PROFILE_CHAIN, needs, candidate)
            if objection is not None:
                rejections.append(Rejection(candidate.subject, objection.reason, objection.message))
                continue
            profile = self._shelves[needs.task].measured[number][0]
            most, where = self._room_for(profile)
            if most < 1:
                rejections.append(Rejection(candidate.subject, reasons.NO_INVENTORY, where))
                continue
            quality = variant.quality_centi(needs.benchmark)
            yield _Passed(number, candidate, profile, quality, below_floor, most, best_pool=where)

    def _room_for(self, profile: EnergyProfile) -> tuple[int, str]:
        """(replicas that the roomiest pool holds, its name), or (0, why none fits)."""
        boards, name = max(1, profile.accelerators), profile.accelerator_class
        rows = [row for row in self.inventory if row.accelerator_class == name and row.accelerators > 0]
        if not rows:
            return 0, f"no pool has {name}"
        largest = max(row.largest_node for row in rows)
        if largest < boards:
            return 0, f"no node has {boards} {name} together (the largest has {largest})"
        roomiest = max(
            (row for row in rows if row.largest_node >= boards), key=lambda row: (row.accelerators, row.pool)
        )
        return roomiest.accelerators // boards, roomiest.pool


def options_for(
    needs: Requirements, catalogue: Catalogue, inventory: Sequence[Inventory], running: Option | None = None
) -> OptionSet:
    """Options of one workload; for many workloads keep one `Sizer`."""
    return Sizer(catalogue, inventory).options_for(needs, running)


def _facts_of(profile: EnergyProfile, catalogue: Catalogue) -> tuple[profile_curves.Measured, Variant] | None:
    """A profile with what it speaks of; None when model, variant or class is not in the catalogue, or it is empty."""
    model = catalogue.models.get(profile.model)
    accelerator = catalogue.accelerator_classes.get(profile.accelerator_class)
    if model is None or accelerator is None or not any(p.requests_per_second_milli > 0 for p in profile.points):
        return None
    wanted = (profile.model, profile.precision, profile.reasoning)
    variant = next((v for v in model.variants if v.key == wanted), None)
    return None if variant is None else ((profile, model, accelerator), variant)


def _is_of(profile: EnergyProfile, running: Option) -> bool:
    return (
        profile.model == running.model
        and profile.precision == running.precision
        and profile.reasoning is running.reasoning
        and profile.accelerator_class == running.accelerator_class
        and profile.accelerators == running.accelerators_per_replica
        and running.engine == NATIVE
    )


def _id(option: Option) -> str:
    return option.id


def _option(passed: _Passed, ways: Ways, row: int, pool: str) -> Option:
    profile = passed.profile
    return Option(
        model=profile.model,
        precision=profile.precision,
        reasoning=profile.reasoning,
        accelerator_class=profile.accelerator_class,
        accelerators_per_replica=profile.accelerators,
        batch_limit=int(ways.batch[row]),
        replicas=int(ways.replicas[row]),
        pool=pool,
        engine=NATIVE,
        expected_milliwatts=int(ways.expected[row]),
        worst_case_milliwatts=int(ways.worst[row]),
        capacity_millirps=int(ways.capacity[row]),
        unserved_millirps=int(ways.unserved[row]),
        quality_centi=passed.quality_centi,
        quality_shortfall_centi=int(ways.shortfall[row]),
        millijoules_per_request=int(ways.millijoules[row]),
        latency_p95_ms=int(ways.latency[row]),
        basis=profile.basis,
        below_floor=passed.below_floor,
    )
