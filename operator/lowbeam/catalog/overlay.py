"""The catalogue in force: facts plus objects, with the bad objects refused one by one.

Decides which object adds to the catalogue, which replaces what is there, and which is refused and why. A refused object
changes nothing: what it would have replaced stays. Never raises for a bad object.

Invariants
- Every score is of a benchmark in the result, in its metric and setting: what a floor compares is comparable.
- Stepping down from a model never leads back to it; predecessors and successors are models in the result.
- Every profile in the result refers to a model, variant, class and task in the result, in a precision that the class
  runs; its batches and its throughput rise; its watts are within the boards' limit.
- One profile per (model, precision, reasoning, task, class, accelerators) and series: an object replaces the built-in
  one of its identity whatever its name.
- `profiles` are all of one series, so that any two may be ranked; those of other series are `reference_profiles`.
- The result depends on the objects only, not on their order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from operator import attrgetter
from typing import Any, TypeVar

from pydantic import ValidationError

from lowbeam.api.v1alpha1.acceleratorclass import AcceleratorClass as AcceleratorClassObject
from lowbeam.api.v1alpha1.base import KubeObject
from lowbeam.api.v1alpha1.energyprofile import EnergyProfile as EnergyProfileObject
from lowbeam.api.v1alpha1.modelcard import ModelCard
from lowbeam.api.v1alpha1.problems import problems_of
from lowbeam.catalog.cards import benchmark_objections, model_objections
from lowbeam.catalog.conversion import benchmarks_of, class_of, model_of, profile_of
from lowbeam.catalog.facts import AcceleratorClass, Benchmark, Catalogue, EnergyProfile, Model, Reasoning
from lowbeam.catalog.families import cycles, with_successors
from lowbeam.catalog.problems import CatalogueProblem, CatalogueReason, Objection

POWER_LIMIT_TOLERANCE_PERCENT = 5
"""What a board may exceed its limit by in a mean over seconds, meter error included (NVML: 5 %)."""

Identity = tuple[str, str, Reasoning, str, str, int, str]
K = TypeVar("K", bound=KubeObject)
F = TypeVar("F")
Named = TypeVar("Named", Model, AcceleratorClass, Benchmark)


def overlay(
    catalogue: Catalogue,
    cards: Iterable[ModelCard | Mapping[str, Any]] = (),
    classes: Iterable[AcceleratorClassObject | Mapping[str, Any]] = (),
    profiles: Iterable[EnergyProfileObject | Mapping[str, Any]] = (),
) -> tuple[Catalogue, tuple[CatalogueProblem, ...]]:
    """`catalogue` with the objects on top, and what was refused.

    Objects may be parsed or raw (as the API server or a file gives them).
    """
    problems: list[CatalogueProblem] = []
    accelerators = dict(catalogue.accelerator_classes)
    for accelerator in sorted(_facts(AcceleratorClassObject, classes, class_of, problems), key=attrgetter("name")):
        if not _refused("AcceleratorClass", accelerator.name, _class_objections(accelerator, accelerators), problems):
            accelerators[accelerator.name] = accelerator
    models, benchmarks = _with_cards(catalogue, cards, problems)
    merged = Catalogue(models, _by_name(accelerators), (), catalogue.tasks, benchmarks)

    added: dict[Identity, EnergyProfile] = {}
    for profile in sorted(_facts(EnergyProfileObject, profiles, profile_of, problems), key=attrgetter("name")):
        objections = [*_profile_objections(profile, merged)]
        twin = added.get(identity(profile))
        if twin is not None:
            objections.append(
                (
                    "spec",
                    CatalogueReason.DUPLICATE_ENTRY,
                    f"describes the same as {twin.name}, which counts; delete one",
                )
            )
        if not _refused("EnergyProfile", profile.name, objections, problems):
            added[identity(profile)] = profile
    names = {profile.name for profile in added.values()}
    kept = (
        profile
        for profile in (*catalogue.profiles, *catalogue.reference_profiles)
        if profile.name not in names
        and identity(profile) not in added
        and next(_profile_objections(profile, merged), None) is None
    )
    in_force = sorted([*kept, *added.values()], key=lambda profile: profile.name)
    planned_with = tuple(profile for profile in in_force if not profile.series)
    references = tuple(profile for profile in in_force if profile.series)
    return replace(merged, profiles=planned_with, reference_profiles=references), tuple(problems)


def identity(profile: EnergyProfile) -> Identity:
    """What a profile is about; two profiles never share it."""
    return (
        profile.model,
        profile.precision,
        profile.reasoning,
        profile.task,
        profile.accelerator_class,
        profile.accelerators,
        profile.series,
    )


def profile_problems(profile: EnergyProfile, catalogue: Catalogue) -> tuple[CatalogueProblem, ...]:
    """What keeps a profile out of `catalogue`; empty when it fits."""
    return tuple(
        CatalogueProblem("EnergyProfile", profile.name, field, reason, message)
        for field, reason, message in _profile_objections(profile, catalogue)
    )


# --- objections, as ordered chains ----------------------------------------------------------------------------------


def _class_objections(accelerator: AcceleratorClass, others: Mapping[str, AcceleratorClass]) -> Iterator[Objection]:
    for other in others.values():
        shared = sorted(set(accelerator.product_labels) & set(other.product_labels))
        if other.name != accelerator.name and shared:
            yield (
                "spec.productLabels",
                CatalogueReason.DUPLICATE_ENTRY,
                f"{shared[0]} already means class {other.name}: a node can be of one class only",
            )


def _profile_objections(profile: EnergyProfile, catalogue: Catalogue) -> Iterator[Objection]:
    model = catalogue.models.get(profile.model)
    accelerator = catalogue.accelerator_classes.get(profile.accelerator_class)
    if model is None:
        yield ("spec.model", CatalogueReason.UNKNOWN_MODEL, f"{profile.model} is not in the catalogue; add a ModelCard")
        return
    if accelerator is None:
        known = ", ".join(sorted(catalogue.accelerator_classes))
        text = f"{profile.accelerator_class} is not in the catalogue (it has {known}); add an AcceleratorClass"
        yield ("spec.acceleratorClass", CatalogueReason.UNKNOWN_ACCELERATOR_CLASS, text)
        return
    if profile.task not in catalogue.tasks or profile.task not in model.tasks:
        text = f"{profile.model} does {', '.join(model.tasks)}, not {profile.task}"
        yield ("spec.task", CatalogueReason.UNKNOWN_TASK, text)
    variant = next(
        (v for v in model.variants if (v.precision, v.reasoning) == (profile.precision, profile.reasoning)), None
    )
    if variant is None:
        text = (
            f"{profile.model} has no variant {profile.precision} with reasoning {profile.reasoning}; "
            "add it to its ModelCard"
        )
        yield ("spec.precision", CatalogueReason.UNKNOWN_VARIANT, text)
    elif variant.weights_mib > accelerator.memory_mib * profile.accelerators:
        text = (
            f"{variant.weights_mib} MiB of weights do not fit {profile.accelerators} x {accelerator.name} with "
            f"{accelerator.memory_mib} MiB each"
        )
        yield ("spec.accelerators", CatalogueReason.WEIGHTS_DO_NOT_FIT, text)
    if profile.precision not in accelerator.precisions:
        text = f"{accelerator.name} runs {', '.join(accelerator.precisions)}, not {profile.precision}"
        yield ("spec.precision", CatalogueReason.PRECISION_NOT_SUPPORTED, text)
    yield from _point_objections(profile, accelerator)


def _point_objections(profile: EnergyProfile, accelerator: AcceleratorClass) -> Iterator[Objection]:
    limit = accelerator.max_milliwatts * profile.accelerators * (100 + POWER_LIMIT_TOLERANCE_PERCENT) // 100
    for place, point in enumerate(profile.points):
        where = f"spec.points[{place}]"
        if point.requests_per_second_milli < 1:
            yield (f"{where}.requestsPerSecond", CatalogueReason.INVALID_FIELD, "must be at least 0.001")
        if point.milliwatts < 1:
            yield (f"{where}.watts", CatalogueReason.INVALID_FIELD, "must be at least 0.001")
        if point.milliwatts > limit:
            text = (
                f"{point.milliwatts / 1000:.0f} W is more than {profile.accelerators} x {accelerator.name} can draw "
                f"({limit / 1000:.0f} W); correct it, or raise maxWatts of the class"
            )
            yield (f"{where}.watts", CatalogueReason.ABOVE_POWER_LIMIT, text)
    for place, (small, large) in enumerate(pairwise(profile.points), start=1):
        where = f"spec.points[{place}]"
        if large.batch <= small.batch:
            text = f"batch {large.batch} follows batch {small.batch}: list each batch once, in ascending order"
            yield (f"{where}.batch", CatalogueReason.BATCHES_NOT_ASCENDING, text)
        elif large.requests_per_second_milli <= small.requests_per_second_milli:
            text = f"batch {large.batch} serves no more than batch {small.batch}: leave it out, it only costs latency"
            yield (f"{where}.requestsPerSecond", CatalogueReason.THROUGHPUT_NOT_RISING, text)


# --- models and their families ---------------------------------------------------------------------------------------


def _with_cards(
    catalogue: Catalogue, cards: Iterable[ModelCard | Mapping[str, Any]], problems: list[CatalogueProblem]
) -> tuple[dict[str, Model], dict[str, Benchmark]]:
    """Models and benchmarks with the cards on top. Cards that step down in a circle are refused, every one of it."""
    raw = tuple(cards)
    names = catalogue.models.keys() | {_name(card) for card in raw}
    benchmarks = dict(catalogue.benchmarks)
    accepted: dict[str, Model] = {}
    given = _facts(ModelCard, raw, lambda card: (model_of(card), benchmarks_of(card)), problems)
    for model, defined in sorted(given, key=lambda it: it[0].name):
        own = {it.name: it for it in defined}
        objections = [
            *benchmark_objections(defined, benchmarks),
            *model_objections(model, catalogue.tasks, catalogue.benchmarks | own, names),
        ]
        if not _refused("ModelCard", model.name, objections, problems):
            accepted[model.name] = model
            benchmarks |= own
    while circles := cycles(catalogue.models | accepted):
        for name in sorted(circles.keys() & accepted.keys()):
            text = f"stepping down leads back here: {' -> '.join(circles[name])}; leave one of these steps out"
            _refused("ModelCard", name, [("spec.predecessors", CatalogueReason.DOWNGRADE_CYCLE, text)], problems)
            del accepted[name]
    return with_successors(_by_name(catalogue.models | accepted)), _by_name(benchmarks)


# --- plumbing -------------------------------------------------------------------------------------------------------


def _facts(
    kind: type[K],
    objects: Iterable[K | Mapping[str, Any]],
    convert: Callable[[K], F],
    problems: list[CatalogueProblem],
) -> list[F]:
    """Facts of the readable objects; the unreadable ones become problems."""
    facts = []
    for item in objects:
        try:
            facts.append(convert(kind.from_cluster(item) if isinstance(item, Mapping) else item))
        except ValidationError as error:
            raw = item if isinstance(item, Mapping) else item.to_wire()
            problems.extend(_unreadable(kind, raw, error))
    return facts


def _unreadable(kind: type[KubeObject], raw: Mapping[str, Any], error: ValidationError) -> Iterator[CatalogueProblem]:
    name = _name(raw)
    for problem in problems_of(error, kind, name):
        yield CatalogueProblem(kind.resource.kind, name, problem.field, CatalogueReason.INVALID_FIELD, problem.message)


def _name(item: KubeObject | Mapping[str, Any]) -> str:
    if isinstance(item, KubeObject):
        return item.metadata.name
    metadata = item.get("metadata")
    return str(metadata.get("name", "")) if isinstance(metadata, Mapping) else ""


def _refused(kind: str, name: str, objections: Iterable[Objection], problems: list[CatalogueProblem]) -> bool:
    found = [CatalogueProblem(kind, name, field, reason, message) for field, reason, message in objections]
    problems.extend(found)
    return bool(found)


def _by_name(facts: dict[str, Named]) -> dict[str, Named]:
    return dict(sorted(facts.items()))
