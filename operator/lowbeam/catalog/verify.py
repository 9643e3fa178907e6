"""Looks at every row of a catalogue and says what is wrong or suspicious.

An ERROR breaks an invariant: CI fails. SUSPICIOUS is a figure that physics or the rest of the catalogue contradicts: a
person should look; published measurements contain such rows, and they stay. Never changes anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from lowbeam.api.v1alpha1.provenance import ISO_DATE_PATTERN
from lowbeam.catalog.facts import Basis, Catalogue, EnergyProfile, Source
from lowbeam.catalog.overlay import profile_problems
from lowbeam.catalog.stars import FIVE_STAR_MILLIJOULES

PERCENT_SCALE_CENTI = 10_000
ENERGY_RISE_PERCENT = 25
"""A larger batch that needs this much more energy per request than a smaller one: batching should save energy."""
LATENCY_DROP_PERCENT = 10
"""A larger batch that is this much faster per request: more work at once should not be."""


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

    def __str__(self) -> str:
        return f"{self.severity}: {self.subject}: {self.field}: {self.message}"


def verify(catalogue: Catalogue) -> list[Finding]:
    """All findings, errors first, then by subject."""
    found = [*_classes(catalogue), *_models(catalogue), *_profiles(catalogue), *_tasks(catalogue)]
    return sorted(found, key=lambda finding: (finding.severity, finding.subject, finding.field))


def _error(subject: str, field: str, message: str) -> Finding:
    return Finding(Severity.ERROR, subject, field, message)


def _suspicious(subject: str, field: str, message: str) -> Finding:
    return Finding(Severity.SUSPICIOUS, subject, field, message)


def _source(subject: str, field: str, source: Source) -> Iterator[Finding]:
    if not source.citation.strip():
        yield _error(subject, field, "has no citation")
    if re.match(ISO_DATE_PATTERN, source.date) is None:
        yield _error(subject, field, f"date {source.date!r} is not YYYY, YYYY-MM or YYYY-MM-DD")


def _classes(catalogue: Catalogue) -> Iterator[Finding]:
    used = {profile.accelerator_class for profile in catalogue.profiles}
    for accelerator in catalogue.accelerator_classes.values():
        subject = f"AcceleratorClass/{accelerator.name}"
        yield from _source(subject, "source", accelerator.source)
        if not 0 < accelerator.idle_milliwatts <= accelerator.max_milliwatts:
            yield _error(subject, "power", "idle must be above zero and not above the limit")
        if accelerator.name not in used:
            yield _suspicious(subject, "profiles", "no profile uses it: nothing will be placed on it")


def _models(catalogue: Catalogue) -> Iterator[Finding]:
    profiled = {(p.model, p.precision, p.reasoning) for p in catalogue.profiles}
    for model in catalogue.models.values():
        subject = f"ModelCard/{model.name}"
        yield from _source(subject, "source", model.source)
        if not any(variant.key in profiled for variant in model.variants):
            yield _suspicious(subject, "variants", "no energy profile: it will never be chosen")
        for variant in model.variants:
            where = f"variants[{variant.precision}, {variant.reasoning}]"
            if not variant.quality and variant.key in profiled:
                yield _suspicious(subject, where, "no benchmark result: it meets no quality floor")
            for score in variant.quality:
                yield from _source(subject, f"{where}.quality[{score.benchmark}]", score.source)
                if score.metric.endswith("percent") and score.score_centi > PERCENT_SCALE_CENTI:
                    yield _error(subject, f"{where}.quality[{score.benchmark}]", "is above 100 %")


def _profiles(catalogue: Catalogue) -> Iterator[Finding]:
    for profile in catalogue.profiles:
        subject = f"EnergyProfile/{profile.name}"
        yield from _source(subject, "source", profile.source)
        for problem in profile_problems(profile, catalogue):
            yield _error(subject, problem.field, problem.message)
        if (profile.basis is Basis.MODELLED) != (profile.uncertainty_percent > 0):
            yield _error(subject, "uncertainty", "modelled figures carry an uncertainty, others none")
        yield from _curve(subject, profile, catalogue)


def _curve(subject: str, profile: EnergyProfile, catalogue: Catalogue) -> Iterator[Finding]:
    accelerator = catalogue.accelerator_classes.get(profile.accelerator_class)
    if accelerator is not None:
        idle = accelerator.idle_milliwatts * profile.accelerators
        for point in profile.points:
            if point.milliwatts < idle:
                text = f"{point.milliwatts / 1000:.0f} W is below {idle / 1000:.0f} W of idle boards"
                yield _suspicious(subject, f"points[batch {point.batch}]", text)
    for small, large in pairwise(profile.points):
        where = f"points[batch {large.batch}]"
        before = small.milliwatts * large.requests_per_second_milli
        after = large.milliwatts * small.requests_per_second_milli
        if after * 100 > before * (100 + ENERGY_RISE_PERCENT):
            yield _suspicious(subject, where, f"needs {after / before - 1:.0%} more energy than batch {small.batch}")
        if large.latency_p50_ms * 100 < small.latency_p50_ms * (100 - LATENCY_DROP_PERCENT):
            drop = 1 - large.latency_p50_ms / small.latency_p50_ms
            yield _suspicious(subject, where, f"is {drop:.0%} faster per request than batch {small.batch}")


def _tasks(catalogue: Catalogue) -> Iterator[Finding]:
    for task in catalogue.tasks.values():
        subject = f"task/{task.name}"
        scores = [
            score
            for profile in catalogue.profiles
            if profile.task == task.name
            if (model := catalogue.models.get(profile.model)) is not None
            for variant in model.variants
            if (variant.precision, variant.reasoning) == (profile.precision, profile.reasoning)
            if (score := variant.quality_centi(task.benchmark)) is not None
        ]
        if not any(score >= task.target_centi for score in scores):
            yield _error(subject, "target", f"no profiled model reaches {task.target_centi / 100} on {task.benchmark}")
        if task.floor_centi > task.target_centi:
            yield _error(subject, "floor", "is above the target")
        if (task.name, False) not in FIVE_STAR_MILLIJOULES:
            yield _error(subject, "stars", "has no bands")
