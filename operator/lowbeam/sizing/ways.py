"""Ways: a table of every (profile, batch limit, replicas) that keeps a workload's targets, with what each costs.

Decides which replica counts are useful, and the watts, joules, capacity and latency of each. One numpy pass over all
profiles of many workloads: sizing is the hot path of a planner cycle. Never drops a way because another is better: that
is `sizing.pruning`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from lowbeam.sizing import curves as profile_curves
from lowbeam.sizing.curves import spans
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
_ROUNDING = 5e-10
"""Of a replica: what floating point may add to a demand that some of them just serve."""
_LEAST_RATE = 1e-12


@dataclass(frozen=True, slots=True)
class Allowed:
    """The profiles that passed the filters: parallel columns, one row per profile."""

    boards: Ints
    """Accelerators per replica, at least 1 (a slot of the class `cpu`)."""
    most_replicas: Ints
    """Replicas that fit into the best pool."""
    shortfall: Ints
    below_floor: Ints
    """1 or 0."""
    watts_percent: Ints
    """What live watts say that the profile counts; 100 where nothing contradicts it."""
    limit_milliwatts: Ints
    """Of a replica's boards; 0 = unknown."""
    context_room: Ints
    """Tokens of context, of all running requests together, that fit into a replica's memory beside the weights."""


@dataclass(frozen=True, slots=True)
class Ways:
    """Parallel columns, one row per way, by profile, batch and replicas."""

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
    """To what an autoscaler asked for, or to the least that the spec wants."""
    shortfall: Ints
    below_floor: Ints
    millijoules: Ints
    latency: Ints


_columns = attrgetter(*Ways.__slots__)


@dataclass(frozen=True, slots=True)
class Asked:
    """One workload of a batch."""

    needs: Requirements
    allowed: Allowed
    shape: int
    """Number of its shape in the tables of the batch."""
    running: tuple[int, int, int] | None = None
    """(first and last row of `allowed`, replicas): for the running profile under every power limit that count is
    offered as well."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The ways of some workloads, one after the other."""

    ways: Ways
    """`profile` counts within each workload."""
    millijoules: Floats
    """Per request and way, not rounded."""
    bounds: list[int]
    """Per workload: its first way, and the number of ways at the end."""

    def of(self, number: int) -> tuple[Ways, Floats]:
        """The ways of one workload, and the joules of each."""
        mine = slice(self.bounds[number], self.bounds[number + 1])
        return Ways(*[column[mine] for column in _columns(self.ways)]), self.millijoules[mine]


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What each workload of a batch asks for: parallel columns."""

    shape: Ints
    millirps: Ints
    tokens: Ints
    """Of one request."""
    least: Ints
    """Replicas, at least 1."""
    most: Ints
    fixed: Ints
    """1 where an autoscaler asks for `most` replicas, else 0."""
    asked: Ints
    """By an autoscaler, as far as the workload's own bound allows; without one as `least`."""
    first: Ints
    """Of its rows among all that are allowed."""
    running: Ints
    """First row of the running profile among all that are allowed; -1 = none."""
    running_last: Ints
    """Last row of it, the others being the same under power limits."""
    replicas: Ints
    """That run."""


@dataclass(frozen=True, slots=True)
class _Rungs:
    """Rungs of the workloads' ladders, a batch limit or one replica count there: parallel columns."""

    workload: Ints
    point: Ints
    """Of the curves."""
    row: Ints
    """Of the profile, among all that are allowed."""

    def some(self, which: Ints | Flags) -> _Rungs:
        """These of them, in this order."""
        return _Rungs(self.workload[which], self.point[which], self.row[which])


def ways_of(asked: Sequence[Asked], loads: Loads, capacities: Capacities) -> Batch:
    """All ways of all these workloads, by workload, profile, batch and replicas."""
    curves = loads.curves
    wanted, allowed = _columns_of(asked)
    rungs, count, layer = _counts(wanted, allowed, loads, capacities)
    mine, at, row = rungs.workload, rungs.point, rungs.row
    profile, millirps = curves.of[at], wanted.millirps[mine]
    capacity = capacities.per_second[layer, at]
    rate = np.minimum(millirps / 1000 / count, capacity)
    expected = np.rint(profile_curves.expected_milliwatts(curves, profile, rate) * count)
    worst = curves.worst_milliwatts[at] * count
    percent = allowed.watts_percent[row]
    if (percent != 100).any():
        expected, worst = corrected(expected, worst, percent, allowed.limit_milliwatts[row] * count)
        expected, worst = np.rint(expected), np.ceil(worst)
    joules = expected / np.maximum(rate * count, 1e-9)
    if not wanted.millirps.all():
        # At no load the energy per request is the one at the batch limit: idle watts over zero requests mean nothing.
        at_limit = curves.milliwatts[at] / curves.throughput[at] * (percent / 100)
        joules = np.where(millirps > 0, joules, at_limit)
    total = np.floor(capacity * count * 1000 + 1e-6).astype(np.int64)
    ways = Ways(
        profile=row - wanted.first[mine],
        batch=curves.batch[at].astype(np.int64),
        replicas=count,
        boards=count * allowed.boards[row],
        expected=expected.astype(np.int64),
        worst=worst.astype(np.int64),
        capacity=total,
        unserved=np.maximum(0, millirps - total),
        headroom_missing=np.maximum(0, millirps * HEADROOM_PERCENT // 100 - total),
        replicas_missing=np.maximum(0, wanted.asked[mine] - count),
        shortfall=allowed.shortfall[row],
        below_floor=allowed.below_floor[row],
        millijoules=np.rint(joules).astype(np.int64),
        latency=np.ceil(end_to_end_p95_ms(loads, layer, at, rate) - ROUNDING_MS).astype(np.int64),
    )
    return Batch(ways, joules, mine.searchsorted(np.arange(len(asked) + 1)).tolist())


def _columns_of(asked: Sequence[Asked]) -> tuple[_Wanted, Allowed]:
    """The workloads as columns, and everything that is allowed to one of them, end to end."""
    first, rows = dict[int, int](), 0
    distinct = {id(it.allowed): it.allowed for it in asked}
    for key, allowed in distinct.items():
        first[key] = rows
        rows += allowed.boards.size
    wanted = _Wanted(*np.array([_wanted(it, first[id(it.allowed)]) for it in asked], dtype=np.int64).T)
    if len(distinct) == 1:
        return wanted, asked[0].allowed
    together = (np.concatenate([getattr(it, name) for it in distinct.values()]) for name in Allowed.__slots__)
    return wanted, Allowed(*together)


def _wanted(it: Asked, first: int) -> tuple[int, ...]:
    """The row of `_Wanted`."""
    needs, demand, fixed = it.needs, it.needs.demand, it.needs.fixed_replicas
    row, last, replicas = (-1, -1, 0)
    if it.running is not None:
        row, last, replicas = first + it.running[0], first + it.running[1], it.running[2]
    least = max(1, needs.min_replicas)
    bound = needs.max_replicas if fixed is None else min(fixed, needs.max_replicas)
    return (
        it.shape,
        demand.requests_per_second_milli,
        demand.input_tokens + demand.output_tokens,
        least,
        bound,
        fixed is not None,
        least if fixed is None else bound,
        first,
        row,
        last,
        replicas,
    )


def _counts(wanted: _Wanted, allowed: Allowed, loads: Loads, capacities: Capacities) -> tuple[_Rungs, Ints, Ints]:
    """(rung, replicas, layer): the count that serves the demand, the next smaller, steps of equal ratio down."""
    useful = _useful(wanted, allowed, loads, capacities)
    limit = np.minimum(wanted.most[useful.workload], allowed.most_replicas[useful.row])
    least = wanted.least[useful.workload]
    full = limit
    if not wanted.fixed.all():
        demand = wanted.millirps[useful.workload] / 1000
        enough = _enough(demand, loads.steps, capacities.per_second.take(useful.point, axis=1))
        serves = np.minimum(np.maximum(enough, least), limit).astype(np.int64)
        full = np.where(wanted.fixed[useful.workload], limit, serves)
    spot, count = _ladders_of(wanted.least, useful.workload, full)
    if (wanted.running >= 0).any():
        spot, count = _with_running(wanted, useful, limit, spot, count)
    layer = loads.steps.searchsorted(count, "right") - 1
    # Few replicas of bursty arrivals may keep no target where more of them do.
    able = capacities.per_second[layer, useful.point[spot]] > 0
    return useful.some(spot[able]), count[able], layer[able]


def _useful(wanted: _Wanted, allowed: Allowed, loads: Loads, capacities: Capacities) -> _Rungs:
    """The useful points of each workload's shape whose requests fit into the memory."""
    curves, bounds = loads.curves, capacities.bounds
    sizes = np.diff(bounds)[wanted.shape]
    mine = np.arange(sizes.size).repeat(sizes)
    point = capacities.useful[spans(bounds[wanted.shape], sizes)]
    row = curves.of[point] + (wanted.first - loads.bounds[wanted.shape])[mine]
    rungs = _Rungs(mine, point, row)
    return rungs.some(curves.batch[point] * wanted.tokens[mine] <= allowed.context_room[row])


def _with_running(wanted: _Wanted, useful: _Rungs, limit: Ints, spot: Ints, count: Ints) -> tuple[Ints, Ints]:
    """The counts with the running one at every point of its profile where it is within the bounds."""
    runs = wanted.replicas[useful.workload]
    mine = useful.workload
    lacks = (wanted.running[mine] <= useful.row) & (useful.row <= wanted.running_last[mine]) & (runs <= limit)
    lacks &= np.minimum(wanted.least[useful.workload], limit) <= runs
    lacks[spot[count == runs[spot]]] = False
    new = np.flatnonzero(lacks)
    # As one number that grows with both; the counts of a point are in order.
    width = int(max(count.max(initial=0), runs.max(initial=0))) + 1
    offered, added = spot * width + count, new * width + runs[new]
    offered = np.insert(offered, offered.searchsorted(added), added)
    return offered // width, offered % width


def _ladders_of(least: Ints, workload: Ints, full: Ints) -> tuple[Ints, Ints]:
    """(index, replicas): the counts to offer for each count that serves, growing, and at least its workload's least."""
    every = sorted(set(least.tolist()))
    most = 1 << max(0, int(full.max(initial=1)) - 1).bit_length()  # so that few tables serve all
    ladders = [_ladder(it, most) for it in every]
    sizes = np.concatenate([it for it, _ in ladders])
    at = np.searchsorted(every, least)[workload] * (most + 1) + full
    first, mine = (sizes.cumsum() - sizes)[at], sizes[at]
    offered = np.concatenate([it for _, it in ladders])
    return np.arange(full.size).repeat(mine), offered[spans(first, mine)]


@lru_cache(maxsize=64)
def _ladder(least: int, most: int) -> tuple[Ints, Ints]:
    """(sizes, counts): how many counts to offer for each that would serve (0 to `most`), and these end to end."""
    full = np.arange(most + 1)
    low = np.minimum(least, full)
    table = np.empty((most + 1, MAX_DEGRADED_STEPS + 2), dtype=np.int64)
    table[:, :-2] = np.rint(full[:, None] * (low / np.maximum(full, 1))[:, None] ** _SHARES)
    table[:, -2] = np.maximum(full - 1, low)
    table[:, -1] = full
    table.sort(axis=1)
    fresh = table > 0
    fresh[:, 1:] &= table[:, 1:] != table[:, :-1]
    return fresh.sum(axis=1), table[fresh]


def _enough(demand: Floats, steps: Ints, per_second: Floats) -> Floats:
    """Replicas that serve each demand at its point; `per_second` by layer, each valid from `steps` to the next."""
    wanted = np.maximum(np.ceil(demand / np.maximum(per_second, _LEAST_RATE) - _ROUNDING), steps[:, None])
    last = np.append(steps[1:] - 1.0, np.inf)
    wanted[(per_second <= 0) | (wanted > last[:, None])] = np.inf
    least: Floats = wanted.min(axis=0)
    return least
