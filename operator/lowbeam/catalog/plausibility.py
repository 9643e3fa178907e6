"""Whether a curve can be true: what no board can do, and what stands far from what such boards do.

Two questions about a profile, answered from its own figures and the facts of its model and class alone
- `impossible`: draws less than an empty board, reads weights faster than the memory, computes faster than the peak.
- `unlikely`: costs more energy, less power or less time per request at a larger batch; draws less than loaded boards
  do without work; takes more than twice, or less than half, the time per token of a rough physical model.

Never changes anything and never says which figure is right. The rough model has the shape of the one that made the
modelled profiles (docs/catalogue-physics.md); what a ModelCard does not say is estimated.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from lowbeam.catalog.facts import AcceleratorClass, Basis, EnergyProfile, Model, ProfilePoint, Variant

ENERGY_RISE_PERCENT = 25
"""A larger batch that needs this much more energy per request than a smaller one: batching should save energy."""
LATENCY_DROP_PERCENT = 10
"""A larger batch that is this much faster per request: more work at once should not be."""
WATTS_DROP_PERCENT = 10
"""A larger batch that draws this much less: the boards wait for something, usually their host."""
TASKS_WITH_TEXT_PROMPTS = ("text-generation", "code-completion")
FAR = 2.0
"""A step that takes this many times as long as the rough model says, or that many times less."""
EMPTY_BOARD_SHARE = 0.7
"""Boards of one class differ in what they draw empty (A100: 44 to 67 W). Below this share of the class's figure it is
no board of the class, or a wrong unit."""
METER_ERROR = 0.95
"""Bounds of the hardware are believed to 5 %."""


@dataclass(frozen=True, slots=True)
class Constants:
    """Of the rough model: the fitted ones, rounded; a test compares them with the fit."""

    step_seconds: float
    bandwidth_factor: float
    compute_factor: float
    request_seconds: float


HOPPER = Constants(1.1e-3, 1.3, 1.9, 40e-6)
"""Fitted on H100; for every class without its own."""
OWN = {"b200": Constants(2.8e-3, 1.3, 1.3, 51e-6)}
ACROSS_BOARDS_SECONDS = 1.7e-3
"""Fitted 28 us per layer, at 60 layers."""
KV_BYTES_PER_TOKEN = 60e3
KV_POWER = 0.4
"""Keys and values of a token where the card does not say: 60 kB x (billions of active parameters)^0.4."""


class Check(StrEnum):
    """What a finding is about; one word per cause."""

    BELOW_EMPTY_BOARD = "BelowEmptyBoard"
    FASTER_THAN_MEMORY = "FasterThanMemory"
    FASTER_THAN_PEAK = "FasterThanPeak"
    BELOW_IDLE = "BelowIdle"
    ENERGY_RISES = "EnergyRises"
    LATENCY_FALLS = "LatencyFalls"
    WATTS_FALL = "WattsFall"
    SLOWER_THAN_PHYSICS = "SlowerThanPhysics"
    FASTER_THAN_PHYSICS = "FasterThanPhysics"


@dataclass(frozen=True, slots=True)
class Doubt:
    """One figure that cannot be, or is unlikely to be, true."""

    check: Check
    field: str
    message: str


@dataclass(frozen=True, slots=True)
class Subject:
    """A profile and the facts that it is judged by."""

    profile: EnergyProfile
    model: Model
    variant: Variant
    accelerator: AcceleratorClass


def impossible(it: Subject) -> Iterator[Doubt]:
    """What no board of the class can do."""
    profile, accelerator = it.profile, it.accelerator
    if accelerator.bare_idle_milliwatts is not None:
        empty = accelerator.bare_idle_milliwatts * profile.accelerators
        for point in profile.points:
            if point.milliwatts < empty * EMPTY_BOARD_SHARE:
                drawn = f"{point.milliwatts / 1000:.0f} W"
                text = f"{drawn} is far below the {empty / 1000:.0f} W of boards without a process"
                yield Doubt(Check.BELOW_EMPTY_BOARD, _where(point), text)
    if profile.output_tokens <= 1:
        return
    for point in profile.points:
        seconds = _step_seconds(profile, point)
        reading = _seconds_to_read(it, 1.0, kv=False)
        if reading is not None and seconds < reading * METER_ERROR:
            text = f"{seconds * 1e3:.2f} ms per token, and reading the active weights takes {reading * 1e3:.2f} ms"
            yield Doubt(Check.FASTER_THAN_MEMORY, _where(point), text)
        computing = _seconds_to_compute(it, point.batch, prompts=False)
        if computing is not None and seconds < computing * METER_ERROR:
            text = f"{seconds * 1e3:.2f} ms per token, and its arithmetic takes {computing * 1e3:.2f} ms at the peak"
            yield Doubt(Check.FASTER_THAN_PEAK, _where(point), text)


def unlikely(it: Subject) -> Iterator[Doubt]:
    """What a person should look at."""
    yield from _watts_and_batch(it)
    yield from _against_physics(it)


def _watts_and_batch(it: Subject) -> Iterator[Doubt]:
    profile = it.profile
    idle = it.accelerator.idle_milliwatts * profile.accelerators
    for point in profile.points:
        if point.milliwatts < idle:
            text = f"{point.milliwatts / 1000:.0f} W is below {idle / 1000:.0f} W of loaded boards without work"
            yield Doubt(Check.BELOW_IDLE, _where(point), text)
    for small, large in pairwise(profile.points):
        before = small.milliwatts * large.requests_per_second_milli
        after = large.milliwatts * small.requests_per_second_milli
        if after * 100 > before * (100 + ENERGY_RISE_PERCENT):
            text = f"needs {after / before - 1:.0%} more energy than batch {small.batch}"
            yield Doubt(Check.ENERGY_RISES, _where(large), text)
        if large.latency_p50_ms * 100 < small.latency_p50_ms * (100 - LATENCY_DROP_PERCENT):
            drop = 1 - large.latency_p50_ms / small.latency_p50_ms
            yield Doubt(
                Check.LATENCY_FALLS, _where(large), f"is {drop:.0%} faster per request than batch {small.batch}"
            )
        if large.milliwatts * 100 < small.milliwatts * (100 - WATTS_DROP_PERCENT):
            drop = 1 - large.milliwatts / small.milliwatts
            text = f"draws {drop:.0%} less than batch {small.batch}: the boards wait, probably for their host"
            yield Doubt(Check.WATTS_FALL, _where(large), text)


def _against_physics(it: Subject) -> Iterator[Doubt]:
    """At most one doubt each way: the point that is farthest off.

    Asked of measurements of today's engines on prompts of text: modelled figures are the model's own, another series is
    another engine, and what a picture or a film adds to a prompt is not recorded.
    """
    profile = it.profile
    if profile.basis is Basis.MODELLED or profile.series or profile.task not in TASKS_WITH_TEXT_PROMPTS:
        return
    ratios = [
        (_step_seconds(it.profile, point) / rough, point)
        for point in it.profile.points
        if (rough := rough_step_seconds(it, point.batch)) is not None
    ]
    if not ratios:
        return
    slowest, fastest = max(ratios, key=lambda pair: pair[0]), min(ratios, key=lambda pair: pair[0])
    if slowest[0] > FAR:
        text = f"takes {slowest[0]:.1f} times as long per token as the rough physical model says"
        yield Doubt(Check.SLOWER_THAN_PHYSICS, _where(slowest[1]), text)
    if fastest[0] < 1 / FAR:
        text = f"takes {fastest[0]:.2f} of the time per token that the rough physical model says"
        yield Doubt(Check.FASTER_THAN_PHYSICS, _where(fastest[1]), text)


def rough_step_seconds(it: Subject, batch: int) -> float | None:
    """Seconds for one token of every request of a batch; None where the class's facts are unknown."""
    reading = _seconds_to_read(it, float(batch), kv=True)
    computing = _seconds_to_compute(it, batch, prompts=True)
    if reading is None or computing is None:
        return None
    across = ACROSS_BOARDS_SECONDS if it.profile.accelerators > 1 else 0.0
    own = OWN.get(it.accelerator.name, HOPPER)
    host = own.step_seconds + own.request_seconds * batch
    return host + across + own.bandwidth_factor * reading + own.compute_factor * computing


def _seconds_to_read(it: Subject, batch: float, *, kv: bool) -> float | None:
    """Weights at peak bandwidth: of a mixture of experts the active ones, and with a batch more of them, up to all."""
    if it.accelerator.bandwidth_gb_s is None:
        return None
    share = min(1.0, batch * it.model.active_parameters_millions / it.model.total_parameters_millions)
    size = it.variant.weights_mib * 2**20 * share
    if kv:
        tokens = it.profile.input_tokens + it.profile.output_tokens / 2
        estimate = KV_BYTES_PER_TOKEN * (it.model.active_parameters_millions / 1000) ** KV_POWER
        size += batch * tokens * (it.model.kv_bytes_per_token or estimate)
    return size / (it.accelerator.bandwidth_gb_s * 1e9 * it.profile.accelerators)


def _seconds_to_compute(it: Subject, batch: int, *, prompts: bool) -> float | None:
    """Two FLOP per active parameter and token at the peak."""
    peak = it.accelerator.dense_tflops(it.variant.precision)
    if peak is None:
        return None
    tokens = 1.0 + (it.profile.input_tokens / it.profile.output_tokens if prompts else 0.0)
    flops = 2.0 * it.model.active_parameters_millions * 1e6 * batch * tokens
    return flops / (peak * 1e12 * it.profile.accelerators)


def _step_seconds(profile: EnergyProfile, point: ProfilePoint) -> float:
    """Of one token for every request of the batch, prompts included (Little's law)."""
    return point.batch / (point.requests_per_second_milli / 1000 * profile.output_tokens)


def _where(point: ProfilePoint) -> str:
    return f"points[batch {point.batch}]"
