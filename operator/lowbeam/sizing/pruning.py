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
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lowbeam.sizing.inventory import Inventory
from lowbeam.sizing.ways import Ways

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

MAX_OPTIONS = 60
_MAX_LADDER = 16
_BLOCK = 96
"""Ways that are compared with each other at once."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the profiles of the ways can run: parallel columns by profile, and the shelves of the inventory."""

    accelerator_class: Ints
    """Position in `classes`."""
    boards: Ints
    """Accelerators per replica."""
    classes: Sequence[str]
    inventory: Sequence[Inventory]


def select(ways: Ways, where: Placement, running: tuple[int, int, int, str] | None) -> list[tuple[int, str]]:
    """(way, pool) of the ways to offer. `running`: profile, batch, replicas, pool."""
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
    # A way that is no worse than another in every cost comes before it.
    order = np.lexsort((ways.replicas, ways.batch, ways.profile, *(costs[i] for i in (5, 4, 6, 3, 1, 0, 7, 2))))
    position = np.empty(order.size, dtype=np.int64)
    position[order] = np.arange(order.size)
    shelves = _shelves(ways, where, order)
    if not shelves:
        return []

    must: list[tuple[int, str]] = []
    if running is not None:
        profile, batch, replicas, pool = running
        shelf = shelves.get((pool, where.classes[where.accelerator_class[profile]]), np.zeros(0, dtype=np.int64))
        must += [(row, pool) for row in _ladder(ways, profile, batch, replicas, shelf)]
    (pool, _), rows = min(shelves.items(), key=lambda item: (position[item[1][0]], item[0]))
    best = rows[0]
    steps = _ladder(ways, int(ways.profile[best]), int(ways.batch[best]), int(ways.replicas[best]), rows)
    must += [(row, pool) for row in steps]

    chosen = dict.fromkeys(must)
    quota = max(2, (MAX_OPTIONS - len(chosen)) // len(shelves))
    spare = _spare(ways)
    different = {id(rows): rows[~spare[rows]] for rows in shelves.values()}  # pools with the same stock share one array
    fronts = dict(zip(different, _fronts(costs, list(different.values())), strict=True))
    worst = costs[4].tolist()
    offered = {key: _spread(front, worst, quota) for key, front in fronts.items()}
    for (pool, _), rows in shelves.items():
        for row in offered[id(rows)]:
            if len(chosen) < MAX_OPTIONS:
                chosen.setdefault((row, pool))
    return list(chosen)


def _shelves(ways: Ways, where: Placement, order: Ints) -> dict[tuple[str, str], Ints]:
    """The ways that fit, best first, by (pool, class) in that order; one array for all shelves with the same room."""
    class_of, boards = where.accelerator_class[ways.profile[order]], ways.boards[order]
    per_replica = where.boards[ways.profile[order]]
    fitting: dict[tuple[int, int, int], Ints] = {}
    code = {name: number for number, name in enumerate(where.classes)}
    most, widest = int(boards.max()), int(per_replica.max())
    found = {}
    for row in where.inventory:
        number = code.get(row.accelerator_class)
        if number is None:
            continue
        room = (number, min(row.accelerators, most), min(row.largest_node, row.accelerators, widest))
        if room not in fitting:
            fitting[room] = order[(class_of == number) & (boards <= room[1]) & (per_replica <= room[2])]
        if fitting[room].size:
            found[row.pool, row.accelerator_class] = fitting[room]
    return dict(sorted(found.items()))


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


def _spare(ways: Ways) -> Flags:
    """Larger batch limits than a count of a profile needs for the demand and its head-room: the smaller one beats them.

    Ways come by profile, batch and count; a larger limit only commits more watts.
    """
    enough = np.flatnonzero((ways.unserved == 0) & (ways.headroom_missing == 0))
    setting = ways.profile[enough] * (ways.replicas.max(initial=0) + 1) + ways.replicas[enough]
    _, first = np.unique(setting, return_index=True)
    spare = np.zeros(ways.profile.size, dtype=np.bool_)
    spare[enough] = True
    spare[enough[first]] = False
    return spare


def _fronts(costs: Ints, shelves: Sequence[Ints]) -> list[list[int]]:
    """Of each shelf (best first) the rows that no earlier one beats or equals in every cost; a later one cannot."""
    rows = np.concatenate(shelves)
    shelf = np.repeat(np.arange(len(shelves)), [it.size for it in shelves])
    # Who lacks no more head-room leaves no more unserved, so `unserved` (the first) need not be compared.
    mine = costs[1:, rows]
    mine = np.concatenate([shelf[None, :], mine[(mine != mine[:, :1]).any(axis=1)]])
    front = np.zeros(0, dtype=np.int64)
    for start in range(0, rows.size, _BLOCK):
        block = np.arange(start, min(start + _BLOCK, rows.size))
        rivals = front[shelf[front] >= shelf[start]]
        if rivals.size:
            block = block[~_no_worse(mine[:, rivals], mine[:, block]).any(axis=0)]
        beaten = _no_worse(mine[:, block], mine[:, block]) & ~np.tri(block.size, dtype=np.bool_)
        front = np.concatenate([front, block[~beaten.any(axis=0)]])
    bounds = np.searchsorted(shelf[front], np.arange(1, len(shelves)))
    return [part.tolist() for part in np.split(rows[front], bounds)]


def _no_worse(one: Ints, other: Ints) -> Flags:
    """(one, other): whether the first is of the same shelf (first row) and no worse in any cost (the other rows)."""
    answer: Flags = one[0][:, None] == other[0]
    for mine, theirs in zip(one[1:], other[1:], strict=True):
        answer &= mine[:, None] <= theirs
    return answer


def _spread(front: list[int], worst: Sequence[int], quota: int) -> list[int]:
    """At most `quota` rows: the first (best), the most frugal, and even steps of worst-case watts between."""
    if len(front) <= quota:
        return front
    frugal_first = sorted(front, key=worst.__getitem__)
    steps = sorted({round(step * (len(front) - 1) / max(1, quota - 2)) for step in range(quota - 1)})
    return list(dict.fromkeys([front[0], *(frugal_first[step] for step in steps)]))
