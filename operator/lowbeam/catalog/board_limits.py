"""Boards under a lowered power limit: which limits are worth offering, and what a measured profile becomes under one.

A limit only clips: a point that draws no more than the limit stays as it is. A point that would draw more draws the
limit, and serves less by the share of its draw that is withheld times a measured constant. Work that reads memory
(answers of language models) loses less of its speed than work that computes (encoders, pictures, films). The constants
and their errors are fitted by `python -m tools.catalog build` (docs/catalogue-physics.md), which also says on what.

Never reads a device: the limits are those of the class. Never guesses below `LEAST_RATIO_PERCENT` of what a point
draws, where boards of different kinds stop agreeing and some collapse.

Invariants: a lower limit never gives more throughput, more watts or less latency; the points keep what `overlay` asks
of every profile.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files
from typing import Any

import orjson

from lowbeam.catalog.facts import AcceleratorClass, Basis, EnergyProfile, ProfilePoint

LEAST_RATIO_PERCENT = 70
"""Limit over draw down to which the response was fitted and checked."""
STEPS_PERCENT = (85, LEAST_RATIO_PERCENT)
"""Of the default limit. Two, as every step multiplies the options of every replica."""
STEP_WATTS = 5
NEAR_MINIMUM_PERCENT = 120
"""Of the lowest limit that the board accepts. Below this boards lose speed faster than watts."""
OLDEST_COMPUTE_CAPABILITY = 70
"""Volta, the oldest generation with a measured response; other makers' boards have 0."""
PERMILLE = 1000


@dataclass(frozen=True, slots=True)
class Response:
    """What withholding watts costs."""

    loss_permille: int
    """Throughput lost where the whole draw would be withheld: 10 % withheld costs a tenth of this."""
    uncertainty_percent: int
    """Nine of ten points on boards that the fit has not seen are closer, each board counting the same."""


@dataclass(frozen=True, slots=True)
class Responses:
    """By what bounds the work."""

    generation: Response
    compute: Response

    def of(self, profile: EnergyProfile) -> Response:
        """Answers of several tokens are bound by memory; all else computes."""
        return self.generation if profile.output_tokens > 1 else self.compute


@lru_cache(maxsize=1)
def load_responses() -> Responses:
    """The fitted constants that ship with Lowbeam; read once per process."""
    return responses_of(orjson.loads(files("lowbeam.catalog").joinpath("data", "boardlimits.json").read_bytes()))


def responses_of(raw: Mapping[str, Any]) -> Responses:
    """The constants as the data file holds them."""
    generation, compute = (
        Response(raw[kind]["lossPermille"], raw[kind]["uncertaintyPercent"]) for kind in ("generation", "compute")
    )
    return Responses(generation, compute)


def limits_of(accelerator: AcceleratorClass) -> tuple[int, ...]:
    """Limits in watts worth offering, descending; none where the minimum is unknown or near, or no data speak."""
    if accelerator.compute_capability < OLDEST_COMPUTE_CAPABILITY or accelerator.min_milliwatts is None:
        return ()
    least = accelerator.min_milliwatts * NEAR_MINIMUM_PERCENT // 100
    steps = (-(-accelerator.max_milliwatts * percent // (100 * 1000 * STEP_WATTS)) for percent in STEPS_PERCENT)
    watts = {step * STEP_WATTS for step in steps}
    return tuple(sorted((it for it in watts if least <= it * 1000 < accelerator.max_milliwatts), reverse=True))


def limited(
    profile: EnergyProfile, accelerator: AcceleratorClass, limit_watts: int, responses: Responses | None = None
) -> EnergyProfile | None:
    """The profile on boards of `accelerator` that are limited to `limit_watts` each; `responses`: None = the shipped.

    None where no point draws more, where a point draws so much more that no data speak for it, for a class without
    data, and for a profile that is limited already. All boards of a replica are taken to draw the same.
    """
    if accelerator.compute_capability < OLDEST_COMPUTE_CAPABILITY or profile.board_limit_watts:
        return None
    milliwatts = limit_watts * 1000 * profile.accelerators
    most = max(point.milliwatts for point in profile.points)
    if most <= milliwatts or most * LEAST_RATIO_PERCENT > milliwatts * 100:
        return None
    response = (responses or load_responses()).of(profile)
    note = (
        f"boards limited to {limit_watts} W: throughput falls by {response.loss_permille / 10:.0f} % of the share of "
        f"the draw that is withheld, within {response.uncertainty_percent} % (docs/catalogue-physics.md)"
    )
    return replace(
        profile,
        points=_rising(_clipped(point, milliwatts, response) for point in profile.points),
        basis=Basis.MODELLED,
        source=replace(profile.source, note="; ".join(filter(None, (profile.source.note, note)))),
        uncertainty_percent=round(math.hypot(profile.uncertainty_percent, response.uncertainty_percent)),
        board_limit_watts=limit_watts,
        unlimited_basis=profile.basis,
    )


def _clipped(point: ProfilePoint, milliwatts: int, response: Response) -> ProfilePoint:
    """The same batch under the limit. Its requests take longer by what its throughput loses (Little's law)."""
    if point.milliwatts <= milliwatts:
        return point
    whole = PERMILLE * point.milliwatts
    left = whole - response.loss_permille * (point.milliwatts - milliwatts)

    def longer(time: int) -> int:
        return -(-time * whole // left)

    return replace(
        point,
        milliwatts=milliwatts,
        requests_per_second_milli=max(1, point.requests_per_second_milli * left // whole),
        latency_p50_ms=longer(point.latency_p50_ms),
        latency_p95_ms=longer(point.latency_p95_ms),
        inter_token_p50_us=None if point.inter_token_p50_us is None else longer(point.inter_token_p50_us),
        inter_token_p95_us=None if point.inter_token_p95_us is None else longer(point.inter_token_p95_us),
    )


def _rising(points: Iterable[ProfilePoint]) -> tuple[ProfilePoint, ...]:
    """Without the batches that now serve no more than a smaller one: they only cost latency."""
    kept: list[ProfilePoint] = []
    for point in points:
        if not kept or point.requests_per_second_milli > kept[-1].requests_per_second_milli:
            kept.append(point)
    return tuple(kept)
