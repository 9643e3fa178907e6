"""The operating point of one replica: running batch, watts, joules and latency of one profile at a rate.

The readable face of `sizing.curves` and `sizing.latency` for one profile at a time; sizing itself asks for all profiles
at once. Decides nothing.

    curve = at_lengths(measured_curve(profile, h100), profile, model, h100, input_tokens=500, output_tokens=200)
    expected_milliwatts(curve, np.array([2.5]))                   # at 2.5 requests/s; idle watts at 0
    operating_point(curve, batch_limit=32, rate=2.5, cv=1.5)      # with p50, p95 and p99 under bursty arrivals
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lowbeam.catalog.facts import AcceleratorClass, EnergyProfile, Model
from lowbeam.sizing import curves, latency

Curve = curves.Curves
"""Curves of exactly one profile."""

_TAIL = 2.326 / 1.645
"""Log p99/p50 over log p95/p50 of a log-normal: sources give p50 and p95 of a request's own time, never p99."""


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Of a time in ms."""

    p50_ms: float
    p95_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """What one replica does at a rate under a batch limit."""

    batch_limit: int
    requests_per_second: float
    load: float
    """Share of the throughput at full batches; latency is not known above `latency.MAX_UTILISATION` and shown for
    that."""
    running_batch: float
    milliwatts: int
    """Idle included."""
    millijoules_per_request: int | None
    """None at no load."""
    first_token: Quantiles
    inter_token: Quantiles | None
    """None for answers that come as a whole."""
    end_to_end: Quantiles


def measured_curve(profile: EnergyProfile, accelerator: AcceleratorClass) -> Curve:
    """The profile's points as measured."""
    return curves.measured_curves([(profile, accelerator)])


def at_lengths(
    curve: Curve,
    profile: EnergyProfile,
    model: Model,
    accelerator: AcceleratorClass,
    *,
    input_tokens: int,
    output_tokens: int,
    cut: bool = False,
) -> Curve:
    """The curve for requests of other lengths than the profile's. `cut`: no more of a text is read than fits."""
    facts = curves.facts_of([(profile, model, accelerator)])
    return curves.at_lengths(curve, curves.lengths(facts, input_tokens, output_tokens, cut))


def running_batch(curve: Curve, rate: curves.Floats) -> curves.Floats:
    """Mean number of requests running in one replica at `rate` requests/s."""
    return curves.running_batch(curve, np.zeros(np.size(rate), dtype=np.int64), rate)


def expected_milliwatts(curve: Curve, rate: curves.Floats) -> curves.Floats:
    """Mean draw of one replica at `rate` requests/s: idle watts at 0."""
    return curves.expected_milliwatts(curve, np.zeros(np.size(rate), dtype=np.int64), rate)


def operating_point(curve: Curve, batch_limit: int, rate: float, cv: float = 1.0) -> OperatingPoint:
    """One replica at `rate` requests/s; `cv` is the burstiness of the arrivals at this replica (1 = Poisson).

    A limit between two measured batches counts as the smaller one; one below the smallest as the smallest.
    """
    at = max(0, int(np.searchsorted(curve.batch, batch_limit, side="right")) - 1)
    full, service = float(curve.throughput[at]), float(curve.service_ms[at])
    load = rate / full
    figures = _figures(curve, at, min(load, latency.MAX_UTILISATION), cv)
    delay, alone, pace = figures.reshape(3, 3)
    delay = delay * service
    encoder = bool(curve.is_encoder[0])
    p50, p95 = float(curve.latency_p50_ms[at]), float(curve.latency_p95_ms[at])
    own = np.array([p50, p95, _p99(p50, p95)])
    own = np.maximum(own - service, 0.0) if encoder else own * alone
    whole = _quantiles(delay + own)
    between = None
    if not encoder:
        itl_p50, itl_p95 = float(curve.inter_token_p50_ms[at]), float(curve.inter_token_p95_ms[at])
        between = _quantiles(pace * np.array([itl_p50, itl_p95, _p99(itl_p50, itl_p95)]))
    milliwatts = round(float(expected_milliwatts(curve, np.array([rate]))[0]))
    return OperatingPoint(
        batch_limit=int(curve.batch[at]),
        requests_per_second=rate,
        load=load,
        running_batch=float(running_batch(curve, np.array([rate]))[0]),
        milliwatts=milliwatts,
        millijoules_per_request=round(milliwatts / rate) if rate > 0 else None,
        first_token=whole if encoder else _quantiles(delay + float(curve.first_token_ms[at])),
        inter_token=between,
        end_to_end=whole,
    )


def _figures(curve: Curve, at: int, load: float, cv: float) -> curves.Floats:
    """All figures of the latency table for one batch limit at one load."""
    table = latency.latency_table()
    cells = table.cells(curve.is_encoder, curve.batch[at : at + 1], curve.slope()[at : at + 1])
    rows = np.concatenate([table.rows(figure, cells, cv) for figure in range(latency.FIGURES)], axis=1)
    every = np.arange(latency.FIGURES)
    return latency.along_load(table, rows, every, np.full(every.size, load))


def _p99(p50: float, p95: float) -> float:
    return p50 * (max(p95, p50) / p50) ** _TAIL if p50 > 0 else p95


def _quantiles(values: curves.Floats) -> Quantiles:
    return Quantiles(*(float(value) for value in values))
