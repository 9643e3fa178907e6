"""Accelerators while targets are assumed: a pod holds boards of the pool that its node is in now."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lowbeam.catalog.facts import Catalogue
from lowbeam.planning.boards import Boards
from lowbeam.planning.committed import Order, Target
from lowbeam.planning.plan_types import Choice, Plan
from lowbeam.planning.snapshot import Holding, Inventory, Snapshot, WorkloadState
from lowbeam.planning.transition import Transition, next_targets
from lowbeam.power.caps import Cap
from lowbeam.power.gate import PINNED as PINNED_BY_ANTI_FLAP
from lowbeam.power.gate import GateState
from lowbeam.power.ledger import ReplicaCharge, ReplicaState
from lowbeam.power.pins import Direction, MoveHistory
from lowbeam.power.tree import build_cap_tree
from lowbeam.sizing.options import Option
from tests.fakes.power_fleet import NOW, cap, needs, option, pods, views

KEY, OTHER = ("a", "chat"), ("a", "batch")
OBSERVED = cap("row-a", 50_000, pool="row-a", enforce=False)


def stand_in(pool: str, charges: list[ReplicaCharge]) -> list[ReplicaCharge]:
    return [replace(charge, pool=pool) for charge in charges]


def snapshot(boards: int, *workloads: WorkloadState, cap: Cap = OBSERVED) -> Snapshot:
    return Snapshot(Catalogue(), build_cap_tree([cap]), (Inventory("row-a", "h100", boards, 8),), workloads)


def moved(
    runs: Option,
    wants: Option,
    charges: list[ReplicaCharge],
    boards: int,
    *,
    dimmed_by: str = "",
    gate: GateState | None = None,
    cap: Cap = OBSERVED,
    pinned_below: Option | None = None,
) -> Transition:
    seen = snapshot(boards, WorkloadState(needs(KEY), runs), cap=cap)
    choice = Choice(*KEY, wants, "r", "m", binding_cap=dimmed_by)
    if pinned_below is not None:
        choice = replace(choice, binding_cap="", desired=pinned_below, pinned=True)
    return next_targets(
        seen,
        Plan((choice,)),
        targets={KEY: Target(runs, dimmed_by=dimmed_by)},
        charges=charges,
        views=views(seen.caps),
        gate=gate or GateState(),
        now_ms=NOW,
    )


@pytest.mark.parametrize(("boards", "order"), [(8, Order.ROLLING), (12, Order.MAKE_BEFORE_BREAK)])
def test_a_new_pool_of_nodes_in_use_has_only_the_boards_that_its_pods_leave(boards: int, order: Order) -> None:
    before, after = option(6), option(6, pool="row-a")
    (step,) = moved(before, after, stand_in("row-a", pods(KEY, before)), boards).steps
    assert step.order is order


ENFORCED = replace(OBSERVED, enforce=True)
PINNED = GateState(workloads={KEY: MoveHistory(Direction.DOWN, pinned_until_ms=NOW + 600_000)})


def test_a_workload_follows_the_pool_of_its_nodes_and_no_gate_is_asked() -> None:
    before, after = option(6), option(6, pool="row-a")
    there = stand_in("row-a", pods(KEY, before))
    followed = moved(before, after, there, 8, dimmed_by="row-a", gate=PINNED, cap=ENFORCED)
    assert [(step.after, step.cap) for step in followed.steps] == [(after, "")]
    assert followed.targets[KEY].dimmed_by == "row-a"
    assert followed.gate.workloads == PINNED.workloads, "neither down nor up"


@pytest.mark.parametrize("cap", [OBSERVED, ENFORCED])
def test_a_pinned_workload_that_follows_its_nodes_is_still_dimmed(cap: Cap) -> None:
    before = replace(option(6), unserved_millirps=1000)
    after, there = replace(before, pool="row-a"), stand_in("row-a", pods(KEY, before))
    result = moved(
        before, after, there, 8, dimmed_by="cluster", gate=PINNED, cap=cap, pinned_below=option(8, pool="row-a")
    )
    assert (result.targets[KEY].option, result.targets[KEY].dimmed_by) == (after, "cluster")
    assert result.held[KEY].reason == PINNED_BY_ANTI_FLAP


@pytest.mark.parametrize("wants", [7, 6])
def test_more_of_it_or_other_nodes_wait_for_the_gate(wants: int) -> None:
    before, after = option(6), option(wants, pool="row-a")
    elsewhere = pods(KEY, before, 6) if wants == 6 else stand_in("row-a", pods(KEY, before))
    waits = moved(before, after, elsewhere, 20, dimmed_by="row-a", gate=PINNED, cap=ENFORCED)
    assert waits.held[KEY].reason == PINNED_BY_ANTI_FLAP
    assert waits.targets[KEY].option == before


def test_what_others_run_counts_where_it_stands_and_what_has_no_node_yet_where_it_goes() -> None:
    old, new = option(4), option(4, pool="row-a")
    charges = stand_in("row-a", pods(OTHER, old, 2)) + pods(OTHER, old, 1, ReplicaState.PENDING)
    seen = snapshot(6, *(WorkloadState(needs(key), old) for key in (KEY, OTHER)))
    boards = Boards(seen, {OTHER: Target(old)}, charges)
    assert not boards.short_of(KEY, new)
    assert boards.short_of(KEY, option(5, pool="row-a"))
    boards.assume(OTHER, replace(old, replicas=1))
    assert not boards.short_of(KEY, option(5, pool="row-a"))
    boards.assume(OTHER, new)
    assert boards.short_of(KEY, option(3, pool="row-a"))


@pytest.mark.parametrize(("back", "short"), [("", False), ("a-third", True)])
def test_pods_that_an_unfinished_replacement_left_still_hold_their_boards(back: str, short: bool) -> None:
    first, second = option(4, pool="row-a"), option(4, pool="row-a", model="m4")
    third = replace(first, model=back or first.model)
    held = (Holding("row-a", "h100", 4, 0), Holding("row-a", "h100", 4, 0))
    seen = snapshot(8, WorkloadState(needs(KEY), second, pods=held))
    boards = Boards(seen, {KEY: Target(second)}, pods(KEY, first) + pods(KEY, second))
    assert boards.short_of(KEY, third) is short
