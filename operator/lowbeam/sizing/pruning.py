"""Pruning: which of the ways to run a workload are worth the planner's time.

Decides which ways become options. A way is dropped when another one of the same pool and class is no worse in unserved
demand, quality, expected and worst-case watts, accelerators, burst head-room and an autoscaler's count. Kept in any
case: the running setting, and the batch and replica steps of the running and of the best setting (moves without a new
pod).

Invariants: never more than MAX_OPTIONS; the best way, the frugal end of each pool and class and the running setting are
always among them; the answer does not depend on the order of rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lowbeam.sizing.inventory import Inventory
from lowbeam.sizing.ways import Ways

Ints = NDArray[np.int64]

MAX_OPTIONS = 60
_MAX_LADDER = 16


def select(
    ways: Ways,
    classes: Sequence[str],
    boards: Ints,
    inventory: Sequence[Inventory],
    running: tuple[int, int, int, str] | None,
) -> list[tuple[int, str]]:
    """(way, pool) of the ways to offer. `classes`, `boards` by profile; `running`: profile, batch, replicas, pool."""
    if not ways.profile.size:
        return []
    costs = np.stack(
        [
            ways.unserved,
            ways.shortfall,
            ways.below_floor,
            ways.expected,
            ways.worst,
            ways.boards,
            ways.headroom_missing,
            ways.replicas_missing,
        ]
    )
    # Best first: the planner's own order (an autoscaler's count, loss, watts, head-room, worst case), then the setting.
    order = np.lexsort(
        (ways.replicas, ways.batch, ways.profile, costs[4], costs[6], costs[3], costs[1], costs[0], costs[7], costs[2])
    )
    position = np.empty(order.size, dtype=np.int64)
    position[order] = np.arange(order.size)
    class_of = np.array(classes)[ways.profile[order]]
    boards_of, per_replica = ways.boards[order], boards[ways.profile[order]]
    shelves = {
        (row.pool, row.accelerator_class): order[
            (class_of == row.accelerator_class)
            & (boards_of <= row.accelerators)
            & (per_replica <= min(row.largest_node, row.accelerators))
        ]
        for row in inventory
    }
    shelves = {key: rows for key, rows in sorted(shelves.items()) if rows.size}
    if not shelves:
        return []

    must: list[tuple[int, str]] = []
    if running is not None:
        profile, batch, replicas, pool = running
        shelf = shelves.get((pool, classes[profile]), np.zeros(0, dtype=np.int64))
        must += [(row, pool) for row in _ladder(ways, profile, batch, replicas, shelf)]
    (pool, _), rows = min(shelves.items(), key=lambda item: (position[item[1][0]], item[0]))
    best = rows[0]
    steps = _ladder(ways, int(ways.profile[best]), int(ways.batch[best]), int(ways.replicas[best]), rows)
    must += [(row, pool) for row in steps]

    chosen = dict.fromkeys(must)
    quota = max(2, (MAX_OPTIONS - len(chosen)) // len(shelves))
    fronts: dict[bytes, list[int]] = {}
    for (pool, _), rows in shelves.items():
        key = rows.tobytes()  # pools with the same stock offer the same ways
        if key not in fronts:
            fronts[key] = _spread(_front(costs, rows), costs[4], quota)
        for row in fronts[key]:
            if len(chosen) < MAX_OPTIONS:
                chosen.setdefault((row, pool))
    return list(chosen)


def also_ran(ways: Ways, chosen: Sequence[int], count: int) -> list[int]:
    """The best serving way of each profile without a chosen one, least watts first, at most `count`."""
    taken = set(ways.profile[np.array(chosen, dtype=np.int64)].tolist())
    serving = np.flatnonzero((ways.unserved == 0) & (ways.below_floor == 0))
    rows = serving[np.lexsort((ways.worst[serving], ways.expected[serving], ways.shortfall[serving]))]
    found: list[int] = []
    for row in rows:
        if len(found) < count and int(ways.profile[row]) not in taken:
            taken.add(int(ways.profile[row]))
            found.append(int(row))
    return found


def _ladder(ways: Ways, profile: int, batch: int, replicas: int, shelf: Ints) -> list[int]:
    """The setting itself, then smaller batches at the same replicas, then fewer replicas at the same batch."""
    mine = shelf[ways.profile[shelf] == profile]
    same_batch, same_count = ways.batch[mine] == batch, ways.replicas[mine] == replicas
    rows = np.concatenate(
        [
            mine[same_batch & same_count],
            mine[same_count & (ways.batch[mine] < batch)],
            mine[same_batch & (ways.replicas[mine] < replicas)],
        ]
    )
    return [int(row) for row in rows[:_MAX_LADDER]]


def _front(costs: Ints, rows: Ints) -> Ints:
    """Rows (best first) that no other row beats or equals in every cost; of equals the first stays."""
    mine = costs[:, rows]
    mine = mine[(mine != mine[:, :1]).any(axis=1)]
    no_worse = np.ones((rows.size, rows.size), dtype=np.bool_)
    for cost in mine:
        no_worse &= cost[:, None] <= cost[None, :]
    beaten = no_worse & ~(no_worse.T & np.tri(rows.size, dtype=np.bool_))
    result: Ints = rows[~beaten.any(axis=0)]
    return result


def _spread(front: Ints, worst: Ints, quota: int) -> list[int]:
    """At most `quota` rows: the first (best), the most frugal, and even steps of worst-case watts between."""
    if front.size <= quota:
        return [int(row) for row in front]
    frugal_first = front[np.argsort(worst[front], kind="stable")]
    picks = frugal_first[np.unique(np.linspace(0, front.size - 1, quota - 1).round().astype(int))]
    return list(dict.fromkeys([int(front[0]), *(int(row) for row in picks)]))
