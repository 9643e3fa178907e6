"""From points to an EnergyProfile as text: what `kubectl apply` takes, with the figures it has no fields for beside it.

Decides which points make a curve: the catalogue refuses a batch that serves no more than a smaller one, so it is left
out here, with the reason. The whole measurement travels with the object in the annotation `ANNOTATION`, as JSON, and
stands above it as a table for people.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import yaml

from lowbeam.api.v1alpha1 import EnergyProfile
from lowbeam.api.v1alpha1.base import ObjectMeta
from lowbeam.api.v1alpha1.energyprofile import EnergyProfilePoint, EnergyProfileSpec
from lowbeam.api.v1alpha1.provenance import Basis, Provenance
from lowbeam_worker.calibration.figures import CONFIDENCE_PERCENT, Interval
from lowbeam_worker.calibration.options import CalibrationOptions
from lowbeam_worker.calibration.point import Point, Tail
from lowbeam_worker.options import Precision

ANNOTATION = "lowbeam.dev/calibration"


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A batch without a point."""

    batches: tuple[int, ...]
    reason: str

    def __str__(self) -> str:
        return f"batch {', '.join(map(str, self.batches))} left out: {self.reason}"


@dataclass(frozen=True, slots=True)
class Circumstances:
    """Where, when and with what it was measured."""

    date: str
    device: str
    counter: str
    software: tuple[str, ...]
    """Names and versions, the engine first."""
    revision: str
    """Of the weights; empty: not known."""
    idle_watts_before: float
    idle_watts_after: float | None
    """None: not measured, for the calibration was interrupted."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One precision, measured."""

    precision: Precision
    points: tuple[Point, ...]
    left_out: tuple[LeftOut, ...]
    circumstances: Circumstances


def rising(points: Sequence[Point]) -> tuple[list[Point], list[LeftOut]]:
    """The points that serve more than every smaller batch, and the others. To a thousandth of a request per second, as
    the catalogue counts."""
    kept: list[Point] = []
    dropped: list[LeftOut] = []
    for point in points:
        if not kept or _thousandths(point) > _thousandths(kept[-1]):
            kept.append(point)
        else:
            dropped.append(LeftOut((point.batch,), f"it serves no more than batch {kept[-1].batch}"))
    return kept, dropped


def head(options: CalibrationOptions) -> str:
    """Over the lines of `row`."""
    if options.task.generative:
        return " batch     tokens/s     watts     J/token    +-%  1st p95  ITL p95  requests"
    return " batch   requests/s     watts   J/request    +-%  p50 ms   p95 ms   requests"


def row(options: CalibrationOptions, point: Point) -> str:
    """What people look at first; times in milliseconds."""
    writes, tokens = options.task.generative, options.output_tokens
    times = (point.first_token.p95, point.between_tokens.p95) if writes else (point.latency.p50, point.latency.p95)
    return (
        f"{point.batch:6d}{point.requests_per_second.mean * tokens:13.3f}{point.watts.mean:10.1f}"
        f"{point.joules_per_request.mean / tokens:12.4g}{100 * point.joules_per_request.share:7.2f}"
        f"{_ms(times[0]):>9}{_ms(times[1]):>9}{point.requests:10d}"
    )


def document(options: CalibrationOptions, it: Measurement) -> str:
    """A YAML document: the table as comments, then the object. Needs at least one point."""
    lines = ["---", "# Measured by `lowbeam calibrate`; +-: half of the 95 % confidence interval.", "#" + head(options)]
    lines += ["#" + row(options, point) for point in it.points]
    lines += [f"# {left}" for left in it.left_out]
    wire = energy_profile(options, it).to_wire()
    wire.pop("status", None)
    return "\n".join(lines) + "\n" + yaml.dump(wire, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def energy_profile(options: CalibrationOptions, it: Measurement) -> EnergyProfile:
    """The object."""
    where, rules = it.circumstances, options.rules
    widest = max(point.joules_per_request.share for point in it.points)
    after = where.idle_watts_after
    note = (
        f"{', '.join(where.software)}; weights {where.revision or 'of unknown revision'}; "
        f"random prompts{', greedy answers' if options.task.generative else ''}; "
        f"{rules.windows} windows of at least {rules.window_seconds:g} s per batch, "
        f"{sum(point.requests for point in it.points)} requests; J per request +-{widest:.1%} at most "
        f"({CONFIDENCE_PERCENT} % confidence); loaded idle {where.idle_watts_before:.1f} W before, "
        + (f"{after:.1f} W after" if after is not None else "interrupted before it was measured after")
    )
    return EnergyProfile(
        metadata=ObjectMeta(
            name=f"{options.model}-{it.precision}-{options.accelerator_class}-x1-{options.task}",
            annotations={ANNOTATION: _json(record(options, it))},
        ),
        spec=EnergyProfileSpec(
            model=options.model,
            precision=str(it.precision),
            task=str(options.task),
            accelerator_class=options.accelerator_class,
            engine=where.software[0].replace(" ", "-"),
            input_tokens=options.input_tokens,
            output_tokens=options.output_tokens,
            points=tuple(map(_point, it.points)),
            basis=Basis.MEASURED,
            source=Provenance(
                citation=f"lowbeam calibrate on {where.device}, energy by {where.counter}",
                date=where.date,
                note=note[:512],
            ),
        ),
    )


def record(options: CalibrationOptions, it: Measurement) -> dict[str, Any]:
    """Everything that was measured, for programs."""
    where = it.circumstances
    return {
        "software": where.software,
        "revision": where.revision or None,
        "confidencePercent": CONFIDENCE_PERCENT,
        "windows": options.rules.windows,
        "windowSeconds": options.rules.window_seconds,
        "idleWatts": {"before": _rounded(where.idle_watts_before), "after": _rounded(where.idle_watts_after)},
        "points": [_recorded(options, point) for point in it.points],
        "leftOut": [{"batches": left.batches, "reason": left.reason} for left in it.left_out],
    }


class _Dumper(yaml.SafeDumper):
    """Text of several lines stays so."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


def _json(record: dict[str, Any]) -> str:
    """One line for each point, and for each other figure."""
    lines = []
    for name, value in record.items():
        if isinstance(value, list) and value:
            lines.append(f"{json.dumps(name)}: [\n" + ",\n".join(f"  {json.dumps(it)}" for it in value) + "\n]")
        else:
            lines.append(f"{json.dumps(name)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _recorded(options: CalibrationOptions, point: Point) -> dict[str, Any]:
    writes = options.task.generative
    tokens = options.output_tokens
    return {
        "batch": point.batch,
        "together": _rounded(point.together),
        "requests": point.requests,
        "seconds": _rounded(point.seconds),
        "watts": _pair(point.watts),
        "requestsPerSecond": _pair(point.requests_per_second),
        "joulesPerRequest": _pair(point.joules_per_request),
        **({"tokensPerSecond": _pair(point.requests_per_second, tokens)} if writes else {}),
        **({"joulesPerToken": _pair(point.joules_per_request, 1 / tokens)} if writes else {}),
        "latencyMilliseconds": _tail(point.latency),
        **({"timeToFirstTokenMilliseconds": _tail(point.first_token)} if writes else {}),
        **({"interTokenMilliseconds": _tail(point.between_tokens)} if writes else {}),
    }


def _point(point: Point) -> EnergyProfilePoint:
    latency, between = point.latency, point.between_tokens
    if latency.p50 is None or latency.p95 is None:
        raise ValueError(f"batch {point.batch} has no 95th percentile")  # `measure` leaves such a point out
    return EnergyProfilePoint(
        batch=point.batch,
        watts=_decimal(point.watts.mean, 3),
        requests_per_second=_decimal(point.requests_per_second.mean, 6),
        latency_p50_milliseconds=max(1, round(latency.p50 * 1e3)),
        latency_p95_milliseconds=max(1, round(latency.p95 * 1e3)),
        inter_token_p50_microseconds=_microseconds(between.p50),
        inter_token_p95_microseconds=_microseconds(between.p95),
    )


def _thousandths(point: Point) -> int:
    return round(Decimal(_decimal(point.requests_per_second.mean, 6)) * 1000)


def _decimal(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".")


def _microseconds(seconds: float | None) -> int | None:
    return None if seconds is None else max(1, round(seconds * 1e6))


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.1f}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


def _pair(figure: Interval, times: float = 1.0) -> dict[str, float | None]:
    return {"mean": _rounded(figure.mean * times), "plusMinus": _rounded(figure.half_width * times)}


def _tail(tail: Tail) -> dict[str, float | None]:
    return {
        name: _rounded(None if value is None else value * 1e3)
        for name, value in (("p50", tail.p50), ("p95", tail.p95), ("p99", tail.p99))
    }
