"""Ways: a table of every (profile, batch limit, replicas) that keeps a workload's limits, with what each costs.

Decides which batch limits meet the latency targets, which replica counts are useful, and the watts, joules, capacity
and latency of each. One numpy pass over all profiles of a workload: sizing is the hot path of a planner cycle. Never
drops a way because another is better: that is `sizing.pruning`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lowbeam.api.v1alpha1 import reasons
from lowbeam.sizing import curves as profile_curves
from lowbeam.sizing.feasibility import Miss
from lowbeam.sizing.requirements import Requirements

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

MAX_DEGRADED_STEPS = 6
"""Replica counts below the one that serves the demand, spread evenly in ratio: a cap rarely needs finer steps."""
HEADROOM_PERCENT = 150
"""Capacity that a setting should have, in percent of the demand, where it costs no expected watts: a larger batch limit
absorbs a burst. It is the first thing that a cap takes away."""


@dataclass(frozen=True, slots=True)
class Profiles:
    """The profiles that passed the filters: their curves and, per profile, what sizing must know about them."""

    curves: profile_curves.Curves
    boards: Ints
    """Accelerators per replica, at least 1 (a slot of the class `cpu`)."""
    most_replicas: Ints
    """Replicas that fit into the best pool."""
    is_encoder: Flags
    shortfall: Ints
    below_floor: Flags


@dataclass(frozen=True, slots=True)
class Ways:
    """Parallel columns, one row per way."""

    profile: Ints
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


def ways_of(needs: Requirements, profiles: Profiles, running: tuple[int, int] | None) -> tuple[Ways, dict[int, Miss]]:
    """All ways, and why a profile offers none. `running` = (profile, replicas): that count is offered as well."""
    curves = profiles.curves
    slack = slack_ms(needs, profiles)
    capacity = profile_curves.replica_capacity(curves, slack)
    usable = np.flatnonzero((slack >= 0) & (capacity > 0) & _rises(curves, capacity))
    misses = {
        int(p): _too_slow(needs, profiles, int(p))
        for p in np.setdiff1d(np.arange(curves.profile_count()), curves.of[usable])
    }
    at, count = _counts(needs, profiles, capacity, usable, running)
    of, demand = curves.of[at], needs.demand.requests_per_second_milli / 1000
    rate = np.minimum(demand / count, capacity[at])
    expected = np.rint(profile_curves.expected_milliwatts(curves, of, rate) * count)
    worst = np.rint(curves.worst_milliwatts[at] * count)
    # At no load the energy per request is the one at the batch limit: idle watts over zero requests mean nothing.
    joules = np.where(
        rate > 0, expected / np.maximum(rate * count, 1e-9), curves.milliwatts[at] / curves.throughput[at]
    )
    keep = np.ones(at.size, dtype=np.bool_)
    if needs.max_millijoules_per_request is not None:
        keep &= joules <= needs.max_millijoules_per_request
        for profile in np.setdiff1d(of, of[keep]):
            misses[int(profile)] = _too_much_energy(needs, float(joules[of == profile].min()))
    if needs.max_milliwatts is not None:
        before, keep = keep, keep & (worst <= needs.max_milliwatts)
        for profile in np.setdiff1d(of[before], of[keep]):
            misses[int(profile)] = _too_many_watts(needs, float(worst[before & (of == profile)].min()))
    latency = profile_curves.latency_p95_ms(curves, at, rate, batches_wait=profiles.is_encoder[of].astype(np.float64))
    asked = 0 if needs.fixed_replicas is None else min(needs.fixed_replicas, needs.max_replicas)
    total = np.floor(capacity[at] * count * 1000 + 1e-6).astype(np.int64)
    millirps = needs.demand.requests_per_second_milli
    columns = Ways(
        profile=of,
        batch=curves.batch[at].astype(np.int64),
        replicas=count,
        boards=count * profiles.boards[of],
        expected=expected.astype(np.int64),
        worst=worst.astype(np.int64),
        capacity=total,
        unserved=np.maximum(0, millirps - total),
        headroom_missing=np.maximum(0, millirps * HEADROOM_PERCENT // 100 - total),
        replicas_missing=np.maximum(0, asked - count),
        shortfall=profiles.shortfall[of],
        below_floor=profiles.below_floor[of].astype(np.int64),
        millijoules=np.rint(joules).astype(np.int64),
        latency=np.ceil(latency).astype(np.int64),
    )
    if keep.all():
        return columns, misses
    return Ways(*(getattr(columns, name)[keep] for name in Ways.__slots__)), misses


def slack_ms(needs: Requirements, profiles: Profiles) -> Floats:
    """What the queue may take at p95 at each point; negative: the batch alone is too slow."""
    curves = profiles.curves
    slack = np.full(curves.batch.size, np.inf)
    if needs.end_to_end_ms is not None:
        waiting = curves.service_ms * profiles.is_encoder[curves.of]
        slack = np.minimum(slack, needs.end_to_end_ms - curves.latency_p95_ms - waiting)
    if needs.time_to_first_token_ms is not None:
        slack = np.minimum(slack, needs.time_to_first_token_ms - curves.first_token_ms)
    if needs.inter_token_ms is not None:
        slack = np.where(curves.inter_token_p95_ms <= needs.inter_token_ms, slack, -np.inf)
    return slack


def _rises(curves: profile_curves.Curves, capacity: Floats) -> Flags:
    """Points whose capacity is above that of every smaller batch of the same profile."""
    far = 1.0 + capacity.max(initial=0.0)
    shifted = capacity + curves.of * far
    before = np.concatenate([[-1.0], np.maximum.accumulate(shifted)[:-1]])
    result: Flags = shifted > before
    return result


def _counts(
    needs: Requirements, profiles: Profiles, capacity: Floats, usable: Ints, running: tuple[int, int] | None
) -> tuple[Ints, Ints]:
    """(point, replicas): the count that serves the demand, the next smaller, and steps of equal ratio to the least."""
    of = profiles.curves.of[usable]
    limit = np.minimum(needs.max_replicas, profiles.most_replicas[of])
    if needs.fixed_replicas is not None:
        limit = np.minimum(limit, needs.fixed_replicas)
    least = np.minimum(max(1, needs.min_replicas), limit)
    demand = needs.demand.requests_per_second_milli / 1000
    full = limit if needs.fixed_replicas is not None else np.ceil(np.round(demand / capacity[usable], 9))
    full = np.clip(full, least, limit).astype(np.int64)
    ratio = np.linspace(0.0, 1.0, MAX_DEGRADED_STEPS)[None, :]
    steps = np.rint(full[:, None] * (least / full)[:, None] ** ratio).astype(np.int64)
    extra = [np.maximum(full - 1, least)]
    if running is not None:
        profile, replicas = running
        extra.append(np.where((of == profile) & (least <= replicas) & (replicas <= limit), replicas, full))
    table = np.sort(np.column_stack([steps, *extra]), axis=1)
    fresh = np.ones(table.shape, dtype=np.bool_)
    fresh[:, 1:] = table[:, 1:] != table[:, :-1]
    rows, columns = np.nonzero(fresh)
    return usable[rows], table[rows, columns]


def _too_slow(needs: Requirements, profiles: Profiles, profile: int) -> Miss:
    """Which target is missed at the point that comes nearest."""
    curves = profiles.curves
    mine = slice(int(curves.first[profile]), int(curves.first[profile + 1]))
    between, first = float(curves.inter_token_p95_ms[mine].min()), float(curves.first_token_ms[mine].min())
    whole = curves.latency_p95_ms[mine] + curves.service_ms[mine] * bool(profiles.is_encoder[profile])
    if needs.inter_token_ms is not None and between > needs.inter_token_ms:
        figure = f"{between:.0f} ms per token > {needs.inter_token_ms} ms"
    elif needs.time_to_first_token_ms is not None and first > needs.time_to_first_token_ms:
        figure = f"first token {first:.0f} ms > {needs.time_to_first_token_ms} ms"
    elif needs.end_to_end_ms is not None and float(whole.min()) > needs.end_to_end_ms:
        figure = f"end to end {whole.min():.0f} ms > {needs.end_to_end_ms} ms"
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
