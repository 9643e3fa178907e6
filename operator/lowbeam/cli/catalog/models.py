"""`lowbeam catalog models`, and one model in full."""

from __future__ import annotations

import argparse

from lowbeam.catalog import Catalogue, official_score
from lowbeam.catalog.comparison import least_millijoules
from lowbeam.catalog.facts import Confidence, EnergyProfile, Model, QualityScore, Variant
from lowbeam.catalog.official_stars import OfficialScore, load_official
from lowbeam.catalog.stars import VERSION
from lowbeam.cli.catalog.filters import check, wanted_model, wanted_profiles, wanted_variants
from lowbeam.cli.catalog.wire import Json, model_json
from lowbeam.cli.catalog.words import (
    NONE,
    Row,
    basis,
    batches,
    cited,
    joules,
    millions,
    rating_of,
    score,
    star_text,
    table,
    thinking,
    wrapped,
)


def data(catalogue: Catalogue, args: argparse.Namespace) -> list[Json]:
    """The models that pass the filters, each with the variants that do."""
    return [model_json(catalogue, model, variants) for model, variants in _wanted(catalogue, args)]


def _wanted(catalogue: Catalogue, args: argparse.Namespace) -> list[tuple[Model, list[Variant]]]:
    check(catalogue, args)
    profiles = wanted_profiles(catalogue, args)
    rows = [(m, wanted_variants(m, args, profiles)) for m in catalogue.models.values() if wanted_model(m, args)]
    return [(model, variants) for model, variants in rows if variants]


def text(catalogue: Catalogue, args: argparse.Namespace) -> str:
    """One table per task: size, quality, and the best energy per request within the task's time per token."""
    profiles, wanted = wanted_profiles(catalogue, args), _wanted(catalogue, args)
    blocks = []
    for task in catalogue.tasks.values():
        if args.task is not None and args.task.lower() != task.name:
            continue
        rows = [
            _row(catalogue, model, variant, task.name, profiles)
            for model, variants in wanted
            if task.name in model.tasks
            for variant in variants
        ]
        if rows:
            head = ("MODEL", "PARAMS", "QUAL", "J/REQ", "STARS", "BASIS")
            blocks.append(f"{task.name}: quality on {task.benchmark}\n{table(head, rows)}")
    if not blocks:
        return "no model matches"
    legend = f"J/REQ: best point within the task's time per token. STARS {VERSION}; {NONE}: unrated."
    return "\n\n".join([*blocks, legend])


def _row(
    catalogue: Catalogue, model: Model, variant: Variant, task: str, profiles: tuple[EnergyProfile, ...]
) -> list[str]:
    limit = catalogue.tasks[task].inter_token_ms
    figures = [
        (least, profile)
        for profile in profiles
        if (profile.model, profile.precision, profile.reasoning, profile.task) == (*variant.key, task)
        if (least := least_millijoules(profile, None if limit is None else limit * 1000)) is not None
    ]
    least, profile = min(figures, key=lambda figure: figure[0], default=(0, None))
    return [
        f"{model.name} {variant.precision}{thinking(variant.reasoning)}",
        millions(model.total_parameters_millions),
        score(variant.quality_centi(catalogue.tasks[task].benchmark)),
        *((NONE, NONE, NONE) if profile is None else energy(profile, least)),
    ]


def energy(profile: EnergyProfile, millijoules: int) -> tuple[str, str, str]:
    """Joules, stars and basis as three cells."""
    return joules(millijoules), star_text(rating_of(profile, millijoules)), basis(profile)


def one(catalogue: Catalogue, model: Model) -> str:
    """Everything about a model: how to load it, what it scores, what it costs, with the sources."""
    total, active = millions(model.total_parameters_millions), millions(model.active_parameters_millions)
    size = total if total == active else f"{total} ({active} active)"
    lines = [
        model.name,
        f"loads {model.model_path or model.name}",
        wrapped(f"{', '.join(model.tasks)}; {size} parameters; {model.context_tokens} tokens; {model.licence}"),
    ]
    lines += [wrapped(f"{name}: {', '.join(edges)}") for name, edges in _edges(model) if edges]
    if model.reasoning_control is not None:
        control = model.reasoning_control
        values = ", ".join(f"{reasoning} = {value}" for reasoning, value in control.values)
        lines.append(wrapped(f"reasoning by {control.switch} {control.parameter}: {values}"))
    lines.append(wrapped(f"source: {cited(model.source)}"))
    for variant in model.variants:
        lines += ["", *_variant(catalogue, variant)]
    if any(profile.model == model.name for profile in catalogue.reference_profiles):
        lines += ["", "(in brackets): figures of another series, never planned with"]
    scores = [
        found
        for task in model.tasks
        for mode in sorted({variant.reasoning for variant in model.variants})
        if (found := official_score(model, task, mode)) is not None
    ]
    if scores:
        lines += ["", *(wrapped(_official(found)) for found in scores)]
    return "\n".join(lines)


def _edges(model: Model) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return ("smaller", model.predecessors), ("larger", model.successors)


def _variant(catalogue: Catalogue, variant: Variant) -> list[str]:
    lines = [f"{variant.precision}, reasoning {variant.reasoning}, {variant.weights_mib / 1024:.1f} GiB"]
    lines += [wrapped(_quality(q), "  ") for q in variant.quality] or [
        "  no benchmark result: it meets no quality floor"
    ]
    rows: list[Row] = [
        (
            f"{p.accelerator_class} x{p.accelerators}",
            batches(p),
            *energy(p, least),
            p.task if p in catalogue.profiles else f"({p.series})",
        )
        for p in (*catalogue.profiles, *catalogue.reference_profiles)
        if (p.model, p.precision, p.reasoning) == variant.key
        if (least := least_millijoules(p)) is not None
    ]
    head = ("ON", "BATCH", "J/REQ", "STARS", "BASIS", "TASK")
    return [*lines, table(head, rows, "  ") if rows else "  no energy profile"]


def _quality(result: QualityScore) -> str:
    sure = "" if result.confidence is Confidence.PRIMARY else f" [{result.confidence.value.lower()}]"
    return f"{result.benchmark} {score(result.score_centi)}{sure}: {cited(result.source)}"


def _official(found: OfficialScore) -> str:
    listed = load_official()
    rated = "unrated" if found.published_stars is None else "*" * found.published_stars
    size = f", class {found.size_class}" if found.size_class else ""
    return (
        f"AI Energy Score {listed.round}, {found.task}{size}: {rated}, {_watt_hours(found)} Wh per 1,000 requests at "
        f"batch 1 on one H100 (another measure than the stars above: do not compare)"
    )


def _watt_hours(found: OfficialScore) -> str:
    hours = found.milliwatt_hours_per_thousand / 1000
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}"
