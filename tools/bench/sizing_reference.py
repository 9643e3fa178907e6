"""Sizing in plain Python, one way after the other: what the vectorised step must equal, value for value.

Reads like the description of the model in docs/operating-points.md. Decides nothing; used by tests and by the
benchmark.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from lowbeam.catalog.facts import AcceleratorClass, EnergyProfile, Model
from lowbeam.sizing import latency
from lowbeam.sizing.curves import PREFILL_EFFICIENCY
from lowbeam.sizing.loads import LEAST_UTILISATION, STEPS
from lowbeam.sizing.requirements import Requirements
from lowbeam.sizing.sieve import Sifted
from lowbeam.sizing.ways import MAX_DEGRADED_STEPS, ROUNDING_MS

WayFigures = tuple[int, int, int, int, int, int, int, int, int]
"""(profile, batch, replicas, expected and worst-case milliwatts, capacity, unserved, millijoules, latency)."""


@dataclass
class _Point:
    """One batch limit of one profile at the workload's lengths."""

    batch: int
    rate: float
    milliwatts: float
    worst: int
    p95_ms: float
    service_ms: float
    slope: float
    first_token_ms: float
    inter_token_ms: float


def reference_ways(needs: Requirements, sifted: Sifted) -> list[WayFigures]:
    """All ways of the profiles that passed the filters, in no particular order."""
    found = []
    for row, passed in enumerate(sifted.passed):
        candidate = passed.candidate
        assert candidate.profile is not None
        assert candidate.accelerator is not None
        facts = (candidate.profile, candidate.model, candidate.accelerator)
        most = min(needs.max_replicas, passed.most_replicas)
        room = int(sifted.allowed.context_room[row])
        found += [(row, *figures) for figures in _of_profile(needs, *facts, most, room)]
    return found


def _of_profile(  # noqa: PLR0917 - the facts of one profile
    needs: Requirements,
    profile: EnergyProfile,
    model: Model,
    accelerator: AcceleratorClass,
    most: int,
    context_room: int,
) -> Iterator[tuple[int, int, int, int, int, int, int, int]]:
    points = _points(needs, profile, model, accelerator)
    encoder = profile.output_tokens <= 1
    cv = max(100, needs.demand.arrival_cv_percent) / 100
    layers = STEPS if cv > 1 else STEPS[:1]
    tables = [[_delays(point, encoder, latency.replica_cv(cv, layer)) for point in points] for layer in layers]
    capacities = [
        [_capacity(needs, point, encoder, *delays) for point, delays in zip(points, table, strict=True)]
        for table in tables
    ]
    useful = {
        i for rates in capacities for i, rate in enumerate(rates) if rate > 0 and all(rate > r for r in rates[:i])
    }
    demand = needs.demand.requests_per_second_milli / 1000
    idle = float(accelerator.idle_milliwatts * max(1, profile.accelerators))
    for i in sorted(useful):
        point = points[i]
        if point.batch * (needs.demand.input_tokens + needs.demand.output_tokens) > context_room:
            continue
        for count in _counts(needs, [rates[i] for rates in capacities], layers, most):
            layer = max(k for k, first in enumerate(layers) if first <= count)
            capacity = capacities[layer][i]
            if capacity <= 0:
                continue
            rate = min(demand / count, capacity)
            expected = round(_watts(points, idle, rate) * count)
            worst = point.worst * count
            joules = expected / max(rate * count, 1e-9) if rate > 0 else point.milliwatts / point.rate
            limit = needs.max_millijoules_per_request
            if limit is not None and joules > limit:
                continue
            if needs.max_milliwatts is not None and worst > needs.max_milliwatts:
                continue
            total = math.floor(capacity * count * 1000 + 1e-6)
            whole = tables[layer][i][1]
            late = _at(whole, min(rate / point.rate, latency.MAX_UTILISATION))
            unserved = max(0, needs.demand.requests_per_second_milli - total)
            yield point.batch, count, expected, worst, total, unserved, round(joules), math.ceil(late - ROUNDING_MS)


def _points(needs: Requirements, profile: EnergyProfile, model: Model, accelerator: AcceleratorClass) -> list[_Point]:
    stretch, extra, prompt = _length_effect(needs, profile, model, accelerator)
    boards, tokens = max(1, profile.accelerators), max(1, profile.output_tokens)
    limit = accelerator.max_milliwatts * boards or math.inf
    worst = accelerator.idle_milliwatts * boards
    smaller: list[tuple[int, float]] = []
    points = []
    peak = 0
    for it in profile.points:
        upper = Fraction(it.milliwatts * (100 + profile.uncertainty_percent), 100)
        worst = max(worst, math.ceil(min(upper, limit)))
        if it.requests_per_second_milli <= peak:
            continue
        peak = it.requests_per_second_milli
        full = it.batch * 1000 / (peak / 1000)
        flat = [max(0.0, (s - full * (b / it.batch)) / (1 - b / it.batch)) for b, s in smaller]
        smaller.append((it.batch, full))
        p50_us, p95_us = it.inter_token_p50_us, it.inter_token_p95_us
        p50 = it.latency_p50_ms / tokens if p50_us is None else p50_us / 1000
        p95 = it.latency_p95_ms / tokens if p95_us is None else p95_us / 1000
        request_ms = 1000 / (peak / 1000) * stretch + extra
        waiting = it.batch * extra
        service = it.batch * request_ms
        points.append(
            _Point(
                batch=it.batch,
                rate=1000 / request_ms,
                milliwatts=it.milliwatts,
                worst=worst,
                p95_ms=it.latency_p95_ms * stretch + waiting,
                service_ms=service,
                slope=min(1.0, max(0.0, 1 - min(full, max(flat, default=full)) * stretch / service)),
                first_token_ms=max(it.latency_p50_ms - tokens * p50, p50, prompt) + waiting,
                inter_token_ms=p95,
            )
        )
    return points


def _length_effect(
    needs: Requirements, profile: EnergyProfile, model: Model, accelerator: AcceleratorClass
) -> tuple[float, float, float]:
    """(factor on the time per request, extra ms per request, ms of the whole prompt)."""
    given, answered = needs.demand.input_tokens, needs.demand.output_tokens
    if profile.output_tokens <= 1:
        return max(1.0, given / max(1, profile.input_tokens)), 0.0, 0.0
    longer = max(0, given - max(1, profile.input_tokens))
    peak_tflops = accelerator.dense_tflops(profile.precision)
    if peak_tflops is None:
        return answered / profile.output_tokens + longer / profile.output_tokens, 0.0, 0.0
    flop_per_ms = peak_tflops * 1e9 * max(1, profile.accelerators) * PREFILL_EFFICIENCY
    token_ms = 2.0 * model.active_parameters_millions * 1e6 / flop_per_ms
    return answered / profile.output_tokens, longer * token_ms, given * token_ms


def _delays(point: _Point, encoder: bool, cv: float) -> tuple[list[float], list[float]]:
    """p95 in ms at every load: beyond the own service, and of the whole answer."""
    queue = [value * point.service_ms for value in _cell(latency.DELAY_P95, encoder, point, cv)]
    if encoder:
        return queue, [waiting + max(point.p95_ms - point.service_ms, 0.0) for waiting in queue]
    pace = _cell(latency.OWN_P95, encoder, point, cv)
    return queue, [waiting + share * point.p95_ms for waiting, share in zip(queue, pace, strict=True)]


def _cell(figure: int, encoder: bool, point: _Point, cv: float) -> list[float]:
    """One figure at every load, between the four neighbours in the table and the two burstinesses."""
    table = latency.latency_table()
    at, share = _place(table.cv.tolist(), cv)
    row, up = _place(table.limit.tolist(), point.batch)
    column, right = _place(table.slope.tolist(), point.slope)
    size = table.slope.size
    corner = (encoder * table.limit.size + row) * size + column
    corners = (corner, corner + 1, corner + size, corner + size + 1)
    weights = ((1 - up) * (1 - right), (1 - up) * right, up * (1 - right), up * right)
    values = []
    for load in range(table.load.size):
        total = None
        for spot, weight in zip(corners, weights, strict=True):
            low, high = (float(table.figures[at + k, figure, load, spot]) for k in (0, 1))
            part = (low * (1 - share) + high * share) * weight
            total = part if total is None else total + part
        assert total is not None
        values.append(total)
    return values


def _capacity(needs: Requirements, point: _Point, encoder: bool, queue: list[float], whole: list[float]) -> float:
    load = latency.MAX_UTILISATION
    if needs.end_to_end_ms is not None:
        load = min(load, _highest(whole, needs.end_to_end_ms))
    if needs.time_to_first_token_ms is not None:
        begins = whole if encoder else [waiting + point.first_token_ms for waiting in queue]
        load = min(load, _highest(begins, needs.time_to_first_token_ms))
    if needs.inter_token_ms is not None and point.inter_token_ms > needs.inter_token_ms:
        return 0.0
    return point.rate * load if load >= LEAST_UTILISATION else 0.0


def _highest(values: list[float], limit: float) -> float:
    """The load at which growing values reach the limit."""
    loads = latency.latency_table().load.tolist()
    kept = sum(value <= limit for value in values)
    if kept == 0:
        return -1.0
    last = kept - 1
    after = min(last + 1, len(loads) - 1)
    if after == last:
        return float(loads[last])
    rise = values[after] - values[last] if values[after] > values[last] else 1.0
    share = min(1.0, max(0.0, (limit - values[last]) / rise))
    return float(loads[last] + (loads[after] - loads[last]) * share)


def _counts(needs: Requirements, capacities: list[float], layers: tuple[int, ...], most: int) -> list[int]:
    limit = most if needs.fixed_replicas is None else min(most, needs.fixed_replicas)
    least = min(max(1, needs.min_replicas), limit)
    full = limit
    if needs.fixed_replicas is None:
        full = min(max(_enough(needs, capacities, layers), least), limit)
    shares = [step / (MAX_DEGRADED_STEPS - 1) for step in range(MAX_DEGRADED_STEPS)]
    return sorted({round(full * (least / full) ** share) for share in shares} | {max(full - 1, least)})


def _enough(needs: Requirements, capacities: list[float], layers: tuple[int, ...]) -> int:
    demand = needs.demand.requests_per_second_milli / 1000
    for k, capacity in enumerate(capacities):
        last = layers[k + 1] - 1 if k + 1 < len(layers) else math.inf
        wanted = max(math.ceil(round(demand / capacity, 9)), layers[k]) if capacity > 0 else math.inf
        if wanted <= last and wanted != math.inf:
            return int(wanted)
    return 2**62


def _watts(points: list[_Point], idle: float, rate: float) -> float:
    curve = [(0.0, idle), *((point.rate, point.milliwatts) for point in points)]
    spot = min(sum(point.rate <= rate for point in points), len(points) - 1)
    (x0, y0), (x1, y1) = curve[spot], curve[spot + 1]
    return y0 + (y1 - y0) * min((rate - x0) / (x1 - x0), 1.0)


def _at(values: list[float], load: float) -> float:
    index, share = _place(latency.latency_table().load.tolist(), load)
    return values[index] + (values[index + 1] - values[index]) * share


def _place(grid: list[float], value: float) -> tuple[int, float]:
    index = min(max(sum(point <= value for point in grid) - 1, 0), len(grid) - 2)
    return index, min(1.0, max(0.0, (value - grid[index]) / (grid[index + 1] - grid[index])))
