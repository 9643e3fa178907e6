"""Pruning: which of the ways to run a workload are worth the planner's time.

Decides which ways become options. A way is dropped when another one of the same pool and class is no worse in unserved
demand, quality, expected and worst-case watts, accelerators, burst head-room and the replicas asked for. Kept in any
case: the running setting, and the batch, power limit and replica steps of the running and of the best setting (moves
without a new pod). A way under a power limit is offered only in pools that set them, and beats none without one: who
has nothing to gain from a limit keeps the boards as they are.

Invariants: never more than MAX_OPTIONS; the best way, the frugal end of each pool and class and the running setting are
always among them; the answer does not depend on the order of rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lowbeam.sizing.ways import Ways

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

MAX_OPTIONS = 60
_MAX_LADDER = 16
_FEW = 96
"""Ways that are compared each with each."""
_COSTS = ("shortfall", "below_floor", "expected", "worst", "boards", "headroom_missing", "replicas_missing")
"""What a way must be no worse in to beat another. Who lacks no more head-room leaves no more unserved."""
_LAST_TO_FIRST = (
    "boards",
    "worst",
    "headroom_missing",
    "expected",
    "shortfall",
    "unserved",
    "replicas_missing",
    "below_floor",
)


@dataclass(frozen=True, slots=True)
class Room:
    """The accelerators of one class in one pool."""

    pool: str
    accelerator_class: int
    """A number; growing with the name."""
    accelerators: int
    largest_node: int
    board_limits: bool = False
    """The agents of its nodes set power limits of boards."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the profiles of the ways can run: parallel columns by profile, and the rooms by pool and class."""

    accelerator_class: Ints
    """The number of `Room`."""
    boards: Ints
    """Accelerators per replica."""
    rooms: tuple[Room, ...]
    limited: Flags
    """Whether it is one under a power limit: those follow the profile that they come from."""
    family: Ints
    """The row of that profile, or its own."""


def select(ways: Ways, where: Placement, running: tuple[int, int, int, str] | None) -> list[tuple[int, str]]:
    """(way, pool) of the ways to offer. `running`: profile, batch, replicas, pool."""
    shelves, fronts = _fronts(ways, where) if ways.profile.size else ([], [])
    if not shelves:
        return []
    known = np.array(sorted({row for front in fronts for row in front}), dtype=np.int64)
    position = {row: at for at, row in enumerate(_best_first(ways, where, known).tolist())}
    for front in fronts:
        front.sort(key=position.__getitem__)

    must: list[tuple[int, str]] = []
    if running is not None:
        profile, batch, replicas, pool = running
        mine = (pool, int(where.accelerator_class[profile]))
        for room in where.rooms:
            if (room.pool, room.accelerator_class) == mine:
                must += [(row, pool) for row in _ladder(ways, where, (profile, batch, replicas), room)]
    room, number = min(shelves, key=lambda shelf: position[fronts[shelf[1]][0]])
    best = fronts[number][0]
    setting = (int(ways.profile[best]), int(ways.batch[best]), int(ways.replicas[best]))
    must += [(row, room.pool) for row in _ladder(ways, where, setting, room)]

    chosen = dict.fromkeys(must)
    quota = max(2, (MAX_OPTIONS - len(chosen)) // len(shelves))
    offered = [_spread(front, ways.worst, quota) for front in fronts]
    for room, number in shelves:
        for row in offered[number]:
            if len(chosen) < MAX_OPTIONS:
                chosen.setdefault((row, room.pool))
    return list(chosen)


def _fronts(ways: Ways, where: Placement) -> tuple[list[tuple[Room, int]], list[list[int]]]:
    """The rooms that hold a way, each with the number of its front; and the fronts, which rooms of one size share.

    A front is what no other way in the room beats, in any order.
    """
    rows = np.flatnonzero(~_spare(ways))
    columns = [getattr(ways, name)[rows] for name in _COSTS]
    is_limited = where.limited[ways.profile[rows]]
    columns.append(is_limited.astype(np.int64))
    costs = np.stack([it for it in columns if (it != it[0]).any()] or columns[:1])
    # By class, and so that a way comes after all that beat it; of equal ones the first setting comes first.
    after = costs.sum(axis=0) * rows.size + np.arange(rows.size)
    of = where.accelerator_class[ways.profile[rows]]
    order = (of * (after.max() + 1) + after).argsort()
    rows, costs, of, is_limited = rows[order], costs.take(order, axis=1), of[order], is_limited[order]
    boards, per_replica = ways.boards[rows], where.boards[ways.profile[rows]]
    most, widest = int(boards.max()), int(per_replica.max())
    first, last = (of.searchsorted(np.arange(int(of[-1]) + 1), side).tolist() for side in ("left", "right"))
    shelves: list[tuple[Room, int]] = []
    closed = bool(is_limited.any())
    numbers: dict[tuple[int, int, int, bool], int] = {}
    inside: list[Ints] = []
    for room in where.rooms:
        at = room.accelerator_class
        size = (at, min(room.accelerators, most), min(room.largest_node, widest), closed and not room.board_limits)
        if at < len(first) and size not in numbers:
            spot = np.arange(first[at], last[at])
            numbers[size] = len(inside)
            if size[3]:
                spot = spot[~is_limited[spot]]
            inside.append(spot[(boards[spot] <= size[1]) & (per_replica[spot] <= size[2])])
        if at < len(first) and inside[numbers[size]].size:
            shelves.append((room, numbers[size]))
    if not shelves:
        return [], []
    shelf = np.arange(len(inside)).repeat([it.size for it in inside])
    spot = np.concatenate(inside)
    fronts: list[list[int]] = [[] for _ in inside]
    for at in _unbeaten(shelf, costs.take(spot, axis=1)).tolist():
        fronts[shelf[at]].append(int(rows[spot[at]]))
    return shelves, fronts


def _unbeaten(shelf: Ints, costs: Ints) -> Ints:
    """Columns of `costs` that no other of the same shelf beats or equals before it; a later one cannot beat.

    The first of each shelf beats most of the others, and is beaten by none: so again and again, until few are left to
    be compared with each other.
    """
    left = np.arange(shelf.size)
    found = []
    while left.size > _FEW:
        new = np.concatenate([[True], shelf[1:] != shelf[:-1]])
        found.append(left[new])
        first = np.flatnonzero(new)[new.cumsum() - 1]
        keep = (costs < costs.take(first, axis=1)).any(axis=0)
        left, shelf, costs = left[keep], shelf[keep], costs.compress(keep, axis=1)
    beats = shelf[:, None] == shelf
    for cost in costs:
        beats &= cost[:, None] <= cost
    beats &= ~np.tri(left.size, dtype=np.bool_)
    return np.concatenate([*found, left[~beats.any(axis=0)]])


def _spare(ways: Ways) -> Flags:
    """Larger batch limits than a count of a profile needs for the demand and its head-room: the smaller one beats them.

    A larger limit only commits more watts.
    """
    enough = np.flatnonzero((ways.unserved == 0) & (ways.headroom_missing == 0))
    spare = np.zeros(ways.profile.size, dtype=np.bool_)
    if enough.size:
        most = int(ways.replicas.max()) + 1
        setting = ways.profile[enough] * most + ways.replicas[enough]
        smallest = np.empty((int(ways.profile[-1]) + 1) * most, dtype=np.int64)
        smallest[setting[::-1]] = enough[::-1]  # the last one written stays
        spare[enough] = smallest[setting] != enough
    return spare


def _best_first(ways: Ways, where: Placement, rows: Ints) -> Ints:
    """`rows` (growing) in the planner's own order: the replicas asked for, loss, watts, head-room, no power limit; then
    the setting."""
    if rows.size < 2:
        return rows
    columns = [getattr(ways, name)[rows] for name in _LAST_TO_FIRST]
    columns.insert(_LAST_TO_FIRST.index("headroom_missing"), where.limited[ways.profile[rows]])
    return rows[np.lexsort(columns)]


def _ladder(ways: Ways, where: Placement, setting: tuple[int, int, int], room: Room) -> list[int]:
    """The setting itself, then smaller batches at the same replicas, then fewer replicas at the same batch; at last the
    same under each other power limit, and without one."""
    profile, batch, replicas = setting
    if where.boards[profile] > room.largest_node:
        return []
    steps = _steps(ways, where, setting, room) if _may_limit(where, profile, room) else []
    begin, end = where.family.searchsorted([where.family[profile], where.family[profile] + 1]).tolist()
    for other in range(begin, end):
        if other != profile and _may_limit(where, other, room):
            first, last = ways.profile.searchsorted([other, other + 1]).tolist()
            same = (ways.replicas[first:last] == replicas) & (ways.batch[first:last] <= batch)
            rows = first + np.flatnonzero(same & (ways.boards[first:last] <= room.accelerators))
            steps += rows[-1:].tolist()  # the largest batch that is no larger: ways are by batch
    return steps


def _may_limit(where: Placement, profile: int, room: Room) -> bool:
    return room.board_limits or not where.limited[profile]


def _steps(ways: Ways, where: Placement, setting: tuple[int, int, int], room: Room) -> list[int]:
    """Those that differ in batch or replicas alone."""
    profile, batch, replicas = setting
    first, last = ways.profile.searchsorted([profile, profile + 1]).tolist()
    fits = ways.boards[first:last] <= room.accelerators
    batches, counts = ways.batch[first:last], ways.replicas[first:last]
    same_batch, same_count = (batches == batch) & fits, (counts == replicas) & fits
    steps = (same_batch & same_count, same_count & (batches < batch), same_batch & (counts < replicas))
    rows = np.concatenate([_best_first(ways, where, first + np.flatnonzero(step)) for step in steps])
    found: list[int] = rows[:_MAX_LADDER].tolist()
    return found


def _spread(front: list[int], worst: Ints, quota: int) -> list[int]:
    """At most `quota` rows: the first (best), the most frugal, and even steps of worst-case watts between."""
    if len(front) <= quota:
        return front
    frugal_first = sorted(front, key=worst.__getitem__)
    steps = sorted({round(step * (len(front) - 1) / max(1, quota - 2)) for step in range(quota - 1)})
    return list(dict.fromkeys([front[0], *(frugal_first[step] for step in steps)]))
