"""The figures in docs/catalogue.md, so that no number there is typed by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from lowbeam.catalog.facts import Reasoning
from lowbeam.catalog.stars import FIVE_STAR_MILLIJOULES, bands
from lowbeam.catalog.stars import VERSION as STARS_VERSION
from lowbeam.catalog.tasks import TASKS
from tools.catalog.modelled import Fitted, cpu_flops_per_second
from tools.catalog.published import LEFT_OUT
from tools.catalog.rows import Manifest

BEGIN = "<!-- figures: written by python -m tools.catalog build -->"
END = "<!-- end of figures -->"


def with_figures(
    text: str,
    cards: Sequence[Manifest],
    classes: Sequence[Manifest],
    profiles: Sequence[Manifest],
    physics: Fitted,
) -> str:
    """The document with the part between the two markers replaced."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    parts = [_counts(cards, classes, profiles), _error(physics), _constants(physics), _left_out(), _bands(), _tasks()]
    return f"{before}{BEGIN}\n\n" + "\n\n".join(parts) + f"\n\n{END}{after}"


def _counts(cards: Sequence[Manifest], classes: Sequence[Manifest], profiles: Sequence[Manifest]) -> str:
    tasks = Counter(task for card in cards for task in card["spec"]["tasks"])
    rows = Counter((p["spec"]["acceleratorClass"], p["spec"]["basis"]) for p in profiles)
    names = [item["metadata"]["name"] for item in classes]
    lines = [
        f"{len(cards)} models ({', '.join(f'{task} {count}' for task, count in sorted(tasks.items()))}), "
        f"{len(names)} accelerator classes, {len(profiles)} energy profiles:",
        "",
        "| class | Published | Modelled |",
        "|---|---|---|",
        *(f"| {name} | {rows[name, 'Published']} | {rows[name, 'Modelled']} |" for name in names),
    ]
    return "\n".join(lines)


def _error(physics: Fitted) -> str:
    rows = (
        ("H100, each model from the others", physics.observations, physics.left_out),
        ("B200, a class that the fit has not seen", physics.other_observations, physics.other_class),
        ("ratio A100 / H100, ML.ENERGY v2 (host-bound)", len(physics.generations.relative), physics.generations),
    )
    lines = [
        "Error of modelled joules per request against the published ones:",
        "",
        "| predicted | points | median | 90 % are within | bias |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {count} | {e.median_percent:.1f} % | {e.p90_percent:.1f} % | {e.bias_percent:+.1f} % |"
            for name, count, e in rows
        ),
    ]
    return "\n".join(lines)


def _constants(physics: Fitted) -> str:
    c0, c1, c2, c3 = physics.model.time
    p0, p1, p2 = physics.model.power
    return (
        f"Fitted constants: c0 = {c0 * 1e3:.2f} ms, c1 = {c1:.2f} ({100 / c1:.0f} % of peak bandwidth), c2 = {c2:.2f} "
        f"({100 / c2:.0f} % of peak FLOPs), c3 = {c3 * 1e6:.1f} us per layer; p0 = {p0:.2f}, p1 = {p1:.2f}, "
        f"p2 = {p2:.2f}. p95 of the time between tokens = {physics.p95_factor:.2f} x the median. "
        f"A CPU replica computes {cpu_flops_per_second() / 1e9:.0f} GFLOP/s."
    )


def _bands() -> str:
    lines = [
        f"Stars, version {STARS_VERSION}: most joules per request (one star above the last).",
        "",
        "| task | reasoning | 5 | 4 | 3 | 2 |",
        "|---|---|---|---|---|---|",
    ]
    for task, thinks in FIVE_STAR_MILLIJOULES:
        edges = bands(task, Reasoning.HIGH if thinks else Reasoning.OFF)
        cells = " | ".join(f"{edge / 1000:.6g}" for edge in edges)
        lines.append(f"| {task} | {'on' if thinks else 'off'} | {cells} |")
    return "\n".join(lines)


def _tasks() -> str:
    lines = [
        "Defaults of the tasks:",
        "",
        "| task | benchmark | floor | target | p95 latency | tokens in / out |",
        "|---|---|---|---|---|---|",
    ]
    for task in TASKS.values():
        latency = (
            f"{task.time_to_first_token_ms} ms first token, {task.inter_token_ms} ms per token"
            if task.end_to_end_ms is None
            else f"{task.end_to_end_ms} ms"
        )
        lines.append(
            f"| {task.name} | {task.benchmark} | {task.floor_centi / 100:g} | {task.target_centi / 100:g} | {latency} "
            f"| {task.default_input_tokens} / {task.default_output_tokens} |"
        )
    return "\n".join(lines)


def _left_out() -> str:
    lines = ["Published series that are left out:", ""]
    lines += [f"- {model} on {gpu}, {file}: {why}." for (model, gpu, file), why in LEFT_OUT.items()]
    return "\n".join(lines)
