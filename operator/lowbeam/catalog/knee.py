"""The knee of quality against joules: which quality of a task is worth aiming at.

Decides the target of a task from the catalogue's own figures. Pure: the same catalogue gives the same knee.

Definition
1. A point is one way to run a model without reasoning on one accelerator: its score on the task's benchmark, and the
   least joules per request over the batches that meet the task's default latency, at the task's default answer length.
   A model that needs several accelerators is for those who ask for its quality: it must not stretch everybody's scale.
2. Points are compared on one ground only: one series of figures, one accelerator class. Among the grounds with at least
   three models the strongest basis is taken, then the most models, then the least uncertainty, then the first name.
3. Models below the task's floor are no points. Of the rest, those count that no other beats in both figures.
4. The knee is the point that lies farthest above the chord from the cheapest to the best, with joules on a logarithmic
   axis: before it a doubling of the joules buys more quality than it does on average, after it less. Where none lies
   above, it is the cheapest.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import log

from lowbeam.catalog.facts import Basis, Catalogue, EnergyProfile, ProfilePoint, TaskFacts

LEAST_MODELS = 3
"""Two models make a chord and no knee."""

_STRENGTH = {basis: rank for rank, basis in enumerate(Basis)}


@dataclass(frozen=True, slots=True)
class KneePoint:
    """One model at its cheapest on the common ground."""

    model: str
    precision: str
    score_centi: int
    millijoules: int
    """Per request of the task's default length."""
    on_frontier: bool = False
    """Whether no other point is at least as good in both figures and better in one."""


@dataclass(frozen=True, slots=True)
class Knee:
    """What a target was computed from."""

    task: str
    benchmark: str
    basis: Basis
    series: str
    accelerator_class: str
    points: tuple[KneePoint, ...]
    """By joules; one per model and precision."""
    at: KneePoint


def knee_of(task: TaskFacts, catalogue: Catalogue) -> Knee | None:
    """The knee of a task, or None where fewer than three models can be compared."""
    grounds: dict[tuple[int, str, str], list[tuple[EnergyProfile, KneePoint]]] = defaultdict(list)
    for profile in catalogue.profiles:
        point = _point(profile, task, catalogue)
        if point is not None:
            key = (_STRENGTH[profile.basis], profile.series, profile.accelerator_class)
            grounds[key].append((profile, point))
    ranked = sorted(
        (key[0], -models, sum(p.uncertainty_percent for p, _ in found) / len(found), key)
        for key, found in grounds.items()
        if (models := len({point.model for _, point in found})) >= LEAST_MODELS
    )
    if not ranked:
        return None
    (_, series, accelerator_class) = key = ranked[0][-1]
    points = _frontier(_cheapest(point for _, point in grounds[key]))
    return Knee(
        task=task.name,
        benchmark=task.benchmark,
        basis=grounds[key][0][0].basis,
        series=series,
        accelerator_class=accelerator_class,
        points=points,
        at=farthest_above_the_chord([point for point in points if point.on_frontier]),
    )


def with_targets(catalogue: Catalogue) -> Catalogue:
    """The catalogue with every task's target at its knee; tasks without one keep their floor as target."""
    tasks = {}
    for name, task in catalogue.tasks.items():
        knee = knee_of(task, catalogue)
        if knee is not None:
            task = replace(task, target_centi=knee.at.score_centi, target_from=_words(knee))
        tasks[name] = task
    return replace(catalogue, tasks=tasks)


def farthest_above_the_chord(frontier: Sequence[KneePoint]) -> KneePoint:
    """The knee of points that rise in joules and in score; at least one."""
    first, last = frontier[0], frontier[-1]
    width = log(last.millijoules) - log(first.millijoules) if len(frontier) > 1 else 1.0
    slope = (last.score_centi - first.score_centi) / width

    def above(point: KneePoint) -> float:
        return point.score_centi - first.score_centi - slope * (log(point.millijoules) - log(first.millijoules))

    best = max(frontier, key=above)
    return best if above(best) > 0 and best is not last else first


def _point(profile: EnergyProfile, task: TaskFacts, catalogue: Catalogue) -> KneePoint | None:
    model = catalogue.models.get(profile.model)
    if model is None or profile.task != task.name or profile.reasoning is not task.default_reasoning:
        return None
    if profile.accelerators > 1:
        return None
    variant = next((v for v in model.variants if v.key == (model.name, profile.precision, profile.reasoning)), None)
    score = None if variant is None else variant.quality_centi(task.benchmark)
    if score is None or score < task.floor_centi:
        return None
    longer = task.default_output_tokens / max(1, profile.output_tokens) if task.generative else 1.0
    allowed = [p for p in profile.points if _meets(p, task, longer)]
    if not allowed:
        return None
    least = min(1000 * p.milliwatts / p.requests_per_second_milli for p in allowed) * longer
    return KneePoint(profile.model, profile.precision, score, max(1, round(least)))


def _meets(point: ProfilePoint, task: TaskFacts, longer: float) -> bool:
    """Whether a batch keeps the default latency of the task, queueing excluded."""
    if task.inter_token_ms is not None and point.inter_token_p95_us is not None:
        return point.inter_token_p95_us <= task.inter_token_ms * 1000
    return task.end_to_end_ms is None or point.latency_p95_ms * longer <= task.end_to_end_ms


def _cheapest(points: Iterable[KneePoint]) -> list[KneePoint]:
    """One per model and precision."""
    best: dict[tuple[str, str], KneePoint] = {}
    for point in sorted(points, key=lambda p: p.millijoules):
        best.setdefault((point.model, point.precision), point)
    return sorted(best.values(), key=lambda p: (p.millijoules, -p.score_centi, p.model, p.precision))


def _frontier(points: Sequence[KneePoint]) -> tuple[KneePoint, ...]:
    best, marked = -1, []
    for point in points:
        marked.append(replace(point, on_frontier=point.score_centi > best))
        best = max(best, point.score_centi)
    return tuple(marked)


def _words(knee: Knee) -> str:
    series = f"{knee.basis.lower()}, {knee.series}" if knee.series else knee.basis.lower()
    return f"{knee.at.model} {knee.at.precision} on {knee.accelerator_class} ({series})"
