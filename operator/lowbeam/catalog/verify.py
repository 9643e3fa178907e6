"""Looks at every row of a catalogue and says what is wrong and what is suspicious.

An ERROR breaks an invariant: CI fails. SUSPICIOUS is a figure that physics or the rest of the catalogue contradicts: a
person should look; published measurements contain such rows, and they stay. Never changes anything.

What is checked: sources and dates; units and ranges (limits, idle, uncertainty, scores within their benchmark); every
reference; one metric and setting per benchmark; no circle of down-steps; one profile per subject; rising batches and
throughput; watts between the empty board and the limit; weights that fit; and `plausibility`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from enum import StrEnum

from lowbeam.api.v1alpha1.provenance import ISO_DATE_PATTERN
from lowbeam.catalog.cards import model_objections
from lowbeam.catalog.facts import Basis, Catalogue, EnergyProfile, Source
from lowbeam.catalog.families import cycles
from lowbeam.catalog.overlay import identity, profile_problems
from lowbeam.catalog.plausibility import Subject, impossible, unlikely
from lowbeam.catalog.stars import BANDS, UNRATED


class Severity(StrEnum):
    """How bad a finding is."""

    ERROR = "error"
    SUSPICIOUS = "suspicious"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to look at."""

    severity: Severity
    subject: str
    field: str
    message: str
    check: str = ""
    """One word for the cause, e.g. `WattsFall`."""

    def __str__(self) -> str:
        return f"{self.severity}: {self.subject}: {self.field}: {self.message}"


def verify(catalogue: Catalogue, today: date | None = None) -> list[Finding]:
    """All findings, errors first, then by subject. `today`: None = no source is called too new."""
    found = [
        *_classes(catalogue, today),
        *_models(catalogue, today),
        *_profiles(catalogue, today),
        *_tasks(catalogue),
    ]
    return sorted(found, key=lambda finding: (finding.severity, finding.subject, finding.field, finding.message))


def _error(subject: str, field: str, message: str, check: str) -> Finding:
    return Finding(Severity.ERROR, subject, field, message, check)


def _suspicious(subject: str, field: str, message: str, check: str) -> Finding:
    return Finding(Severity.SUSPICIOUS, subject, field, message, check)


def _source(subject: str, field: str, source: Source, today: date | None) -> Iterator[Finding]:
    if not source.citation.strip():
        yield _error(subject, field, "has no citation", "NoSource")
    if re.match(ISO_DATE_PATTERN, source.date) is None:
        yield _error(subject, field, f"date {source.date!r} is not YYYY, YYYY-MM or YYYY-MM-DD", "NoDate")
    elif today and source.date > today.isoformat()[: len(source.date)]:
        yield _suspicious(subject, field, f"date {source.date} is in the future", "FutureDate")


def _classes(catalogue: Catalogue, today: date | None) -> Iterator[Finding]:
    used = {profile.accelerator_class for profile in (*catalogue.profiles, *catalogue.reference_profiles)}
    labels = Counter(label for it in catalogue.accelerator_classes.values() for label in it.product_labels)
    for accelerator in catalogue.accelerator_classes.values():
        subject = f"AcceleratorClass/{accelerator.name}"
        yield from _source(subject, "source", accelerator.source, today)
        if accelerator.memory_mib <= 0:
            yield _error(subject, "memory", "must be above zero", "OutOfRange")
        if not 0 < accelerator.idle_milliwatts <= accelerator.max_milliwatts:
            yield _error(subject, "power", "idle must be above zero and not above the limit", "OutOfRange")
        bare, least = accelerator.bare_idle_milliwatts, accelerator.min_milliwatts
        if bare is not None and not 0 < bare <= accelerator.idle_milliwatts:
            yield _error(subject, "bareIdle", "must be above zero and not above idle with a model loaded", "OutOfRange")
        if least is not None and not 0 < least <= accelerator.max_milliwatts:
            yield _error(subject, "min", "the least limit must be above zero and not above the default", "OutOfRange")
        for label in accelerator.product_labels:
            if labels[label] > 1:
                yield _error(subject, "productLabels", f"{label} means another class too", "Duplicate")
        if accelerator.name not in used:
            yield _suspicious(subject, "profiles", "no profile uses it: nothing will be placed on it", "Unused")


def _models(catalogue: Catalogue, today: date | None) -> Iterator[Finding]:
    profiled = {(p.model, p.precision, p.reasoning) for p in (*catalogue.profiles, *catalogue.reference_profiles)}
    circles = cycles(catalogue.models)
    for model in catalogue.models.values():
        subject = f"ModelCard/{model.name}"
        yield from _source(subject, "source", model.source, today)
        for field, reason, message in model_objections(
            model, catalogue.tasks, catalogue.benchmarks, catalogue.models.keys()
        ):
            yield _error(subject, field, message, str(reason))
        if model.name in circles:
            way = " -> ".join(circles[model.name])
            yield _error(subject, "predecessors", f"stepping down leads back: {way}", "Cycle")
        if not any(variant.key in profiled for variant in model.variants):
            yield _suspicious(subject, "variants", "no energy profile: it will never be chosen", "Unused")
        for variant in model.variants:
            where = f"variants[{variant.precision}, {variant.reasoning}]"
            if variant.weights_mib <= 0:
                yield _error(subject, where, "weights must be above zero", "OutOfRange")
            if not variant.quality and variant.key in profiled:
                yield _suspicious(subject, where, "no benchmark result: it meets no quality floor", "NoQuality")
            for score in variant.quality:
                yield from _source(subject, f"{where}.quality[{score.benchmark}]", score.source, today)


def _profiles(catalogue: Catalogue, today: date | None) -> Iterator[Finding]:
    profiles = (*catalogue.profiles, *catalogue.reference_profiles)
    times = Counter(identity(profile) for profile in profiles)
    for profile in profiles:
        subject = f"EnergyProfile/{profile.name}"
        yield from _source(subject, "source", profile.source, today)
        problems = profile_problems(profile, catalogue)
        for problem in problems:
            yield _error(subject, problem.field, problem.message, str(problem.reason))
        if (profile.basis is Basis.MODELLED) != (profile.uncertainty_percent > 0):
            yield _error(subject, "uncertainty", "modelled figures carry an uncertainty, others none", "Uncertainty")
        if times[identity(profile)] > 1:
            yield _error(subject, "spec", "another profile is about the same", "Duplicate")
        if not problems:
            yield from _doubts(subject, profile, catalogue)


def _doubts(subject: str, profile: EnergyProfile, catalogue: Catalogue) -> Iterator[Finding]:
    model = catalogue.models[profile.model]
    key = (profile.model, profile.precision, profile.reasoning)
    variant = next(variant for variant in model.variants if variant.key == key)
    it = Subject(profile, model, variant, catalogue.accelerator_classes[profile.accelerator_class])
    for doubt in impossible(it):
        yield _error(subject, doubt.field, doubt.message, str(doubt.check))
    for doubt in unlikely(it):
        yield _suspicious(subject, doubt.field, doubt.message, str(doubt.check))


def _tasks(catalogue: Catalogue) -> Iterator[Finding]:
    for task in catalogue.tasks.values():
        subject = f"task/{task.name}"
        profiles = [profile for profile in catalogue.profiles if profile.task == task.name]
        scores = [
            score
            for profile in profiles
            if (model := catalogue.models.get(profile.model)) is not None
            for variant in model.variants
            if (variant.precision, variant.reasoning) == (profile.precision, profile.reasoning)
            if (score := variant.quality_centi(task.benchmark)) is not None
        ]
        if not profiles:
            text = "no profile of the catalogue: it can be served only with profiles of your own"
            yield _suspicious(subject, "profiles", text, "Unused")
        elif not any(score >= task.target_centi for score in scores):
            text = f"no profiled model reaches {task.target_centi / 100} on {task.benchmark}"
            yield _error(subject, "target", text, "TargetOutOfReach")
        if task.floor_centi > task.target_centi:
            yield _error(subject, "floor", "is above the target", "OutOfRange")
        if task.benchmark not in catalogue.benchmarks:
            yield _error(subject, "benchmark", f"{task.benchmark} is no known benchmark", "UnknownBenchmark")
        if (task.name, False) not in BANDS and task.name not in UNRATED:
            yield _error(subject, "stars", "has neither bands nor a reason for having none", "NoBands")
