"""The figures in docs/catalogue.md, so that no number there is typed by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from lowbeam.catalog.builtin import NOTHING
from lowbeam.catalog.facts import Catalogue, TaskFacts
from lowbeam.catalog.knee import Knee, knee_of, with_targets
from lowbeam.catalog.overlay import overlay
from lowbeam.catalog.stars import BANDS, UNRATED
from lowbeam.catalog.stars import VERSION as STARS_VERSION
from tools.catalog.rows import Manifest

BEGIN = "<!-- figures: written by python -m tools.catalog build -->"
END = "<!-- end of figures -->"


def with_figures(
    text: str,
    cards: Sequence[Manifest],
    classes: Sequence[Manifest],
    profiles: Sequence[Manifest],
) -> str:
    """The document with the part between the two markers replaced."""
    catalogue, problems = overlay(NOTHING, cards, classes, profiles)
    if problems:
        raise ValueError(f"the sources contradict themselves: {problems[0]}")
    catalogue = with_targets(catalogue)
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    parts = [_counts(catalogue), _tasks(catalogue), *_knees(catalogue), _benchmarks(catalogue), _bands()]
    return f"{before}{BEGIN}\n\n" + "\n\n".join(parts) + f"\n\n{END}{after}"


def _counts(catalogue: Catalogue) -> str:
    planned = Counter((p.accelerator_class, p.basis.value) for p in catalogue.profiles)
    other = Counter(p.accelerator_class for p in catalogue.reference_profiles)
    lines = [
        f"{len(catalogue.models)} models, {len(catalogue.tasks)} tasks, {len(catalogue.benchmarks)} benchmarks, "
        f"{len(catalogue.accelerator_classes)} accelerator classes, {len(catalogue.profiles)} energy profiles to plan "
        f"with and {len(catalogue.reference_profiles)} of other series for reference:",
        "",
        "| class | Published | Modelled | other series |",
        "|---|---|---|---|",
        *(
            f"| {name} | {planned[name, 'Published']} | {planned[name, 'Modelled']} | {other[name]} |"
            for name in catalogue.accelerator_classes
        ),
    ]
    return "\n".join(lines)


def _tasks(catalogue: Catalogue) -> str:
    lines = [
        "Tasks and what is assumed when a workload does not say. A target without a knee is the floor: there are no "
        "joules of three scored models to compute it from.",
        "",
        "| task | models | benchmark | floor | target | at the knee | p95 latency | tokens in / out |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for task in catalogue.tasks.values():
        models = sum(task.name in model.tasks for model in catalogue.models.values())
        lines.append(
            f"| {task.name} | {models} | {task.benchmark} | {_score(task.floor_centi)} | {_score(task.target_centi)} "
            f"| {task.target_from or 'no knee'} | {_latency(task)} "
            f"| {task.default_input_tokens} / {task.default_output_tokens} |"
        )
    return "\n".join(lines)


def _latency(task: TaskFacts) -> str:
    if task.end_to_end_ms is None:
        return f"{task.time_to_first_token_ms} ms first token, {task.inter_token_ms} ms per token"
    return f"{task.end_to_end_ms} ms"


def _knees(catalogue: Catalogue) -> list[str]:
    knees = [knee for task in catalogue.tasks.values() if (knee := knee_of(task, catalogue)) is not None]
    lead = "Quality against joules on one accelerator, the models that no other beats in both; the knee is bold:"
    return [lead, *map(_knee, knees)]


def _knee(knee: Knee) -> str:
    beaten = sum(not point.on_frontier for point in knee.points)
    lines = [
        f"{knee.task} on {knee.accelerator_class}, {knee.basis}; others, beaten: {beaten}",
        "",
        f"| model | {knee.benchmark} | J per request |",
        "|---|---|---|",
    ]
    for point in knee.points:
        if point.on_frontier:
            mark = "**" if point == knee.at else ""
            cells = (
                f"{point.model} {point.precision}",
                _score(point.score_centi),
                _joules(point.millijoules / 1000),
            )
            lines.append("| " + " | ".join(f"{mark}{cell}{mark}" for cell in cells) + " |")
    return "\n".join(lines)


def _benchmarks(catalogue: Catalogue) -> str:
    scored = Counter(
        benchmark
        for model in catalogue.models.values()
        for benchmark in {score.benchmark for variant in model.variants for score in variant.quality}
    )
    lines = [
        "Benchmarks. One name is one series: one metric, one setting.",
        "",
        "| benchmark | metric | setting | models |",
        "|---|---|---|---|",
        *(f"| {it.name} | {it.metric} | {it.setting} | {scored[it.name]} |" for it in catalogue.benchmarks.values()),
    ]
    return "\n".join(lines)


def _joules(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _score(centi: int) -> str:
    return f"{centi / 100:g}"


def _bands() -> str:
    lines = [
        f"Stars, version {STARS_VERSION}: most joules per request (one star above the last).",
        "",
        "| task | reasoning | 5 | 4 | 3 | 2 |",
        "|---|---|---|---|---|---|",
    ]
    for (task, thinks), bands in BANDS.items():
        cells = " | ".join(f"{edge / 1000:.6g}" for edge in bands.edges)
        lines.append(f"| {task} | {'on' if thinks else 'off'} | {cells} |")
    lines += ["", "Unrated, because bands would be invented:", ""]
    lines += [f"- {task}: {why}." for task, why in UNRATED.items()]
    return "\n".join(lines)
