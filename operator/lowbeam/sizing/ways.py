"""Ways: a table of every (profile, batch limit, replicas) that keeps a workload's limits, with what each costs.

Decides which replica counts are useful, and the watts, joules, capacity and latency of each. One numpy pass over all
profiles of a workload: sizing is the hot path of a planner cycle. Never drops a way because another is better: that is
`sizing.pruning`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lowbeam.api.v1alpha1 import reasons
from lowbeam.sizing import curves as profile_curves
from lowbeam.sizing.feasibility import Miss
from lowbeam.sizing.loads import Capacities, Loads, end_to_end_p95_ms
from lowbeam.sizing.measured_power import corrected
from lowbeam.sizing.requirements import Requirements

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

MAX_DEGRADED_STEPS = 6
"""Replica counts below the one that serves the demand, spread evenly in ratio: a cap rarely needs finer steps."""
_SHARES = np.arange(MAX_DEGRADED_STEPS) / (MAX_DEGRADED_STEPS - 1)
HEADROOM_PERCENT = 150
"""Capacity that a setting should have, in percent of the demand, where it costs no expected watts: a larger batch limit
absorbs a burst. It is the first thing that a cap takes away."""
ROUNDING_MS = 1e-6
"""What floating point may add to a time that just meets its target."""
_EVERY_COUNT = np.int64(2**62)
_LEAST_RATE = 1e-12


@dataclass(frozen=True, slots=True)
class Allowed:
    """The profiles that passed the filters: parallel columns, one row per profile."""

    number: Ints
    """Its number among the curves, growing."""
    boards: Ints
    """Accelerators per replica, at least 1 (a slot of the class `cpu`)."""
    most_replicas: Ints
    """Replicas that fit into the best pool."""
    shortfall: Ints
    below_floor: Flags
    watts_percent: Ints
    """What live watts say that the profile counts; 100 where nothing contradicts it."""
    limit_milliwatts: Ints
    """Of a replica's boards; 0 = unknown."""
    context_room: Ints
    """Tokens of context, of all running requests together, that fit into a replica's memory beside the weights."""


@dataclass(frozen=True, slots=True)
class Ways:
    """Parallel columns, one row per way."""

    profile: Ints
    """Row of `Allowed`."""
    batch: Ints
    replicas: Ints
    boards: Ints
    expected: Ints
    worst: Ints
    capacity: Ints
    unserved: Ints
    headroom_missing: Ints
    replicas_missing: Ints
    """To what an autoscaler asked for, as far as it fits; 0 without one."""
    shortfall: Ints
    below_floor: Ints
    millijoules: Ints
    latency: Ints


def ways_of(
    needs: Requirements, allowed: Allowed, loads: Loads, capacities: Capacities, running: tuple[int, int] | None
) -> tuple[Ways, dict[int, Miss]]:
    """All ways, and why a profile offers none, by row of `allowed`.

    `running` = (row of `allowed`, replicas): that count is offered as well.
    """
    curves = loads.curves
    row_of = np.full(curves.profile_count(), -1, dtype=np.int64)
    row_of[allowed.number] = np.arange(allowed.number.size)
    usable = capacities.useful[row_of[curves.of[capacities.useful]] >= 0]
    tokens = needs.demand.input_tokens + needs.demand.output_tokens
    usable = usable[curves.batch[usable] * tokens <= allowed.context_room[row_of[curves.of[usable]]]]
    at, count, step = _counts(needs, allowed, loads, capacities, usable, row_of, running)
    profile, demand = row_of[curves.of[at]], needs.demand.requests_per_second_milli / 1000
    misses = {
        int(row): _too_long(needs, loads, int(allowed.number[row]), int(allowed.context_room[row]))
        or _too_slow(needs, loads, int(allowed.number[row]))
        for row in np.flatnonzero(np.bincount(profile, minlength=allowed.number.size) == 0)
    }
    capacity = capacities.per_second[step, at]
    rate = np.minimum(demand / count, capacity)
    expected = np.rint(profile_curves.expected_milliwatts(curves, curves.of[at], rate) * count)
    worst = np.rint(curves.worst_milliwatts[at] * count)
    percent = allowed.watts_percent[profile]
    if needs.corrections:
        limit = allowed.limit_milliwatts[profile] * count
        expected, worst = (np.rint(it) for it in corrected(expected, worst, percent, limit))
    # At no load the energy per request is the one at the batch limit: idle watts over zero requests mean nothing.
    at_limit = curves.milliwatts[at] / curves.throughput[at] * (percent / 100)
    joules = np.where(rate > 0, expected / np.maximum(rate * count, 1e-9), at_limit)
    keep = np.ones(at.size, dtype=np.bool_)
    if needs.max_millijoules_per_request is not None:
        keep &= joules <= needs.max_millijoules_per_request
        for row in np.setdiff1d(profile, profile[keep]):
            misses[int(row)] = _too_much_energy(needs, float(joules[profile == row].min()))
    if needs.max_milliwatts is not None:
        before, keep = keep, keep & (worst <= needs.max_milliwatts)
        for row in np.setdiff1d(profile[before], profile[keep]):
            misses[int(row)] = _too_many_watts(needs, float(worst[before & (profile == row)].min()))
    latency = end_to_end_p95_ms(loads, step, at, rate)
    asked = 0 if needs.fixed_replicas is None else min(needs.fixed_replicas, needs.max_replicas)
    total = np.floor(capacity * count * 1000 + 1e-6).astype(np.int64)
    millirps = needs.demand.requests_per_second_milli
    columns = Ways(
        profile=profile,
        batch=curves.batch[at].astype(np.int64),
        replicas=count,
        boards=count * allowed.boards[profile],
        expected=expected.astype(np.int64),
        worst=worst.astype(np.int64),
        capacity=total,
        unserved=np.maximum(0, millirps - total),
        headroom_missing=np.maximum(0, millirps * HEADROOM_PERCENT // 100 - total),
        replicas_missing=np.maximum(0, asked - count),
        shortfall=allowed.shortfall[profile],
        below_floor=allowed.below_floor[profile].astype(np.int64),
        millijoules=np.rint(joules).astype(np.int64),
        latency=np.ceil(latency - ROUNDING_MS).astype(np.int64),
    )
    if keep.all():
        return columns, misses
    return Ways(*(getattr(columns, name)[keep] for name in Ways.__slots__)), misses


def _counts(  # noqa: PLR0917 - the tables of one pass
    needs: Requirements,
    allowed: Allowed,
    loads: Loads,
    capacities: Capacities,
    usable: Ints,
    row_of: Ints,
    running: tuple[int, int] | None,
) -> tuple[Ints, Ints, Ints]:
    """(point, replicas, layer): the count that serves the demand, the next smaller, steps of equal ratio down."""
    row = row_of[loads.curves.of[usable]]
    limit = np.minimum(needs.max_replicas, allowed.most_replicas[row])
    if needs.fixed_replicas is not None:
        limit = np.minimum(limit, needs.fixed_replicas)
    least = np.minimum(max(1, needs.min_replicas), limit)
    enough = np.full(usable.size, _EVERY_COUNT)
    if needs.fixed_replicas is None:
        enough = _enough(needs.demand.requests_per_second_milli / 1000, loads.steps, capacities.per_second[:, usable])
    full = np.minimum(np.maximum(enough, least), limit)
    table = np.empty((usable.size, MAX_DEGRADED_STEPS + 2), dtype=np.int64)
    table[:, :-2] = np.rint(full[:, None] * (least / full)[:, None] ** _SHARES)
    table[:, -2] = np.maximum(full - 1, least)
    table[:, -1] = full
    if running is not None:
        profile, replicas = running
        table[(row == profile) & (least <= replicas) & (replicas <= limit), -1] = replicas
    table.sort(axis=1)
    fresh = np.ones(table.shape, dtype=np.bool_)
    fresh[:, 1:] = table[:, 1:] != table[:, :-1]
    rows, columns = np.nonzero(fresh)
    at, count = usable[rows], table[rows, columns]
    step = np.searchsorted(loads.steps, count, side="right") - 1
    # Few replicas of bursty arrivals may keep no target where more of them do.
    able = capacities.per_second[step, at] > 0
    return at[able], count[able], step[able]


def _enough(demand: float, steps: Ints, per_second: Floats) -> Ints:
    """Replicas that serve the demand, per point; `per_second` by layer, each valid from `steps` to the next."""
    ends = np.append(steps[1:] - 1, _EVERY_COUNT)
    found = np.full(per_second.shape[1], _EVERY_COUNT)
    for first, last, capacity in zip(steps[::-1], ends[::-1], per_second[::-1], strict=True):
        wanted = np.ceil(np.round(demand / np.maximum(capacity, _LEAST_RATE), 9))
        wanted = np.maximum(np.minimum(wanted, _EVERY_COUNT), first).astype(np.int64)
        found = np.where((capacity > 0) & (wanted <= last), wanted, found)
    return found


def _too_long(needs: Requirements, loads: Loads, profile: int, room: int) -> Miss | None:
    """Whether not even the smallest measured batch of such requests fits into the memory."""
    batch = int(loads.curves.batch[loads.curves.first[profile]])
    tokens = needs.demand.input_tokens + needs.demand.output_tokens
    if batch * tokens <= room:
        return None
    text = f"memory beside the weights holds {room} tokens of context, a batch of {batch} needs {batch * tokens}"
    return Miss(reasons.OUT_OF_MEMORY, f"{text} (spec.load)")


def _too_slow(needs: Requirements, loads: Loads, profile: int) -> Miss:
    """Which target is missed at the point that comes nearest."""
    curves = loads.curves
    mine = slice(int(curves.first[profile]), int(curves.first[profile + 1]))
    between, first = float(curves.inter_token_p95_ms[mine].min()), float(curves.first_token_ms[mine].min())
    whole = float(loads.alone_ms[mine].min())
    if needs.inter_token_ms is not None and between > needs.inter_token_ms:
        figure = f"{between:.0f} ms per token > {needs.inter_token_ms} ms"
    elif needs.time_to_first_token_ms is not None and first > needs.time_to_first_token_ms:
        figure = f"first token {first:.0f} ms > {needs.time_to_first_token_ms} ms"
    elif needs.end_to_end_ms is not None and whole > needs.end_to_end_ms:
        figure = f"end to end {whole:.0f} ms > {needs.end_to_end_ms} ms"
    else:
        return Miss(
            reasons.TOO_SLOW,
            "each batch meets some of the latency targets and misses another, or leaves no time for a queue (p95)",
        )
    return Miss(reasons.TOO_SLOW, f"{figure} (p95, at the fastest measured batch)")


def _too_much_energy(needs: Requirements, least_millijoules: float) -> Miss:
    limit = (needs.max_millijoules_per_request or 0) / 1000
    text = f"{least_millijoules / 1000:.3g} J per request > {limit:g} J (spec.energy.maxJoulesPerRequest)"
    return Miss(reasons.TOO_MUCH_ENERGY, text)


def _too_many_watts(needs: Requirements, least_milliwatts: float) -> Miss:
    limit = (needs.max_milliwatts or 0) / 1000
    text = f"{least_milliwatts / 1000:.0f} W at its batch limit > {limit:g} W (spec.energy.maxWatts)"
    return Miss(reasons.TOO_MANY_WATTS, text)
