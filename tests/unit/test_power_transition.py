"""From the running targets to the plan: what moves now, in which order, and what waits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lowbeam.catalog.facts import Catalogue
from lowbeam.planning.committed import Order, Target, committed_milliwatts, decided_milliwatts
from lowbeam.planning.moves import move_between
from lowbeam.planning.plan_types import Choice, Plan
from lowbeam.planning.promises import promises_of, taken_back_by
from lowbeam.planning.shed import Shed
from lowbeam.planning.snapshot import Inventory, Snapshot, WorkloadState
from lowbeam.planning.transition import (
    Transition,
    next_targets,
    orders_of,
    shed_targets,
)
from lowbeam.power.caps import CapTree
from lowbeam.power.gate import CapView, GateState
from lowbeam.power.ledger import Reading, ReplicaCharge, ReplicaState
from lowbeam.power.pins import Direction, MoveHistory
from lowbeam.power.progress import Promise
from lowbeam.power.tree import build_cap_tree
from lowbeam.power.watch import WatchState, watch
from lowbeam.sizing.options import Option
from tests.fakes.power_fleet import NOW, cap, needs, option, pods, views

KEY = ("a", "chat")
OTHER = ("a", "batch")


def move(
    tree: CapTree,
    choices: dict[tuple[str, str], Option | None],
    targets: dict[tuple[str, str], Target],
    charges: list[ReplicaCharge],
    *,
    binding: str = "",
    gate: GateState | None = None,
    seen: dict[str, CapView] | None = None,
    boards: int = 100,
    priorities: dict[tuple[str, str], int] | None = None,
    reserved: int = 0,
) -> Transition:
    inventory = tuple(Inventory(pool, "h100", boards, 8) for pool in ("", "row-a", "row-b"))
    keys = {*choices, *targets}
    workloads = tuple(WorkloadState(needs(k, (priorities or {}).get(k, 500))) for k in sorted(keys))
    snapshot = Snapshot(Catalogue(), tree, inventory, workloads)
    plan = Plan(
        tuple(Choice(*k, o, "r", "m", binding_cap=binding) for k, o in sorted(choices.items())),
        cap_milliwatts={
            c.name: sum(o.worst_case_milliwatts for k, o in choices.items() if o and c.covers(k[0], o.pool))
            for c in tree.caps
        },
        reserved_milliwatts={c.name: reserved for c in tree.caps},
    )
    return next_targets(
        snapshot,
        plan,
        targets=targets,
        charges=charges,
        views=views(tree) if seen is None else seen,
        gate=gate or GateState(),
        now_ms=NOW,
    )


TREE = build_cap_tree([cap()])


def test_a_first_placement_is_admitted_and_charged_before_it_is_written() -> None:
    result = move(TREE, {KEY: option(4)}, {}, [])
    assert [s.after for s in result.steps] == [option(4)]
    assert result.committed_milliwatts == {"cluster": 400_000}
    again = move(TREE, {KEY: option(4), OTHER: option(7)}, result.targets, [])
    assert again.held[OTHER].reason == "NoHeadroom"


def test_what_does_not_fit_waits_until_the_pods_that_hold_its_watts_are_gone() -> None:
    leaving = pods(OTHER, option(7), state=ReplicaState.TERMINATING)
    held = move(TREE, {KEY: option(4), OTHER: None}, {}, leaving)
    assert held.held[KEY].reason == "NoHeadroom"
    assert "has not the 400 W free that are needed" in held.held[KEY].message
    assert move(TREE, {KEY: option(4), OTHER: None}, {}, []).held == {}


def test_a_smaller_cap_moves_down_at_once_and_is_remembered_as_a_shed() -> None:
    tree = build_cap_tree([cap(watts=500)])
    targets = {KEY: Target(option(8))}
    result = move(tree, {KEY: option(4)}, targets, pods(KEY, option(8)), binding="cluster")
    (step,) = result.steps
    assert (step.direction, step.order, step.cap) == (Direction.DOWN, Order.IN_PLACE, "cluster")
    assert result.targets[KEY].dimmed_by == "cluster"
    assert result.targets[KEY].dimmed_since_ms == NOW
    assert result.gate.caps["cluster"].last_shed_ms == NOW
    assert result.committed_milliwatts == {"cluster": 800_000}, "credited when the pods are gone, not before"
    assert result.shed_caps == {"cluster"}


def test_what_is_set_aside_for_others_makes_a_shed_like_a_smaller_cap() -> None:
    targets = {KEY: Target(option(8))}
    result = move(TREE, {KEY: option(4)}, targets, pods(KEY, option(8)), binding="cluster", reserved=300_000)
    assert result.steps[0].cap == "cluster"
    assert result.gate.caps["cluster"].last_shed_ms == NOW


def test_fewer_replicas_because_the_load_fell_are_no_shed() -> None:
    targets = {KEY: Target(option(8), dimmed_by="cluster", dimmed_since_ms=5)}
    result = move(TREE, {KEY: option(4)}, targets, pods(KEY, option(8)), binding="cluster")
    assert result.targets[KEY].option == option(4)
    assert result.gate.caps == {}
    assert result.targets[KEY].dimmed_since_ms == 5


def test_moves_that_no_cap_asked_for_put_no_shed_off() -> None:
    """104 % of usable for a minute, while workloads of the fleet follow their load at every tick."""
    tree, state, acted = build_cap_tree([cap(watts=1000)]), WatchState(), 0
    for second in range(0, 60, 2):
        now_ms = second * 1000
        seen = watch(tree, [Reading("a", "x", "", "p", 1, 1_040_000, now_ms, 2_000_000)], {}, state, now_ms)
        acted += seen.assessments["cluster"].act
        fewer, more = (second // 2 % 2, 1 - second // 2 % 2)
        made = move(TREE, {KEY: option(1 + fewer)}, {KEY: Target(option(1 + more))}, pods(KEY, option(1 + more)))
        assert len(made.steps) == 1
        state = seen.state.acted(made.shed_caps, (), now_ms)
    assert acted > 20


def test_a_dimmed_workload_returns_only_through_the_gate() -> None:
    targets = {KEY: Target(option(2), dimmed_by="cluster", dimmed_since_ms=5)}
    gate = GateState().shed(KEY, "cluster", NOW - 10_000)
    assert move(TREE, {KEY: option(4)}, targets, pods(KEY, option(2)), gate=gate).held[KEY].reason == "DwellTime"
    gate = GateState().shed(KEY, "cluster", NOW - 130_000)
    result = move(TREE, {KEY: option(4)}, targets, pods(KEY, option(2)), gate=gate)
    assert result.targets[KEY] == Target(option(4))
    assert result.gate.caps["cluster"].last_step_ms == NOW


def test_an_undimmed_workload_grows_with_its_load_without_the_gate() -> None:
    gate = GateState().shed(OTHER, "cluster", NOW - 10_000)
    result = move(TREE, {KEY: option(9)}, {KEY: Target(option(2))}, pods(KEY, option(2)), gate=gate)
    assert result.targets[KEY].option == option(9)


def test_growth_is_frozen_while_a_cap_sheds_or_cannot_see() -> None:
    result = move(TREE, {KEY: option(4)}, {KEY: Target(option(2))}, [], seen=views(TREE, growth=False))
    assert result.held[KEY].reason == "GrowthFrozen"


def test_one_restore_at_a_time_and_the_most_important_first() -> None:
    targets = {k: Target(option(2), dimmed_by="cluster", dimmed_since_ms=5) for k in (KEY, OTHER)}
    charges = [*pods(KEY, option(2)), *pods(OTHER, option(2))]
    result = move(TREE, {KEY: option(3), OTHER: option(3)}, targets, charges, priorities={KEY: 900, OTHER: 100})
    assert [s.key for s in result.steps] == [KEY]
    assert result.held[OTHER].reason == "StepTime"


def test_workloads_dimmed_by_a_deleted_cap_return_one_at_a_time() -> None:
    targets = {k: Target(option(2), dimmed_by="gone", dimmed_since_ms=5) for k in (KEY, OTHER)}
    charges = [*pods(KEY, option(2)), *pods(OTHER, option(2))]
    result = move(TREE, {KEY: option(3), OTHER: option(3)}, targets, charges)
    assert len(result.steps) == 1
    assert [h.reason for h in result.held.values()] == ["StepTime"]


def test_another_model_is_made_before_the_old_one_goes_when_both_fit() -> None:
    small = option(2, model="m4", each_watts=80)
    result = move(TREE, {KEY: small}, {KEY: Target(option(4))}, pods(KEY, option(4)))
    assert result.steps[0].order is Order.MAKE_BEFORE_BREAK
    assert result.committed_milliwatts == {"cluster": 560_000}


def test_another_model_waits_for_the_old_one_to_go_when_both_do_not_fit() -> None:
    small = option(1, model="m4", each_watts=320)
    result = move(TREE, {KEY: small}, {KEY: Target(option(8))}, pods(KEY, option(8)))
    assert result.steps[0].order is Order.BREAK_BEFORE_MAKE
    assert result.committed_milliwatts == {"cluster": 800_000}, "the larger of both is charged, not the sum"


@pytest.mark.parametrize(("admitted", "order"), [(1000, Order.MAKE_BEFORE_BREAK), (300, Order.BREAK_BEFORE_MAKE)])
def test_ahead_of_a_cut_another_model_is_made_first_as_long_as_both_are_gone_through_in_time(
    admitted: int, order: Order
) -> None:
    tree = build_cap_tree([cap(watts=1000, planned_watts=300, admitted_watts=admitted)])
    small = option(2, model="m4", each_watts=80)
    result = move(tree, {KEY: small}, {KEY: Target(option(4))}, pods(KEY, option(4)), binding="cluster")
    assert result.steps[0].order is order
    assert result.steps[0].cap == "cluster", "the cut that comes asked for it"
    assert result.shed_caps == {"cluster"}


def test_another_model_waits_when_there_are_no_boards_for_both() -> None:
    small = option(1, model="m4", each_watts=160)
    result = move(TREE, {KEY: small}, {KEY: Target(option(4))}, pods(KEY, option(4)), boards=4)
    assert result.steps[0].order is Order.BREAK_BEFORE_MAKE


def test_a_cap_that_is_over_waits_for_the_old_pods_wherever_the_new_ones_go() -> None:
    tree = build_cap_tree([cap(), cap("row-a", 300, pool="row-a"), cap("row-b", 900, pool="row-b")])
    old, new = option(4, pool="row-a"), option(4, pool="row-b")
    result = move(tree, {KEY: new}, {KEY: Target(old)}, pods(KEY, old))
    assert result.steps[0].order is Order.BREAK_BEFORE_MAKE


def test_a_higher_batch_limit_is_charged_at_once_and_a_lower_one_when_confirmed() -> None:
    low, high = option(2, batch=8), option(2, batch=64, each_watts=200)
    up = move(TREE, {KEY: high}, {KEY: Target(low)}, pods(KEY, low))
    assert up.committed_milliwatts == {"cluster": 400_000}
    down = move(TREE, {KEY: low}, {KEY: Target(high)}, pods(KEY, high))
    assert down.committed_milliwatts == {"cluster": 400_000}
    assert down.steps[0].move.hot


def test_the_same_setting_at_another_demand_is_no_step_and_takes_the_new_figures() -> None:
    today = replace(option(2), expected_milliwatts=1)
    result = move(TREE, {KEY: today}, {KEY: Target(option(2))}, pods(KEY, option(2)))
    assert result.steps == ()
    assert result.targets[KEY].option == today


def test_a_workload_that_is_gone_is_forgotten_but_its_pods_stay_charged() -> None:
    result = move(
        TREE, {KEY: option(1)}, {KEY: Target(option(1))}, [*pods(KEY, option(1)), *pods(("a", "gone"), option(3))]
    )
    assert set(result.targets) == {KEY}
    assert result.committed_milliwatts == {"cluster": 400_000}


def test_a_workload_without_a_choice_keeps_its_target() -> None:
    result = move(TREE, {}, {KEY: Target(option(2))}, pods(KEY, option(2)))
    assert result.targets == {KEY: Target(option(2))}


def test_an_observing_cap_holds_nothing_back() -> None:
    tree = build_cap_tree([cap(watts=1, enforce=False)])
    result = move(tree, {KEY: option(4)}, {}, [], seen=views(tree, growth=False, needs_milliwatts=1))
    assert result.targets[KEY].option == option(4)


@pytest.mark.parametrize("wants_more", [True, False])
def test_what_a_pin_keeps_is_dimmed_while_it_gets_less_than_it_asks_for(wants_more: bool) -> None:
    runs = replace(option(2), unserved_millirps=1000 if wants_more else 0)
    choice = Choice(*KEY, runs, "r", "m", desired=option(4 if wants_more else 1), pinned=True)
    result = next_targets(
        Snapshot(Catalogue(), TREE, (), (WorkloadState(needs(KEY), runs, held=True),)),
        Plan((choice,)),
        targets={KEY: Target(runs, dimmed_by="cluster", dimmed_since_ms=5)},
        charges=pods(KEY, runs),
        views=views(TREE),
        gate=GateState(workloads={KEY: MoveHistory(Direction.DOWN, pinned_until_ms=NOW + 90_000)}),
        now_ms=NOW,
    )
    assert result.targets[KEY].dimmed_by == ("cluster" if wants_more else "")
    assert (result.held[KEY].reason, result.held[KEY].retry_at_ms) == ("PinnedByAntiFlap", NOW + 90_000)
    assert "stays as it is for 2 min" in result.held[KEY].message


def shed(after: Option | None, by: str = "cluster") -> Shed:
    return Shed(*KEY, option=after, cap=by, move=move_between(option(4), after), freed_milliwatts=0)


def test_a_shed_of_the_guard_happens_at_once_and_comes_back_only_through_the_gate() -> None:
    targets = {KEY: Target(option(4))}
    snapshot = Snapshot(Catalogue(), TREE, (Inventory("", "h100", 10, 8),), (WorkloadState(needs(KEY)),))
    result = shed_targets(
        snapshot,
        [shed(option(2))],
        targets=targets,
        charges=pods(KEY, option(4)),
        views=views(TREE, growth=False),
        gate=GateState(),
        now_ms=NOW,
    )
    assert result.targets[KEY] == Target(option(2), dimmed_by="cluster", dimmed_since_ms=NOW)
    back = move(TREE, {KEY: option(4)}, result.targets, pods(KEY, option(2)), gate=result.gate)
    assert back.held[KEY].reason == "DwellTime"


def test_a_step_promises_what_it_should_free_where_it_leaves() -> None:
    tree = build_cap_tree([cap(), cap("row-a", 900, pool="row-a"), cap("row-b", 900, pool="row-b")])
    old, new = option(4, pool="row-a"), option(4, pool="row-b")
    steps = move(tree, {KEY: new}, {KEY: Target(old)}, pods(KEY, old)).steps
    (promise,) = promises_of(steps, {(*KEY, "row-a"): 350_000}, NOW)
    assert (promise.pool, promise.predicted_milliwatts, promise.baseline_milliwatts) == ("row-a", 350_000, 350_000)


def test_growth_promises_nothing() -> None:
    steps = move(TREE, {KEY: option(4)}, {KEY: Target(option(2))}, pods(KEY, option(2))).steps
    assert promises_of(steps, {(*KEY, ""): 180_000}, NOW) == ()


def _promised_then(before: Option, after: Option, tree: CapTree) -> tuple[WatchState, Transition]:
    """The memory after a step down from `before` to `after`, 10 s before NOW."""
    down = move(tree, {KEY: after}, {KEY: Target(before)}, pods(KEY, before))
    drawn = {(*KEY, before.pool): before.expected_milliwatts}
    state = WatchState().acted(down.shed_caps, promises_of(down.steps, drawn, NOW - 10_000), NOW - 10_000)
    assert len(state.promises) == 1
    return state, down


def _adopted(state: WatchState, made: Transition, drawn: dict[tuple[str, str, str], int]) -> WatchState:
    promises = promises_of(made.steps, drawn, NOW)
    return state.acted(made.shed_caps, promises, NOW, taken_back=taken_back_by(made.steps))


def test_a_move_that_is_taken_back_is_neither_counted_as_gone_nor_blamed_on_the_worker() -> None:
    large, small = option(8), option(2, model="m1")
    state, down = _promised_then(large, small, TREE)
    back = move(TREE, {KEY: large}, down.targets, pods(KEY, large))
    state = _adopted(state, back, {(*KEY, ""): 720_000})
    cut = build_cap_tree([cap(watts=600)])
    blamed = list[Promise]()
    for now_ms in range(NOW + 2_000, NOW + 202_000, 2_000):
        seen = watch(cut, [Reading(*KEY, "", "p", 8, 720_000, now_ms, 800_000)], {"cluster": 800_000}, state, now_ms)
        state, blamed = seen.state, [*blamed, *seen.ineffective]
        assert now_ms > NOW + 2_000 or seen.assessments["cluster"].act, "120 % of the cap are drawn"
    assert blamed == []


def test_a_further_move_down_or_into_another_pool_takes_nothing_back() -> None:
    tree = build_cap_tree([cap(watts=2000), cap("row-a", 900, pool="row-a"), cap("row-b", 900, pool="row-b")])
    state, down = _promised_then(option(8, pool="row-a"), option(4, pool="row-a"), tree)
    for after, more in ((option(2, pool="row-a"), {"row-a"}), (option(5, pool="row-b"), {"row-a"})):
        made = move(tree, {KEY: after}, down.targets, pods(KEY, option(4, pool="row-a")))
        left = _adopted(state, made, {(*KEY, "row-a"): 500_000}).promises
        assert len(left) == 2
        assert {promise.pool for promise in left} == more
    other = move(tree, {OTHER: option(1, pool="row-a")}, {OTHER: Target()}, [])
    assert _adopted(state, other, {}).promises == state.promises


def test_no_urgent_cap_means_no_orders() -> None:
    assert orders_of([]) == ()


def test_the_ledger_of_decisions_is_the_plan_once_everything_else_is_gone() -> None:
    targets = {KEY: Target(option(3)), OTHER: Target(None)}
    assert decided_milliwatts(TREE, targets) == {"cluster": 300_000}
    assert committed_milliwatts(TREE, targets, pods(OTHER, option(2))) == {"cluster": 500_000}


def test_fewer_replicas_with_a_higher_batch_limit_are_never_charged_as_both() -> None:
    wide, deep = option(3, batch=8), option(1, batch=64, each_watts=200)
    result = move(TREE, {KEY: deep}, {KEY: Target(wide)}, pods(KEY, wide))
    assert result.committed_milliwatts == {"cluster": 300_000}
    ending = [*pods(KEY, wide, 1), *pods(KEY, wide, 2, ReplicaState.TERMINATING)]
    assert committed_milliwatts(TREE, result.targets, ending) == {"cluster": 300_000}
    assert committed_milliwatts(TREE, result.targets, pods(KEY, wide, 1)) == {"cluster": 200_000}
