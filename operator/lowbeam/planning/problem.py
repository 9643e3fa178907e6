"""The planning problem as arrays: one column per (workload, option) or (workload, nothing), one row per limit.

Decides nothing. Rows are the enforced caps (worst-case milliwatts of what they cover) and the inventory of each class
and pool (accelerators). All numbers are integers.

Invariant: columns are in canonical order: workloads by (namespace, name), options by id, "nothing" last. Ties are
broken by this order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from lowbeam.planning.snapshot import Snapshot
from lowbeam.power.caps import CapTree
from lowbeam.sizing.options import Option
from lowbeam.sizing.requirements import Requirements
from lowbeam.sizing.ways import HEADROOM_PERCENT

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

STAY_PERCENT = 95
"""Hysteresis: what runs (at any batch limit, where the engine changes it in place) is rated at 95 % of its watts, so
that anything else, another power limit among it, must save 5 % to replace it. Loss is never discounted: what serves
more, or better, replaces it at once."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One workload with the options that it may get."""

    needs: Requirements
    options: tuple[Option, ...]
    """In id order."""
    running: Option | None = None
    may_rest: bool = False
    """True: nothing is an answer as good as any (held without an option, scaled to zero)."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The limits: caps by name first, then inventory; `limits` in milliwatts and accelerators."""

    caps: tuple[str, ...]
    tree: CapTree
    limits: Ints
    _shelf: dict[tuple[str, str], int] = field(default_factory=dict)
    _covers: dict[tuple[str, str], tuple[int, ...]] = field(default_factory=dict)

    def covering(self, namespace: str, pool: str) -> tuple[int, ...]:
        """Rows of the caps over a workload of this namespace in this pool."""
        found = self._covers.get((namespace, pool))
        if found is None:
            by_name = {cap.name: cap for cap in self.tree.caps}
            found = tuple(i for i, name in enumerate(self.caps) if by_name[name].covers(namespace, pool))
            self._covers[namespace, pool] = found
        return found

    def shelf(self, pool: str, accelerator_class: str) -> int | None:
        """Row of the inventory of a class in a pool."""
        return self._shelf.get((pool, accelerator_class))

    def usage(self, namespace: str, option: Option) -> list[tuple[int, int]]:
        """(row, amount) of one option."""
        used = [(row, option.worst_case_milliwatts) for row in self.covering(namespace, option.pool)]
        shelf = self.shelf(option.pool, option.accelerator_class)
        if shelf is not None:
            used.append((shelf, option.accelerators))
        return used


def rows_of(snapshot: Snapshot, *, with_caps: bool = True) -> Rows:
    """Rows of the caps that enforce, and of the inventory of each (pool, class), less what is reserved."""
    tree, taken = snapshot.caps, snapshot.reserved_milliwatts
    caps = [(cap, max(0, usable - taken.get(cap.name, 0))) for cap, usable in tree.enforced()] if with_caps else []
    boards: Counter[tuple[str, str]] = Counter()
    for row in snapshot.inventory:
        boards[row.pool, row.accelerator_class] += row.accelerators
    shelves = sorted(boards)
    left = [max(0, boards[shelf] - snapshot.reserved_accelerators.get(shelf, 0)) for shelf in shelves]
    return Rows(
        caps=tuple(cap.name for cap, _ in caps),
        tree=tree,
        limits=np.array([*(usable for _, usable in caps), *left], dtype=np.int64),
        _shelf={shelf: len(caps) + i for i, shelf in enumerate(shelves)},
    )


@dataclass(slots=True)
class Problem:
    """Columns and rows. `choice` arrays index columns, one per entry."""

    entries: tuple[Entry, ...]
    rows: Rows
    owner: Ints
    option: list[Option | None]
    paused: Ints
    """1 for "nothing" where something should run."""
    unserved: Ints
    shortfall: Ints
    cost: Ints
    """Expected milliwatts x 100, of what runs x STAY_PERCENT."""
    tie: Ints
    """Rank among the columns of the workload: head-room, no power limit, worst case, id."""
    usage: Ints
    """rows x columns."""
    start: Ints
    """First column of each entry, and the number of columns at the end."""
    running: Ints
    """Per entry the column that changes nothing, or that of nothing."""

    def columns_of(self, entry: int) -> slice:
        """Columns of one entry."""
        return slice(int(self.start[entry]), int(self.start[entry + 1]))

    def fits(self, choice: Ints) -> bool:
        """Whether the columns together respect every row."""
        return bool((self.usage[:, choice].sum(axis=1) <= self.rows.limits).all())

    def best_alone(self, allowed: Flags | None = None) -> Ints:
        """Each workload's own best column, as if it were alone."""
        order = np.lexsort((self.tie, self.cost, self.shortfall, self.unserved, self.paused))
        if allowed is not None:
            order = order[allowed[order]]
        first = np.full(len(self.entries), -1, dtype=np.int64)
        first[self.owner[order][::-1]] = order[::-1]
        return first


def build(entries: Sequence[Entry], rows: Rows) -> Problem:
    """Lay out columns; every workload may also get nothing, at the price of its whole demand."""
    counts = np.array([len(entry.options) + 1 for entry in entries], dtype=np.int64)
    start = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts)])
    owner = np.repeat(np.arange(len(entries)), counts)
    option: list[Option | None] = [it for entry in entries for it in (*entry.options, None)]
    nothing = start[1:] - 1
    something = np.ones(len(option), dtype=np.bool_)
    something[nothing] = False
    columns = np.flatnonzero(something)
    offered = [it for entry in entries for it in entry.options]

    def figure(of: Callable[[Option], int]) -> Ints:
        return np.fromiter(map(of, offered), dtype=np.int64, count=len(offered))

    demand = np.array([entry.needs.demand.requests_per_second_milli for entry in entries], dtype=np.int64)
    rests = np.array([entry.may_rest or not entry.options for entry in entries], dtype=np.bool_)
    target = np.array([entry.needs.target_centi for entry in entries], dtype=np.int64)
    worst = figure(attrgetter("worst_case_milliwatts"))
    missing = np.maximum(
        0, (demand * HEADROOM_PERCENT // 100)[owner[columns]] - figure(attrgetter("capacity_millirps"))
    )
    stays, same = _as_running(entries, start)
    cost = np.zeros(len(option), dtype=np.int64)
    cost[columns] = figure(attrgetter("expected_milliwatts")) * 100
    cost[stays] = cost[stays] // 100 * STAY_PERCENT
    less = np.zeros(len(option), dtype=np.int64)
    less[columns] = 1 + missing
    less[same] = np.where(less[same] == 1, 0, less[same])
    unserved, shortfall, paused = (np.zeros(len(option), dtype=np.int64) for _ in range(3))
    unserved[columns] = figure(attrgetter("unserved_millirps"))
    shortfall[columns] = figure(attrgetter("quality_shortfall_centi"))
    # Nothing counts a thousandth of a request more than serving nobody: an idle workload is not paused for free.
    paused[nothing] = ~rests
    unserved[nothing] = np.where(rests, 0, demand + 1)
    shortfall[nothing] = np.where(rests, 0, target)
    charged = np.zeros(len(option), dtype=np.int64)
    charged[columns] = worst
    limited = np.zeros(len(option), dtype=np.bool_)
    limited[columns] = figure(attrgetter("board_limit_watts")) > 0
    order = np.lexsort((charged, limited, less, owner))  # stable: equal ones stay in id order
    tie = np.empty(len(option), dtype=np.int64)
    tie[order] = np.arange(len(option)) - start[owner[order]]
    return Problem(
        entries=tuple(entries),
        rows=rows,
        owner=owner,
        option=option,
        paused=paused,
        unserved=unserved,
        shortfall=shortfall,
        cost=cost,
        tie=tie,
        usage=_usage(entries, rows, columns, len(option), worst),
        start=start,
        running=_running(owner, nothing, same),
    )


def _running(owner: Ints, nothing: Ints, same: Ints) -> Ints:
    columns = nothing.copy()
    columns[owner[same]] = same
    return columns


def _as_running(entries: Sequence[Entry], start: Ints) -> tuple[Ints, Ints]:
    """Columns in which a workload stays where it runs, and those that change nothing at all.

    A batch limit changes in place and costs no watts at the same load: only another placement, count or power limit is
    a switch that must pay for itself. Without that, limits would come and go with every small change of the load.
    """
    stays: list[int] = []
    same: list[int] = []
    for first, entry in zip(start.tolist(), entries, strict=False):
        running = entry.running
        if running is None:
            continue
        for column, it in enumerate(entry.options, first):
            alike = it.replicas == running.replicas and it.board_limit_watts == running.board_limit_watts
            if alike and it.placement_key == running.placement_key:
                stays.append(column)
                if it.batch_limit == running.batch_limit:
                    same.append(column)
    return np.array(stays, dtype=np.int64), np.array(same, dtype=np.int64)


def _usage(entries: Sequence[Entry], rows: Rows, columns: Ints, width: int, worst: Ints) -> Ints:
    """rows x columns: watts of the caps over each option, accelerators of its shelf."""
    usage = np.zeros((rows.limits.size, width), dtype=np.int64)
    places: dict[tuple[str, str, str], int] = {}
    place = np.fromiter(
        (
            places.setdefault((entry.needs.namespace, it.pool, it.accelerator_class), len(places))
            for entry in entries
            for it in entry.options
        ),
        dtype=np.int64,
        count=columns.size,
    )
    boards = np.fromiter(
        (it.accelerators for entry in entries for it in entry.options), dtype=np.int64, count=columns.size
    )
    ordered = np.argsort(place, kind="stable")
    ends = np.searchsorted(place[ordered], np.arange(len(places) + 1))
    for (namespace, pool, name), number in places.items():
        mine = ordered[ends[number] : ends[number + 1]]
        for row in rows.covering(namespace, pool):
            usage[row, columns[mine]] = worst[mine]
        shelf = rows.shelf(pool, name)
        if shelf is not None:
            usage[shelf, columns[mine]] = boards[mine]
    return usage
