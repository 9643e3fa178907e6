"""What a run showed: figures, a timeline, and which expectations did not hold.

Decides how figures are counted. Units: seconds of virtual time; milliwatts; a cap counts as exceeded when what the
machines really draw is above its usable watts (its own tolerance already taken off).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from lowbeam.api.v1alpha1.powercap import CapState

WIDTH = 80


@dataclass(frozen=True, slots=True)
class Action:
    """One carried-out step."""

    at_seconds: int
    workload: str
    lever: str
    before: str
    after: str
    direction: str
    cap: str
    """The cap that asked for it; empty for steps that no cap asked for."""


@dataclass(frozen=True, slots=True)
class CapFigures:
    """One cap over the counted time."""

    name: str
    seconds_over: int
    longest_over_seconds: int
    overshoot_percent: float
    """Of usable, at the worst moment."""
    unused_watt_minutes: int
    """Left below usable while workloads were dimmed by this cap: the price of caution."""
    states: tuple[CapState, ...]
    """Every state that it was in, in order of appearance."""


@dataclass(frozen=True, slots=True)
class Report:
    """One run."""

    scenario: str
    seconds: int
    caps: tuple[CapFigures, ...]
    reaction_seconds: tuple[int, ...]
    """From each tightening of a cap to the first step down; a tightening that needed none is left out."""
    actions: tuple[Action, ...]
    reversals: dict[str, int]
    """Changes of direction per workload that had any."""
    undimmed_at_end: bool
    dimmed_workloads: tuple[str, ...]
    """Workloads that a cap dimmed at any time."""
    problems: tuple[str, ...]
    """Sentences of caps that could not be satisfied."""
    advised: tuple[str, ...] = ()
    """Workloads with spec.mode Advise: nothing of them ran."""
    failures: tuple[str, ...] = field(default=())
    """Expectations of the scenario that did not hold."""


def format_report(report: Report) -> str:
    """The report as plain text, at most 80 columns."""
    lines = [f"{report.scenario}: {report.seconds} s simulated, {len(report.actions)} actions", ""]
    lines.append(f"{'CAP':<20}{'OVER':>8}{'LONGEST':>10}{'OVERSHOOT':>12}{'UNUSED':>14}  STATES")
    for cap in report.caps:
        lines.append(
            f"{_cut(cap.name, 19):<20}{cap.seconds_over:>6} s{cap.longest_over_seconds:>8} s"
            f"{cap.overshoot_percent:>10.1f} %{cap.unused_watt_minutes:>8} W min  {_initials(cap.states)}"
        )
    lines += ["", "states: W within cap, O over it, S shedding, R restoring, B blind, I infeasible"]
    reaction = ", ".join(f"{s} s" for s in report.reaction_seconds) or "none needed"
    lines.append(f"first action after a cap was lowered: {reaction}")
    turns = ", ".join(f"{name} {count}" for name, count in sorted(report.reversals.items())) or "none"
    lines += _wrapped(f"changes of direction: {turns}")
    lines.append(f"dimmed at the end: {'nothing' if report.undimmed_at_end else 'some workloads'}")
    if report.advised:
        lines += _wrapped(f"not run, as their spec.mode is Advise: {', '.join(report.advised)}")
    lines += ["", f"{'AT':>7}  {'WORKLOAD':<22}{'LEVER':<11}{'FROM -> TO':<30}CAP"] if report.actions else []
    for a in report.actions:
        change = f"{_cut(a.before, 13)} -> {_cut(a.after, 13)}"
        line = f"{a.at_seconds:>5} s  {_cut(a.workload, 21):<22}{a.lever:<11}{change:<30}{a.cap}"
        lines.append(line[:WIDTH].rstrip())
    for problem in report.problems:
        lines += ["", *_wrapped(problem)]
    lines.append("")
    lines += [line for failure in report.failures for line in _wrapped(f"FAILED  {failure}")] or [
        "all expectations hold"
    ]
    return "\n".join(lines)


def _initials(states: tuple[CapState, ...]) -> str:
    return "".join(state.value[0] for state in states)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "~"


def _wrapped(text: str) -> list[str]:
    lines, line = [], ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > WIDTH:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}".strip()
    return [*lines, line] if line else lines
