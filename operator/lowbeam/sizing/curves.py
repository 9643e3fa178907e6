"""Curves: what replicas do at a rate, read off measured profiles; many profiles in one numpy call.

Decides running batch, watts, latency and the rate that a replica may be given. Never invents a batch that was not
measured, and never promises a rate at which the queue alone would break the latency target.

How a replica is modelled, and why each step errs on the safe side
- Throughput X(b) is measured with b requests always running, so by Little's law one request takes S(b) = b / X(b).
  At a lower rate r the running batch settles where X(b) = r; watts are interpolated on the profile at that batch and
  run down to the idle watts at no load: idle is always counted.
- Other answer lengths than measured: decoding dominates, so time per request grows with the number of answer tokens.
  Longer prompts than measured add their arithmetic (2 FLOP per active parameter and token) at PREFILL_EFFICIENCY of
  the dense peak. Tasks that generate no text scale with the prompt. Shorter prompts are not credited.
- Encoders batch what has arrived when the previous batch ends, so a request also waits for one running batch.
- Queueing: `sizing.queueing`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lowbeam.catalog.facts import AcceleratorClass, EnergyProfile, Model
from lowbeam.sizing.queueing import MAX_UTILISATION, utilisation_ceiling, wait_p95

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PREFILL_EFFICIENCY = 0.4
"""Share of the dense peak that prompts reach in practice; 0.3-0.5 is usual, the low side is the careful one."""
LEAST_UTILISATION = 0.1
"""A batch limit that keeps the target only on a replica idle for 90 % of the time is not worth offering."""


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
    """Highest figure at this batch or below: what the committed ledger charges under this batch limit."""
    latency_p95_ms: Floats
    service_ms: Floats
    """Mean time in service at a full batch, S(b)."""
    first_token_ms: Floats
    inter_token_p95_ms: Floats
    idle_milliwatts: Floats
    """Per profile."""

    def profile_count(self) -> int:
        """How many profiles there are."""
        return self.first.size - 1


@dataclass(frozen=True, slots=True)
class Lengths:
    """How other lengths than measured change the time of a request, per profile."""

    stretch: Floats
    extra_ms: Floats
    prompt_ms: Floats
    """Arithmetic of the whole prompt: no first token comes earlier. 0 where the accelerator's peak is unknown."""


Measured = tuple[EnergyProfile, Model, AcceleratorClass]


def measured_curves(measured: Sequence[tuple[EnergyProfile, AcceleratorClass]]) -> Curves:
    """The profiles' points as measured; points past the peak of throughput are dropped: they only cost."""
    rows: list[tuple[float, ...]] = []
    first = [0]
    for profile, accelerator in measured:
        boards = max(1, profile.accelerators)
        tokens = max(1, profile.output_tokens)
        limit = accelerator.max_milliwatts * boards or float("inf")
        idle = accelerator.idle_milliwatts * boards
        peak, worst = 0, float(idle)
        for point in profile.points:
            if point.requests_per_second_milli <= peak:
                continue
            peak = point.requests_per_second_milli
            worst = max(worst, min(point.milliwatts, limit))
            p50_us, p95_us = point.inter_token_p50_us, point.inter_token_p95_us
            itl_p50 = point.latency_p50_ms / tokens if p50_us is None else p50_us / 1000
            itl_p95 = point.latency_p95_ms / tokens if p95_us is None else p95_us / 1000
            rate = peak / 1000
            first_token = max(point.latency_p50_ms - tokens * itl_p50, itl_p50)
            rows.append(
                (
                    len(first) - 1,
                    point.batch,
                    rate,
                    point.milliwatts,
                    worst,
                    point.latency_p95_ms,
                    point.batch * 1000 / rate,
                    first_token,
                    itl_p95,
                )
            )
        first.append(len(rows))
    of, batch, throughput, drawn, worst_drawn, p95, service, ttft, itl = (
        np.array(rows, dtype=np.float64).reshape(-1, 9).T
    )
    return Curves(
        of=of.astype(np.int64),
        first=np.array(first, dtype=np.int64),
        batch=batch,
        throughput=throughput,
        milliwatts=drawn,
        worst_milliwatts=worst_drawn,
        latency_p95_ms=p95,
        service_ms=service,
        first_token_ms=ttft,
        inter_token_p95_ms=itl,
        idle_milliwatts=np.array([a.idle_milliwatts * max(1, p.accelerators) for p, a in measured], dtype=np.float64),
    )


def lengths(measured: Sequence[Measured], input_tokens: int, output_tokens: int) -> Lengths:
    """The effect of a workload's lengths on each profile."""
    rows = [_length_effect(*it, input_tokens, output_tokens) for it in measured]
    stretch, extra, prompt = np.array(rows, dtype=np.float64).reshape(-1, 3).T
    return Lengths(stretch, extra, prompt)


def at_lengths(curves: Curves, effect: Lengths) -> Curves:
    """The curves for requests of other lengths than the profiles'."""
    stretch, extra_ms, prompt_ms = (column[curves.of] for column in (effect.stretch, effect.extra_ms, effect.prompt_ms))
    per_request_ms = 1000 / curves.throughput * stretch + extra_ms
    waiting_ms = curves.batch * extra_ms
    return replace(
        curves,
        throughput=1000 / per_request_ms,
        latency_p95_ms=curves.latency_p95_ms * stretch + waiting_ms,
        service_ms=curves.batch * per_request_ms,
        first_token_ms=np.maximum(curves.first_token_ms, prompt_ms) + waiting_ms,
    )


def pick(curves: Curves, profiles: Ints) -> Curves:
    """Only these profiles, renumbered in the given order (which must grow)."""
    sizes = np.diff(curves.first)[profiles]
    chosen = np.zeros(curves.profile_count(), dtype=np.bool_)
    chosen[profiles] = True
    keep = chosen[curves.of]
    return Curves(
        of=np.repeat(np.arange(profiles.size), sizes),
        first=np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)]),
        batch=curves.batch[keep],
        throughput=curves.throughput[keep],
        milliwatts=curves.milliwatts[keep],
        worst_milliwatts=curves.worst_milliwatts[keep],
        latency_p95_ms=curves.latency_p95_ms[keep],
        service_ms=curves.service_ms[keep],
        first_token_ms=curves.first_token_ms[keep],
        inter_token_p95_ms=curves.inter_token_p95_ms[keep],
        idle_milliwatts=curves.idle_milliwatts[profiles],
    )


def _length_effect(
    profile: EnergyProfile, model: Model, accelerator: AcceleratorClass, input_tokens: int, output_tokens: int
) -> tuple[float, float, float]:
    """(factor on the time per request, extra ms per request, ms of the whole prompt)."""
    if profile.output_tokens <= 1:
        return max(1.0, input_tokens / max(1, profile.input_tokens)), 0.0, 0.0
    stretch = output_tokens / profile.output_tokens
    longer_prompt = max(0, input_tokens - profile.input_tokens)
    if accelerator.dense_tflops_bf16 <= 0:
        # Peak unknown: charge a prompt token like an answer token, which it never costs.
        return stretch + longer_prompt / profile.output_tokens, 0.0, 0.0
    flop_per_ms = accelerator.dense_tflops_bf16 * 1e9 * max(1, profile.accelerators) * PREFILL_EFFICIENCY
    token_ms = 2.0 * model.active_parameters_millions * 1e6 / flop_per_ms
    return stretch, longer_prompt * token_ms, input_tokens * token_ms


def running_batch(curves: Curves, of: Ints, rate: Floats) -> Floats:
    """Mean number of requests running in one replica at `rate` (Little's law on the measured curve)."""
    return _along(curves, of, rate, xs=curves.throughput, ys=curves.batch, y_at_zero=np.zeros(curves.profile_count()))


def expected_milliwatts(curves: Curves, of: Ints, rate: Floats) -> Floats:
    """Mean draw of one replica of profile `of` at `rate`: the profile at the running batch, idle watts at rate 0."""
    return _along(curves, of, rate, xs=curves.throughput, ys=curves.milliwatts, y_at_zero=curves.idle_milliwatts)


def latency_p95_ms(curves: Curves, at: Ints, rate: Floats, *, batches_wait: Floats) -> Floats:
    """p95 from arrival to answer at `rate` per replica with the batch limit of point `at`: service and queue."""
    of = curves.of[at]
    batch = running_batch(curves, of, rate)
    starts = curves.first[:-1]
    service, residual = (
        _along(curves, of, batch, xs=curves.batch, ys=column, y_at_zero=column[starts])
        for column in (curves.latency_p95_ms, curves.service_ms)
    )
    mean_service = curves.service_ms[at]
    utilisation = np.minimum(rate / curves.throughput[at], MAX_UTILISATION)
    result: Floats = service + residual * batches_wait + wait_p95(curves.batch[at], utilisation) * mean_service
    return result


def replica_capacity(curves: Curves, slack_ms: Floats) -> Floats:
    """Requests/s that one replica may be given at each batch limit when the queue may take `slack_ms` at p95."""
    ceiling = utilisation_ceiling(curves.batch, slack_ms / curves.service_ms)
    result: Floats = np.where(ceiling >= LEAST_UTILISATION, curves.throughput * ceiling, 0.0)
    return result


def _along(curves: Curves, of: Ints, x: Floats, *, xs: Floats, ys: Floats, y_at_zero: Floats) -> Floats:
    """Interpolate every x on the curve of its own profile, which starts at (0, y_at_zero) and ends at its last point.

    All curves share one call: each is shifted to its own stretch of the axis.
    """
    profiles = np.arange(curves.profile_count())
    far = 1.0 + xs.max(initial=0.0) * 2
    place, anchors = np.arange(xs.size) + curves.of + 1, curves.first[:-1] + profiles
    grid_x, grid_y = np.empty(xs.size + profiles.size), np.empty(xs.size + profiles.size)
    grid_x[place], grid_y[place] = xs + curves.of * far, ys
    grid_x[anchors], grid_y[anchors] = profiles * far, y_at_zero
    inside = np.minimum(x, xs[curves.first[1:] - 1][of])
    result: Floats = np.interp(inside + of * far, grid_x, grid_y)
    return result
