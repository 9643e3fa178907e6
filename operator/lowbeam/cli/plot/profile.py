"""`lowbeam plot profile NAME`: joules per token over the batch, one curve per accelerator class and count.

Decides which profiles are one picture: those of one model, precision, reasoning mode and task. Tasks that generate no
text are drawn per request.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lowbeam.catalog import Catalogue
from lowbeam.catalog.comparison import millijoules_per_request
from lowbeam.catalog.facts import Basis, EnergyProfile, ProfilePoint, Reasoning, TaskFacts
from lowbeam.cli.catalog.filters import find_model
from lowbeam.cli.catalog.words import unknown
from lowbeam.cli.plot.drawing import CURVES, MARKERS, Label, canvas, darker, logarithmic, place, styled
from lowbeam.errors import BadInput

Dashes = str | tuple[int, tuple[float, ...]]

LINES: tuple[Dashes, ...] = ("-", (0, (6, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
"""One per number of accelerators of a class, the fewest first."""
FEW_BANDS = 4


@dataclass(frozen=True, slots=True)
class Look:
    """How one curve is told from the others: by colour and marker of the class, and dashes of the count."""

    colour: str
    marker: str
    dashes: Dashes


@dataclass(frozen=True, slots=True)
class Subject:
    """What the picture is about."""

    model: str
    precision: str
    reasoning: Reasoning
    task: TaskFacts
    profiles: tuple[EnergyProfile, ...]

    @property
    def per_token(self) -> bool:
        """Whether joules are divided by the tokens of the answer."""
        return self.task.generative


@styled
def draw(catalogue: Catalogue, args: argparse.Namespace) -> Figure:
    """The picture."""
    subject = _subject(catalogue, args)
    thinking = "" if subject.reasoning is Reasoning.OFF else f", reasoning {subject.reasoning}"
    unit = "output token" if subject.per_token else "request"
    figure, axes = canvas(
        f"{subject.model} {subject.precision}{thinking}: joules per {unit} over the batch",
        f"{subject.task.name}; watts of all boards of one saturated replica",
        _foot(subject),
    )
    ends, points, curves = [], [], []
    for profile in subject.profiles:
        look = _look(subject, profile)
        curve = _curve(axes, subject, profile, look)
        points += curve
        curves.append(curve)
        ends.append(_label(profile, curve[-1], darker(look.colour)))
    batches = sorted({point.batch for profile in subject.profiles for point in profile.points})
    axes.set_xlim(batches[0] / 1.3, batches[-1] * 3.2)
    joules = [y for _, y in points]
    axes.set_ylim(min(joules) / 1.6, max(joules) * 1.6)
    logarithmic(axes, "x", [2**power for power in range(14)])
    logarithmic(axes, "y")
    axes.set_xlabel("requests that run together (batch)")
    axes.set_ylabel(f"joules per {unit}")
    place(figure, axes, ends, points, curves)
    return figure


def _subject(catalogue: Catalogue, args: argparse.Namespace) -> Subject:
    planned, references = catalogue.profiles, catalogue.reference_profiles
    named = next((profile for profile in (*planned, *references) if profile.name == args.name.lower()), None)
    model = find_model(catalogue, named.model if named else args.name)
    if model is None:
        raise unknown("", args.name, [*catalogue.models, *(profile.name for profile in (*planned, *references))])
    # Figures that are planned with and those of other series are never in one picture.
    use_planned = named in planned if named else any(profile.model == model.name for profile in planned)
    of_model = [profile for profile in (planned if use_planned else references) if profile.model == model.name]
    wanted = _classes(catalogue, args.accelerator_class)
    candidates = [
        profile
        for profile in of_model
        if (args.task or (named.task if named else profile.task)) == profile.task
        and (args.precision or (named.precision if named else profile.precision)) == profile.precision
        and (args.reasoning or (named.reasoning if named else profile.reasoning)) == profile.reasoning
        and (not wanted or profile.accelerator_class in wanted)
    ]
    if not candidates:
        known = sorted({f"{p.task} {p.precision} {p.reasoning}" for p in of_model})
        asked = " ".join(part for part in (args.task, args.precision, args.reasoning, *wanted) if part)
        hint = f"there are: {'; '.join(known)}" if known else "it has none"
        raise BadInput(f"{model.name} has no energy profile {asked}".rstrip() + f" ({hint})")
    modes = [mode for mode in Reasoning if any(profile.reasoning is mode for profile in candidates)]
    counts = Counter((p.task, p.precision) for p in candidates if p.reasoning is modes[0])
    task, precision = max(sorted(counts), key=lambda key: counts[key])
    chosen = (p for p in candidates if (p.task, p.precision, p.reasoning) == (task, precision, modes[0]))
    ordered = sorted(chosen, key=lambda p: (p.accelerator_class, p.accelerators))
    return Subject(model.name, precision, modes[0], catalogue.tasks[task], tuple(ordered))


def _classes(catalogue: Catalogue, given: str | None) -> list[str]:
    names = [name.strip().lower() for name in (given or "").split(",") if name.strip()]
    for name in names:
        if name not in catalogue.accelerator_classes:
            raise unknown("--class: ", name, catalogue.accelerator_classes)
    return names


def _look(subject: Subject, profile: EnergyProfile) -> Look:
    classes = sorted({other.accelerator_class for other in subject.profiles})
    counts = sorted({p.accelerators for p in subject.profiles if p.accelerator_class == profile.accelerator_class})
    colour = classes.index(profile.accelerator_class)
    marker = colour + colour // len(CURVES)  # the eighth class has the first colour and the second marker
    dashes = LINES[counts.index(profile.accelerators) % len(LINES)]
    return Look(CURVES[colour % len(CURVES)], MARKERS[marker % len(MARKERS)], dashes)


def _curve(axes: Axes, subject: Subject, profile: EnergyProfile, look: Look) -> list[tuple[float, float]]:
    """Draw one profile: filled markers where the task's latency is kept, a band where figures are modelled."""
    xs = [float(point.batch) for point in profile.points]
    ys = [_joules(subject, profile, point) for point in profile.points]
    modelled = profile.basis is Basis.MODELLED
    if modelled:
        factor = 1 + profile.uncertainty_percent / 100
        low, high = [y / factor for y in ys], [y * factor for y in ys]
        axes.fill_between(xs, low, high, color=look.colour, alpha=_haze(subject), linewidth=0)
    axes.plot(xs, ys, color=look.colour, linestyle=look.dashes, linewidth=1.0 if modelled else 1.6)
    for x, y, point in zip(xs, ys, profile.points, strict=True):
        face = look.colour if _in_time(subject.task, point) else "white"
        axes.plot([x], [y], look.marker, markersize=5, color=look.colour, markerfacecolor=face, markeredgewidth=1.0)
    return list(zip(xs, ys, strict=True))


def _haze(subject: Subject) -> float:
    """How dense a band is: thinner where many lie on each other."""
    return 0.13 if sum(p.basis is Basis.MODELLED for p in subject.profiles) <= FEW_BANDS else 0.05


def _joules(subject: Subject, profile: EnergyProfile, point: ProfilePoint) -> float:
    joules = millijoules_per_request(point) / 1000
    return joules / profile.output_tokens if subject.per_token else joules


def _in_time(task: TaskFacts, point: ProfilePoint) -> bool:
    if task.inter_token_ms is not None and point.inter_token_p95_us is not None:
        return point.inter_token_p95_us <= task.inter_token_ms * 1000
    return task.end_to_end_ms is None or point.latency_p95_ms <= task.end_to_end_ms


def _label(profile: EnergyProfile, end: tuple[float, float], colour: str) -> Label:
    count = f" x{profile.accelerators}" if profile.accelerators > 1 else ""
    basis = f"modelled ±{profile.uncertainty_percent} %" if profile.basis is Basis.MODELLED else profile.basis.lower()
    return Label(end[0], end[1], f"{profile.accelerator_class}{count}, {basis}", colour)


def _foot(subject: Subject) -> list[str]:
    task = subject.task
    limit = f"{task.inter_token_ms} ms per token" if task.inter_token_ms is not None else f"{task.end_to_end_ms} ms"
    lines = [
        f"Filled: within the task's {limit} (p95, without queueing); hollow: slower. Bands: error of modelled curves."
    ]
    sources = Counter(profile.source.citation for profile in subject.profiles)
    return [*lines, *(f"Source: {citation}" for citation, _ in sources.most_common(3))]
