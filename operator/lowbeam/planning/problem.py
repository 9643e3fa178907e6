"""The planning problem as arrays: one column per (workload, option) or (workload, nothing), one row per limit.

Decides nothing. Rows are the enforced caps (worst-case milliwatts of what they cover) and the inventory of each class
and pool (accelerators). All numbers are integers.

Invariant: columns are in canonical order: workloads by (namespace, name), options by id, "nothing" last. Ties are
broken by this order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lowbeam.power.caps import CapTree
from lowbeam.sizing.inventory import Inventory
from lowbeam.sizing.options import Option
from lowbeam.sizing.requirements import Requirements
from lowbeam.sizing.ways import HEADROOM_PERCENT

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

STAY_PERCENT = 95
"""Hysteresis: what runs (at any batch limit, which changes in place) is rated at 95 % of its watts, so that anything
else must save 5 % to replace it. Loss is never discounted: what serves more, or better, replaces it at once."""


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
    inventory: tuple[Inventory, ...]
    limits: Ints
    _shelf: dict[tuple[str, str], int] = field(default_factory=dict)
    _covers: dict[tuple[str, str], tuple[int, ...]] = field(default_factory=dict)

    def usage(self, namespace: str, option: Option) -> list[tuple[int, int]]:
        """(row, amount) of one option."""
        where = (namespace, option.pool)
        covering = self._covers.get(where)
        if covering is None:
            by_name = {cap.name: cap for cap in self.tree.caps}
            covering = tuple(i for i, name in enumerate(self.caps) if by_name[name].covers(namespace, option.pool))
            self._covers[where] = covering
        used = [(row, option.worst_case_milliwatts) for row in covering]
        shelf = self._shelf.get((option.pool, option.accelerator_class))
        if shelf is not None:
            used.append((shelf, option.accelerators))
        return used


def rows_of(
    tree: CapTree,
    inventory: Sequence[Inventory],
    *,
    reserved_milliwatts: Mapping[str, int] | None = None,
    with_caps: bool = True,
) -> Rows:
    """Rows of the caps that enforce, and of the inventory; rows of one (pool, class) are added up.

    `reserved_milliwatts` per cap is taken by pods that are not planned and is not there for those that are.
    """
    taken = reserved_milliwatts or {}
    caps = [(cap, max(0, usable - taken.get(cap.name, 0))) for cap, usable in tree.enforced()] if with_caps else []
    amounts: dict[tuple[str, str], Inventory] = {}
    for row in sorted(inventory, key=lambda r: (r.pool, r.accelerator_class)):
        key = (row.pool, row.accelerator_class)
        have = amounts.get(key)
        amounts[key] = (
            row
            if have is None
            else Inventory(
                row.pool,
                row.accelerator_class,
                have.accelerators + row.accelerators,
                max(have.largest_node, row.largest_node),
            )
        )
    stock = tuple(amounts.values())
    return Rows(
        caps=tuple(cap.name for cap, _ in caps),
        tree=tree,
        inventory=stock,
        limits=np.array([u for _, u in caps] + [r.accelerators for r in stock], dtype=np.int64),
        _shelf={key: len(caps) + i for i, key in enumerate(amounts)},
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
    """Rank among the columns of the workload: head-room, worst case, id."""
    usage: Ints
    """rows x columns."""
    start: Ints
    """First column of each entry, and the number of columns at the end."""

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
    owner: list[int] = []
    option: list[Option | None] = []
    figures: list[tuple[int, int, int, int, int, int]] = []
    cells: list[tuple[int, int, int]] = []
    start = [0]
    for index, entry in enumerate(entries):
        demand = entry.needs.demand.requests_per_second_milli
        target = demand * HEADROOM_PERCENT // 100
        running = None if entry.running is None else entry.running.setting
        for it in entry.options:
            # A batch limit changes in place: only another placement or count is a switch that must pay for itself.
            stays = running is not None and (it.placement_key, it.replicas) == (running[0], running[2])
            headroom_missing = max(0, target - it.capacity_millirps)
            cells += [(row, len(option), amount) for row, amount in rows.usage(entry.needs.namespace, it)]
            owner.append(index)
            option.append(it)
            figures.append(
                (
                    0,
                    it.unserved_millirps,
                    it.quality_shortfall_centi,
                    it.expected_milliwatts * (STAY_PERCENT if stays else 100),
                    0 if it.setting == running and not headroom_missing else 1 + headroom_missing,
                    it.worst_case_milliwatts,
                )
            )
        rests = entry.may_rest or not entry.options
        owner.append(index)
        option.append(None)
        # Nothing counts a thousandth of a request more than serving nobody: an idle workload is not paused for free.
        figures.append((0, 0, 0, 0, 0, 0) if rests else (1, demand + 1, entry.needs.target_centi, 0, 0, 0))
        start.append(len(option))
    table = np.array(figures, dtype=np.int64).reshape(-1, 6)
    owners = np.array(owner, dtype=np.int64)
    usage = np.zeros((rows.limits.size, len(option)), dtype=np.int64)
    for row, column, amount in cells:
        usage[row, column] = amount
    order = np.lexsort((table[:, 5], table[:, 4], owners))  # stable: equal ones stay in id order
    tie = np.empty(len(option), dtype=np.int64)
    tie[order] = np.arange(len(option)) - np.array(start, dtype=np.int64)[owners[order]]
    return Problem(
        entries=tuple(entries),
        rows=rows,
        owner=owners,
        option=option,
        paused=table[:, 0],
        unserved=table[:, 1],
        shortfall=table[:, 2],
        cost=table[:, 3],
        tie=tie,
        usage=usage,
        start=np.array(start, dtype=np.int64),
    )
