"""Curves: what one replica does at a rate, read off measured profiles; many profiles in one numpy call.

Decides running batch and watts at a rate, and the figures from which `sizing.loads` makes latency. Never invents a
batch that was not measured.

How a replica is modelled, and why each step errs on the safe side
- Throughput X(b) is measured with b requests always running, so by Little's law one request takes S(b) = b / X(b).
  At a lower rate r the running batch settles where X(b) = r; watts are interpolated on the profile at that batch and
  run down to the idle watts at no load: idle is always counted.
- Under a batch limit B the time of a smaller batch is taken from the straight line that ends at S(B) and stays above
  every measured S(b) with b < B. Without a smaller measurement, a small batch takes as long as a full one.
- Other answer lengths than measured: decoding dominates, so time per request grows with the number of answer tokens.
  Longer prompts than measured add their arithmetic (2 FLOP per active parameter and token) at PREFILL_EFFICIENCY of
  the dense peak. Tasks that generate no text scale with the prompt. Shorter prompts are not credited.
- Worst-case watts of a modelled profile carry the upper end of its uncertainty, up to the boards' limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowbeam.catalog.facts import AcceleratorClass, EnergyProfile, Model, ProfilePoint
from lowbeam.catalog.tasks import READ_IN_PIECES
from lowbeam.sizing.worst_case import worst_of_points

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

PREFILL_EFFICIENCY = 0.4
"""Share of the dense peak that prompts reach in practice; 0.3-0.5 is usual, the low side is the careful one."""


@dataclass(frozen=True, slots=True)
class Curves:
    """Profiles at a workload's lengths, laid end to end; rates per second, times in ms.

    Arrays are per point, by profile and growing batch, unless said otherwise. Every profile has a point.
    """

    of: Ints
    """Number of the profile that each point belongs to."""
    first: Ints
    """Per profile: its first point, and the number of points at the end."""
    batch: Floats
    throughput: Floats
    milliwatts: Floats
    """Measured, of all accelerators of the replica."""
    worst_milliwatts: Floats
    """`worst_cases`: what the committed ledger charges under this batch limit."""
    latency_p50_ms: Floats
    latency_p95_ms: Floats
    service_ms: Floats
    """Mean time in service at a full batch, S(b)."""
    intercept_ms: Floats
    """Where the line of smaller batches meets batch 0."""
    first_token_ms: Floats
    inter_token_p50_ms: Floats
    inter_token_p95_ms: Floats
    idle_milliwatts: Floats
    """Per profile."""
    is_encoder: Flags
    """Per profile: the answer comes as a whole, and the next batch takes what has arrived."""
    cell: Ints
    """Where each point lies in the flattened grids; the point of the next smaller batch, or no load, is a row above."""
    rate_grid: Floats
    """(1 + points, profile): throughput from no load on; infinite beyond the last point."""
    batch_grid: Floats
    milliwatt_grid: Floats

    def profile_count(self) -> int:
        """How many profiles there are."""
        return self.first.size - 1

    def slope(self) -> Floats:
        """Share of the time of a full batch that grows with its size, per point."""
        result: Floats = np.minimum(np.maximum(1.0 - self.intercept_ms / self.service_ms, 0.0), 1.0)
        return result


@dataclass(frozen=True, slots=True)
class Facts:
    """What decides the effect of other lengths, per profile."""

    input_tokens: Floats
    """At least 1."""
    output_tokens: Floats
    prompt_token_ms: Floats
    """Below 0 where the accelerator's peak is unknown."""
    most_read: Floats
    """Input tokens of one text that are left where an engine cuts it; infinity where nothing is known to be cut."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """How other lengths than measured change the time of a request, per profile."""

    stretch: Floats
    extra_ms: Floats
    prompt_ms: Floats
    """Arithmetic of the whole prompt: no first token comes earlier. 0 where the accelerator's peak is unknown."""


Measured = tuple[EnergyProfile, Model, AcceleratorClass]

_COLUMNS = 11


def measured_curves(
    measured: Sequence[tuple[EnergyProfile, AcceleratorClass]], unlimited: Sequence[EnergyProfile] = ()
) -> Curves:
    """The profiles' points as measured; points past the peak of throughput are dropped: they only cost.

    `unlimited`: for each the profile of boards without a power limit, where some are of boards with one.
    """
    rows: list[tuple[float, ...]] = []
    of: list[int] = []
    first = [0]
    for number, (profile, accelerator) in enumerate(measured):
        rows += _points(profile, accelerator, unlimited[number] if unlimited else profile)
        of += [number] * (len(rows) - first[-1])
        first.append(len(rows))
    columns = np.array(rows, dtype=np.float64).reshape(-1, _COLUMNS).T
    batch, throughput, drawn, worst_drawn, p50, p95, service, intercept, ttft, itl_p50, itl_p95 = columns
    owner, starts = np.array(of, dtype=np.int64), np.array(first, dtype=np.int64)
    idle = np.array([a.idle_milliwatts * max(1, p.accelerators) for p, a in measured], dtype=np.float64)
    return Curves(
        of=owner,
        first=starts,
        batch=batch,
        throughput=throughput,
        milliwatts=drawn,
        worst_milliwatts=worst_drawn,
        latency_p50_ms=p50,
        latency_p95_ms=p95,
        service_ms=service,
        intercept_ms=intercept,
        first_token_ms=ttft,
        inter_token_p50_ms=itl_p50,
        inter_token_p95_ms=itl_p95,
        idle_milliwatts=idle,
        is_encoder=np.array([profile.output_tokens <= 1 for profile, _ in measured], dtype=np.bool_),
        **_grids(owner, starts, throughput=throughput, batch=batch, milliwatts=drawn, idle=idle),
    )


_PER_PROFILE = ("idle_milliwatts", "is_encoder")
_DERIVED = ("of", "first", "cell", "rate_grid", "batch_grid", "milliwatt_grid")


def curves_of_some(curves: Curves, numbers: Ints) -> Curves:
    """The curves of these profiles, which count from 0 then; in any order, and one may come again."""
    sizes = np.diff(curves.first)[numbers]
    of = np.arange(numbers.size).repeat(sizes)
    first = np.concatenate([[0], np.cumsum(sizes)])
    points = spans(curves.first[numbers], sizes)
    columns = {
        name: getattr(curves, name)[numbers if name in _PER_PROFILE else points]
        for name in Curves.__slots__
        if name not in _DERIVED
    }
    made = {name: columns[name] for name in ("throughput", "batch", "milliwatts")}
    return Curves(of=of, first=first, **columns, **_grids(of, first, **made, idle=columns["idle_milliwatts"]))


def spans(first: Ints, sizes: Ints) -> Ints:
    """The numbers from each `first` on, as many as its size says, end to end."""
    ends = sizes.cumsum()
    result: Ints = np.arange(ends[-1] if ends.size else 0) + (first - ends + sizes).repeat(sizes)
    return result


def _points(profile: EnergyProfile, accelerator: AcceleratorClass, unlimited: EnergyProfile) -> list[tuple[float, ...]]:
    """The columns of one profile's points."""
    tokens = max(1, profile.output_tokens)
    worst_of_each = worst_of_points(profile, accelerator, unlimited)
    rows: list[tuple[float, ...]] = []
    peak = 0
    for point, worst in zip(profile.points, worst_of_each, strict=True):
        if point.requests_per_second_milli <= peak:
            continue
        peak = point.requests_per_second_milli
        p50_us, p95_us = point.inter_token_p50_us, point.inter_token_p95_us
        itl_p50 = point.latency_p50_ms / tokens if p50_us is None else p50_us / 1000
        itl_p95 = point.latency_p95_ms / tokens if p95_us is None else p95_us / 1000
        first_token = max(point.latency_p50_ms - tokens * itl_p50, itl_p50)
        service = point.batch * 1000 / (peak / 1000)
        rows.append(
            (
                point.batch,
                peak / 1000,
                point.milliwatts,
                worst,
                point.latency_p50_ms,
                point.latency_p95_ms,
                service,
                _intercept_ms(point, service, rows),
                first_token,
                itl_p50,
                itl_p95,
            )
        )
    return rows


def _intercept_ms(point: ProfilePoint, service_ms: float, smaller: Sequence[tuple[float, ...]]) -> float:
    """The least one of a line from it to the point that is nowhere below a smaller batch; that of a flat one alone."""
    shares = [(row[0] / point.batch, row[6]) for row in smaller]
    return min(service_ms, max((max(0.0, (s - service_ms * x) / (1 - x)) for x, s in shares), default=service_ms))


def facts_of(measured: Sequence[Measured]) -> Facts:
    """The columns of the profiles."""
    rows = [
        (
            max(1, p.input_tokens),
            p.output_tokens,
            -1.0 if (ms := _prompt_token_ms(p, m, a)) is None else ms,
            _most_read(p, m),
        )
        for p, m, a in measured
    ]
    return Facts(*np.array(rows, dtype=np.float64).reshape(-1, 4).T)


def _most_read(profile: EnergyProfile, model: Model) -> float:
    bounded = model.context_tokens > 0 and not model.generative and profile.task not in READ_IN_PIECES
    return max(model.context_tokens, profile.input_tokens) if bounded else np.inf


def facts_of_some(facts: Facts, numbers: Ints) -> Facts:
    """The columns of these profiles."""
    return Facts(*(getattr(facts, name)[numbers] for name in Facts.__slots__))


def lengths(
    facts: Facts, input_tokens: Floats | int, output_tokens: Floats | int, cut: Flags | bool = False
) -> Lengths:
    """The effect of a workload's lengths on each profile; of each one's own workload where arrays are given. `cut`:
    `input_tokens` is one text, of which no more is read than the model takes."""
    input_tokens = np.where(cut, np.minimum(input_tokens, facts.most_read), input_tokens)
    longer = np.maximum(input_tokens - facts.input_tokens, 0.0)
    known = facts.prompt_token_ms >= 0
    writes = facts.output_tokens > 1
    token_ms = np.where(known & writes, facts.prompt_token_ms, 0.0)
    tokens = np.maximum(facts.output_tokens, 1.0)
    # Peak unknown: charge a prompt token like an answer token, which it never costs.
    decoded = output_tokens / tokens + np.where(known, 0.0, longer / tokens)
    read = np.maximum(input_tokens / facts.input_tokens, 1.0)
    return Lengths(np.where(writes, decoded, read), longer * token_ms, input_tokens * token_ms)


def at_lengths(curves: Curves, effect: Lengths) -> Curves:
    """The curves for requests of other lengths than the profiles'."""
    stretch, extra_ms, prompt_ms = (column[curves.of] for column in (effect.stretch, effect.extra_ms, effect.prompt_ms))
    per_request_ms = 1000 / curves.throughput * stretch + extra_ms
    waiting_ms = curves.batch * extra_ms
    throughput = 1000 / per_request_ms
    return replace(
        curves,
        throughput=throughput,
        latency_p50_ms=curves.latency_p50_ms * stretch + waiting_ms,
        latency_p95_ms=curves.latency_p95_ms * stretch + waiting_ms,
        service_ms=curves.batch * per_request_ms,
        intercept_ms=curves.intercept_ms * stretch,  # a longer prompt adds time to each request, not to each batch
        first_token_ms=np.maximum(curves.first_token_ms, prompt_ms) + waiting_ms,
        rate_grid=_grid(curves.rate_grid.shape, curves.cell, throughput, at_zero=0.0, beyond=np.inf),
    )


def _prompt_token_ms(profile: EnergyProfile, model: Model, accelerator: AcceleratorClass) -> float | None:
    """Arithmetic of one prompt token; None where the accelerator's peak is unknown."""
    peak_tflops = accelerator.dense_tflops(profile.precision)
    if peak_tflops is None:
        return None
    flop_per_ms = peak_tflops * 1e9 * max(1, profile.accelerators) * PREFILL_EFFICIENCY
    return 2.0 * model.active_parameters_millions * 1e6 / flop_per_ms


def running_batch(curves: Curves, of: Ints, rate: Floats) -> Floats:
    """Mean number of requests running in one replica at `rate` (Little's law on the measured curve)."""
    return _along(curves, of, rate, curves.batch_grid)


def expected_milliwatts(curves: Curves, of: Ints, rate: Floats) -> Floats:
    """Mean draw of one replica of profile `of` at `rate`: the profile at the running batch, idle watts at rate 0."""
    return _along(curves, of, rate, curves.milliwatt_grid)


def _along(curves: Curves, of: Ints, rate: Floats, grid: Floats) -> Floats:
    """Each rate on the curve of its profile, from no load to the last point; nothing beyond."""
    spot = np.zeros(rate.size, dtype=np.int64)
    for bound in curves.rate_grid[1:]:
        spot += bound.take(of) <= rate
    low = np.minimum(spot, curves.first[of + 1] - curves.first[of] - 1) * curves.profile_count() + of
    high = low + curves.profile_count()
    rates, values = curves.rate_grid.ravel(), grid.ravel()
    x0, y0 = rates.take(low), values.take(low)
    result: Floats = y0 + (values.take(high) - y0) * np.minimum((rate - x0) / (rates.take(high) - x0), 1.0)
    return result


def _grids(  # noqa: PLR0917 - the columns of the grids
    of: Ints, first: Ints, throughput: Floats, batch: Floats, milliwatts: Floats, idle: Floats
) -> dict[str, Any]:
    profiles = first.size - 1
    shape = (int(np.diff(first).max(initial=0)) + 1, profiles)
    cell = (np.arange(of.size) - first[of] + 1) * profiles + of
    return {
        "cell": cell,
        "rate_grid": _grid(shape, cell, throughput, at_zero=0.0, beyond=np.inf),
        "batch_grid": _grid(shape, cell, batch, at_zero=0.0, beyond=0.0),
        "milliwatt_grid": _grid(shape, cell, milliwatts, at_zero=idle, beyond=0.0),
    }


def _grid(shape: tuple[int, ...], cell: Ints, column: Floats, *, at_zero: Floats | float, beyond: float) -> Floats:
    grid = np.full(shape, beyond)
    grid[0] = at_zero
    grid.ravel()[cell] = column
    return grid
