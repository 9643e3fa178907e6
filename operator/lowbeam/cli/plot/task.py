"""`lowbeam plot task TASK`: quality against joules per request, the floor, the target and what is chosen.

Decides what is comparable by asking `catalog.knee`: one series of figures on one accelerator class. Models below the
floor are drawn, and marked as out of the question.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lowbeam.catalog import Catalogue
from lowbeam.catalog.facts import Basis, TaskFacts
from lowbeam.catalog.knee import Knee, KneePoint, knee_of
from lowbeam.cli.catalog.words import joules, unknown
from lowbeam.cli.plot.drawing import BLACK, BLUE, GREY, HALO, ORANGE, RED, Label, canvas, logarithmic, place, styled
from lowbeam.errors import BadInput


@styled
def draw(catalogue: Catalogue, args: argparse.Namespace) -> Figure:
    """The picture."""
    task = catalogue.tasks.get(args.name.lower())
    if task is None:
        raise unknown("", args.name, catalogue.tasks)
    if args.accelerator_class is not None:
        catalogue = _on(catalogue, args.accelerator_class)
    knee = knee_of(task, catalogue)
    if knee is None:
        where = f" on {args.accelerator_class}" if args.accelerator_class else ""
        raise BadInput(
            f"{task.name}: fewer than three models{where} have both a score on {task.benchmark} of at least "
            f"{task.floor_centi / 100:g} and an energy profile that can be compared; `lowbeam catalog models --task "
            f"{task.name}` lists them"
        )
    return _picture(
        replace(task, floor_centi=_floor(task, args.floor)), catalogue, knee, aims_at_target=args.floor is None
    )


def _on(catalogue: Catalogue, name: str) -> Catalogue:
    if name.lower() not in catalogue.accelerator_classes:
        raise unknown("--class: ", name, catalogue.accelerator_classes)
    return replace(catalogue, profiles=tuple(p for p in catalogue.profiles if p.accelerator_class == name.lower()))


def _floor(task: TaskFacts, given: str | None) -> int:
    if given is None:
        return task.floor_centi
    if re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,2})?", given) is None:
        raise BadInput(f'--floor: "{given}" is not a score (for example 56.7)')
    return round(float(given) * 100)


def _picture(task: TaskFacts, catalogue: Catalogue, knee: Knee, *, aims_at_target: bool) -> Figure:
    points = _all_points(task, catalogue, knee)
    wanted = knee.at.score_centi if aims_at_target else task.floor_centi
    best = max(points, key=lambda p: p.score_centi)
    if best.score_centi < wanted:
        text = f"no model on {knee.accelerator_class} reaches {wanted / 100:g} on {task.benchmark}"
        raise BadInput(f"--floor: {text}; the best, {best.model}, has {best.score_centi / 100:g}")
    chosen = min((p for p in points if p.score_centi >= wanted), key=lambda p: (p.millijoules, -p.score_centi))
    ratio = best.millijoules / chosen.millijoules
    figure, axes = canvas(
        f"{task.name}: quality against joules per request on {knee.accelerator_class}",
        f"chosen: {_name(chosen, points)}, {joules(chosen.millijoules)} J; the best score costs {ratio:.1f} times that",
        _foot(task, catalogue, knee),
    )
    xs, ys = [p.millijoules / 1000 for p in points], [p.score_centi / 100 for p in points]
    axes.set_xlim(min(xs) / 2.2, max(xs) * 2.0)
    margin = max(1.0, (max(ys) - min(ys)) * 0.12)
    axes.set_ylim(min(*ys, task.floor_centi / 100) - margin, max(ys) + margin)
    logarithmic(axes, "x")
    _levels(axes, task, knee, aims_at_target=aims_at_target)
    if knee.basis is Basis.MODELLED:
        _errors(axes, task, catalogue, knee, points)
    _marks(axes, task, points, chosen)
    axes.set_xlabel("joules per request at the cheapest batch within the task's latency")
    axes.set_ylabel(task.benchmark)
    order = sorted(points, key=lambda p: (p != chosen, not p.on_frontier, p.score_centi < task.floor_centi))
    labels = [
        Label(
            p.millijoules / 1000,
            p.score_centi / 100,
            _name(p, points),
            GREY if p.score_centi < task.floor_centi else BLACK,
            bold=p == chosen,
        )
        for p in order
    ]
    frontier = [(p.millijoules / 1000, p.score_centi / 100) for p in points if p.on_frontier]
    steps = [corner for (x0, y0), (x1, y1) in pairwise(frontier) for corner in ((x0, y0), (x1, y0), (x1, y1))]
    place(figure, axes, labels, list(zip(xs, ys, strict=True)), [steps] if steps else [])
    return figure


def _all_points(task: TaskFacts, catalogue: Catalogue, knee: Knee) -> tuple[KneePoint, ...]:
    """The points on the ground of the knee by joules, those below the floor too; the frontier is above the floor."""
    ground = tuple(
        p
        for p in catalogue.profiles
        if (p.basis, p.series, p.accelerator_class) == (knee.basis, knee.series, knee.accelerator_class)
    )
    everything = knee_of(replace(task, floor_centi=0), replace(catalogue, profiles=ground))
    best, points = task.floor_centi - 1, []
    for point in (everything or knee).points:
        points.append(replace(point, on_frontier=point.score_centi > best))
        best = max(best, point.score_centi)
    return tuple(points)


def _levels(axes: Axes, task: TaskFacts, knee: Knee, *, aims_at_target: bool) -> None:
    """Floor and target as lines across."""
    floor, target = task.floor_centi / 100, knee.at.score_centi / 100
    axes.axhline(floor, color=RED, linewidth=1.0)
    axes.axhspan(axes.get_ylim()[0], floor, color=RED, alpha=0.05, linewidth=0)
    _say(axes, floor, f"floor {floor:g}", RED)
    if aims_at_target:
        axes.axhline(target, color=BLUE, linewidth=1.0, linestyle=(0, (6, 3)))
        _say(axes, target, f"target {target:g} (knee)", BLUE)


def _say(axes: Axes, level: float, words: str, colour: str) -> None:
    """A word on a line across, at its right end."""
    axes.annotate(
        words,
        (1.0, level),
        xycoords=axes.get_yaxis_transform(),
        xytext=(0, 2),
        textcoords="offset points",
        fontsize=7.5,
        ha="right",
        va="bottom",
        color=colour,
        path_effects=[HALO],
    )


def _marks(axes: Axes, task: TaskFacts, points: Sequence[KneePoint], chosen: KneePoint) -> None:
    """The frontier as steps, the chosen point ringed, the others by whether they are worth it."""
    frontier = [p for p in points if p.on_frontier]
    xs, ys = [p.millijoules / 1000 for p in frontier], [p.score_centi / 100 for p in frontier]
    axes.step(xs, ys, where="post", color=GREY, linewidth=1.0)
    for point in points:
        x, y = point.millijoules / 1000, point.score_centi / 100
        if point.score_centi < task.floor_centi:
            axes.plot([x], [y], marker="x", color=GREY, markersize=5)
        else:
            face = BLACK if point.on_frontier else "white"
            axes.plot([x], [y], marker="o", color=BLACK, markerfacecolor=face, markersize=5)
        if point == chosen:
            axes.plot([x], [y], marker="o", color=ORANGE, markerfacecolor="none", markersize=13, markeredgewidth=2)


def _errors(axes: Axes, task: TaskFacts, catalogue: Catalogue, knee: Knee, points: Sequence[KneePoint]) -> None:
    """How far modelled joules may be off, as a bar behind each point."""
    for point in points:
        x, y = point.millijoules / 1000, point.score_centi / 100
        factor = 1 + _uncertainty(catalogue, task, knee, point) / 100
        axes.plot([x / factor, x * factor], [y, y], color=BLUE, alpha=0.25, linewidth=4, solid_capstyle="butt")


def _uncertainty(catalogue: Catalogue, task: TaskFacts, knee: Knee, point: KneePoint) -> int:
    wanted = (point.model, point.precision, task.default_reasoning, task.name)
    return next(
        profile.uncertainty_percent
        for profile in catalogue.profiles
        if (profile.model, profile.precision, profile.reasoning, profile.task) == wanted
        and (profile.accelerator_class, profile.accelerators) == (knee.accelerator_class, 1)
    )


def _name(point: KneePoint, points: Sequence[KneePoint]) -> str:
    """The model, and its precision where another precision of it is in the picture."""
    twice = sum(other.model == point.model for other in points) > 1
    return f"{point.model} {point.precision}" if twice else point.model


def _foot(task: TaskFacts, catalogue: Catalogue, knee: Knee) -> list[str]:
    shown = {(point.model, point.precision) for point in knee.points}
    energy = sorted(
        {
            profile.source.citation
            for profile in catalogue.profiles
            if profile.task == task.name
            and (profile.model, profile.precision) in shown
            and (profile.basis, profile.series, profile.accelerator_class)
            == (knee.basis, knee.series, knee.accelerator_class)
        }
    )
    quality = sorted(
        {
            score.source.citation
            for name, _ in shown
            for variant in catalogue.models[name].variants
            for score in variant.quality
            if score.benchmark == task.benchmark
        }
    )
    bars = " Bars: error of modelled joules." if knee.basis is Basis.MODELLED else ""
    length = f" {task.default_output_tokens} output tokens." if task.generative else ""
    more = f" and {len(quality) - 2} more" if len(quality) > 2 else ""
    return [
        f"Filled: nothing is both better and cheaper. Hollow: something is. Crosses: below the floor.{bars}{length} "
        f"{knee.basis.value} figures of one series.",
        f"Energy: {'; '.join(energy[:2])}",
        f"Quality: {'; '.join(quality[:2])}{more}",
    ]
