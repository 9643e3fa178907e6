"""Figures that compare: joules per request, the benchmarks of a task, and its largest model as the yardstick.

Decides nothing about workloads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from lowbeam.catalog.facts import Catalogue, EnergyProfile, Model, ProfilePoint, Reasoning


def millijoules_per_request(point: ProfilePoint) -> int:
    """Energy of one request when the replica is saturated at this batch, rounded up to a whole millijoule."""
    return -(-point.milliwatts * 1000 // point.requests_per_second_milli)


def least_millijoules(profile: EnergyProfile, inter_token_us: int | None = None) -> int | None:
    """Lowest energy per request of the curve, where its median time between tokens allows; None where none does."""
    allowed = [
        millijoules_per_request(point)
        for point in profile.points
        if inter_token_us is None or point.inter_token_p50_us is None or point.inter_token_p50_us <= inter_token_us
    ]
    return min(allowed, default=None)


def benchmarks_of(catalogue: Catalogue, task: str) -> dict[str, int]:
    """How many models for the task have a score on each benchmark, the most first: what a floor can name."""
    counts = Counter(
        name
        for model in catalogue.models.values()
        if task in model.tasks
        for name in {score.benchmark for variant in model.variants for score in variant.quality}
    )
    return dict(sorted(counts.items(), key=lambda it: (-it[1], it[0])))


def largest_model(
    catalogue: Catalogue, task: str, reasoning: Reasoning = Reasoning.OFF, accelerator_classes: Collection[str] = ()
) -> Model | None:
    """The model with the most parameters that has a profile for the task: what "just take the biggest" would run.

    `accelerator_classes` narrows it to what could run there (empty = any). Among equals the one with more active
    parameters, then the first name.
    """
    profiled = {
        profile.model
        for profile in catalogue.profiles
        if profile.task == task
        and profile.reasoning is reasoning
        and (not accelerator_classes or profile.accelerator_class in accelerator_classes)
    }
    models = [catalogue.models[name] for name in sorted(profiled)]
    return max(models, key=lambda m: (m.total_parameters_millions, m.active_parameters_millions), default=None)
