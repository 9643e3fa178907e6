"""Whether a model fits the catalogue: its tasks, its scores, and the models that it steps down to.

Decides what is refused, as ordered chains that name the field and what to do. Looks at one card at a time: whether the
steps of several cards lead round in a circle is decided in `families`, by `overlay`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from lowbeam.api.nearest import nearest
from lowbeam.catalog.facts import Benchmark, Model, QualityScore
from lowbeam.catalog.problems import CatalogueReason, Objection


def benchmark_objections(defined: Iterable[Benchmark], known: Mapping[str, Benchmark]) -> Iterator[Objection]:
    """A card may repeat a benchmark that exists, and never redefine it."""
    for place, own in enumerate(defined):
        other = known.get(own.name)
        if other is not None and (own.metric, own.setting) != (other.metric, other.setting):
            text = f"{own.name} already means {other.metric}, {other.setting}: give yours another name"
            yield (f"spec.benchmarks[{place}]", CatalogueReason.BENCHMARK_CONFLICT, text)


def model_objections(
    model: Model, tasks: Collection[str], benchmarks: Mapping[str, Benchmark], names: Collection[str]
) -> Iterator[Objection]:
    """What keeps a model out. `names` are all models that exist, refused ones too: those are their own problem."""
    if not set(model.tasks) & set(tasks):
        known = ", ".join(sorted(tasks))
        yield ("spec.tasks", CatalogueReason.UNKNOWN_TASK, f"none of {', '.join(model.tasks)} is known; known: {known}")
    for place, name in enumerate(model.predecessors):
        if name not in names:
            text = f"there is no model {name}{_near(name, names)}; correct the name or add a ModelCard"
            yield (f"spec.predecessors[{place}]", CatalogueReason.UNKNOWN_MODEL, text)
    for place, variant in enumerate(model.variants):
        for entry, score in enumerate(variant.quality):
            yield from _score_objections(score, benchmarks, f"spec.variants[{place}].quality[{entry}]")


def _score_objections(score: QualityScore, benchmarks: Mapping[str, Benchmark], where: str) -> Iterator[Objection]:
    benchmark = benchmarks.get(score.benchmark)
    if benchmark is None:
        text = (
            f"{score.benchmark} is neither a built-in benchmark nor one of spec.benchmarks"
            f"{_near(score.benchmark, benchmarks)}; correct the name, or define it with its metric and setting"
        )
        yield (f"{where}.benchmark", CatalogueReason.UNKNOWN_BENCHMARK, text)
        return
    if score.metric != benchmark.metric:
        text = f"{benchmark.name} counts {benchmark.metric}, not {score.metric}: another metric is another benchmark"
        yield (f"{where}.metric", CatalogueReason.BENCHMARK_CONFLICT, text)
    if score.setting and score.setting != benchmark.setting:
        text = f'{benchmark.name} is measured as "{benchmark.setting}": another setting is another benchmark'
        yield (f"{where}.setting", CatalogueReason.BENCHMARK_CONFLICT, text)
    if benchmark.highest_centi is not None and score.score_centi > benchmark.highest_centi:
        text = f"{score.score_centi / 100:g} is above {benchmark.highest_centi / 100:g}, the best there can be"
        yield (f"{where}.score", CatalogueReason.SCORE_OUT_OF_RANGE, text)


def _near(name: str, known: Iterable[str]) -> str:
    near = nearest(name, known)
    return f" (did you mean {near[0]}?)" if near else ""
