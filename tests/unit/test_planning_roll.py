"""A replacement share by share: when it is chosen, what it is charged with, and when it is hurried."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowbeam.catalog.facts import Catalogue
from lowbeam.planning.committed import Order, Target, committed_milliwatts, taken_up
from lowbeam.planning.plan_types import Choice, Plan
from lowbeam.planning.promises import promises_of
from lowbeam.planning.roll import Roll
from lowbeam.planning.snapshot import Inventory, Snapshot, WorkloadState
from lowbeam.planning.transition import NO_HEADROOM, Transition, next_targets
from lowbeam.power.gate import GateState
from lowbeam.power.ledger import ReplicaCharge, ReplicaState
from lowbeam.power.tree import build_cap_tree
from lowbeam.sizing.options import Option
from tests.fakes.power_fleet import NOW, cap, needs, option, pods, views

KEY = ("a", "chat")
TREE = build_cap_tree([cap()])
OLD, NEW = option(8), option(8, model="m4", each_watts=80)
MOST = 12


def move(
    runs: Target, wants: Option, charges: list[ReplicaCharge], *, watts: int = 1000, needs_milliwatts: int = 0
) -> Transition:
    tree = build_cap_tree([cap(watts=watts)])
    snapshot = Snapshot(
        Catalogue(), tree, (Inventory("", "h100", 8, 8),), (WorkloadState(needs(KEY), running=runs.option),)
    )
    return next_targets(
        snapshot,
        Plan((Choice(*KEY, wants, "r", "m"),)),
        targets={KEY: runs},
        charges=charges,
        views=views(tree, needs_milliwatts=needs_milliwatts),
        gate=GateState(),
        now_ms=NOW,
    )


def test_a_model_in_a_full_pool_is_replaced_share_by_share_and_charged_like_the_larger_of_both() -> None:
    result = move(Target(OLD), NEW, pods(KEY, OLD))
    assert (result.steps[0].order, result.targets[KEY].roll) == (Order.ROLLING, Roll(8))
    assert result.committed_milliwatts == {"cluster": 800_000}
    assert promises_of(result.steps, {(*KEY, ""): 700_000}, NOW) == (), "no guard waits for watts that come so slowly"


@pytest.mark.parametrize(
    ("runs", "wants", "charges"),
    [
        (OLD, option(1, model="m4", each_watts=500), pods(KEY, OLD)),
        (option(1, each_watts=500), option(8, model="m4"), pods(KEY, option(1, each_watts=500))),
        (OLD, replace(NEW, replicas=4, accelerators_per_replica=2), pods(KEY, OLD)),
        (OLD, NEW, [*pods(KEY, OLD, 6), *pods(KEY, option(2, model="m2"))]),
    ],
    ids=["one new", "one old", "more boards for each", "two sorts of old ones"],
)
def test_where_shares_leave_nothing_to_serve_or_might_not_fit_the_old_ones_end_first(
    runs: Option, wants: Option, charges: list[ReplicaCharge]
) -> None:
    result = move(Target(runs), wants, charges, watts=900)
    assert result.steps[0].order is Order.BREAK_BEFORE_MAKE


def test_replicas_without_accelerators_are_replaced_share_by_share_too() -> None:
    charges = [replace(pod, accelerators=0) for pod in pods(KEY, OLD)]
    assert move(Target(OLD), NEW, charges).targets[KEY].roll == Roll(8)


def test_a_successor_that_knows_nothing_but_the_pods_goes_on_share_by_share() -> None:
    result = move(Target(), NEW, [*pods(KEY, OLD, 5), *pods(KEY, NEW, 3)])
    assert (result.steps[0].order, result.targets[KEY].roll) == (Order.ROLLING, Roll(5, 3))


def test_room_that_an_old_one_left_is_taken_at_once() -> None:
    alike = option(8, model="m4")
    assert move(Target(), alike, [*pods(KEY, OLD, 4), *pods(KEY, alike, 3)]).targets[KEY].roll == Roll(4, 4)
    more = option(6, model="m4", each_watts=130)
    result = move(Target(option(4, each_watts=100)), more, pods(KEY, option(4)))
    assert result.targets[KEY].roll == Roll(4, 2), "boards of two, watts of almost three"
    assert result.committed_milliwatts == {"cluster": 780_000}


def test_where_a_cap_waits_for_the_old_ones_they_end_first() -> None:
    result = move(Target(OLD), NEW, pods(KEY, OLD), needs_milliwatts=100_000)
    assert result.steps[0].order is Order.BREAK_BEFORE_MAKE


def test_a_cap_that_is_cut_meanwhile_hurries_a_replacement_that_was_begun() -> None:
    begun = Target(NEW, Order.ROLLING, Roll(8))
    half = [*pods(KEY, OLD, 5), *pods(KEY, NEW, 3)]
    assert move(begun, NEW, half).targets[KEY] == begun
    assert move(begun, NEW, half, watts=700).targets[KEY] == begun, "nothing draws too much yet"
    hurried = move(begun, NEW, half, watts=700, needs_milliwatts=50_000)
    assert (hurried.targets[KEY], hurried.hurried) == (Target(NEW, Order.BREAK_BEFORE_MAKE), {KEY})
    assert hurried.steps == ()


@pytest.mark.parametrize("left", [8, 5], ids=["nothing gone yet", "half way"])
def test_a_cap_that_is_cut_meanwhile_and_leaves_a_smaller_batch_limit_ends_the_old_ones_at_once(left: int) -> None:
    begun, fits = option(8, batch=64, model="m4"), option(8, batch=4, model="m4", each_watts=60)
    tree = build_cap_tree([cap(watts=500)])
    result = next_targets(
        Snapshot(Catalogue(), tree, (Inventory("", "h100", 8, 8),), (WorkloadState(needs(KEY), running=begun),)),
        Plan((Choice(*KEY, fits, "r", "m", binding_cap="cluster"),), cap_milliwatts={"cluster": 480_000}),
        targets={KEY: Target(begun, Order.ROLLING, Roll(8))},
        charges=[*pods(KEY, OLD, left), *pods(KEY, begun, 8 - left)],
        views=views(tree),
        gate=GateState(),
        now_ms=NOW,
    )
    assert (result.targets[KEY].option, result.targets[KEY].order) == (fits, Order.BREAK_BEFORE_MAKE)


def test_another_count_in_the_middle_goes_on_from_there() -> None:
    half = [*pods(KEY, OLD, 5), *pods(KEY, NEW, 3)]
    result = move(Target(NEW, Order.ROLLING, Roll(8)), option(6, model="m4", each_watts=80), half)
    assert result.targets[KEY].roll == Roll(5, 3)


@pytest.mark.parametrize(
    ("new", "old", "order"),
    [
        (8, 0, Order.IN_PLACE),
        (None, 8, Order.BREAK_BEFORE_MAKE),
        (0, 8, Order.ROLLING),
        (3, 5, Order.ROLLING),
        (8, 8, Order.MAKE_BEFORE_BREAK),
    ],
)
def test_a_successor_reads_how_a_change_goes_on(new: int | None, old: int, order: Order) -> None:
    assert taken_up(8, new, old) is order


def test_what_an_evicted_pod_draws_while_it_drains_is_no_room_to_grow_into() -> None:
    """Its Deployment makes it again beside it: both are charged, and one of them goes soon."""
    one, two = option(1), option(2, model="m4")
    evicted = [*pods(KEY, one, 1, ReplicaState.TERMINATING), *pods(KEY, one, 1, ReplicaState.ASSUMED)]
    leaving = pods(("a", "other"), one, 1, ReplicaState.TERMINATING)
    held = move(Target(one), two, [*evicted, *leaving], watts=250)
    assert (held.held[KEY].reason, held.targets[KEY].option) == (NO_HEADROOM, one)
    assert move(Target(one), two, evicted, watts=250).targets[KEY].option == two


def test_an_old_pod_that_drains_beside_the_one_made_in_its_place_is_one_old_replica() -> None:
    again = [*pods(KEY, OLD, 7), *pods(KEY, OLD, 1, ReplicaState.TERMINATING), *pods(KEY, OLD, 1, ReplicaState.ASSUMED)]
    assert move(Target(OLD), NEW, again).targets[KEY].roll == Roll(8)


def unheard(charges: list[ReplicaCharge]) -> list[ReplicaCharge]:
    """As a new leader charges them: with what they could draw at most."""
    return [replace(charge, worst_case_milliwatts=2 * charge.worst_case_milliwatts) for charge in charges]


@pytest.mark.parametrize("made", [0, 1], ids=["Deployment without replicas", "replica without a pod"])
def test_a_successor_that_has_heard_of_no_worker_goes_on_share_by_share_before_the_first_new_pod(made: int) -> None:
    old = [*pods(KEY, OLD, 7), *pods(KEY, OLD, 1, ReplicaState.TERMINATING)]
    result = move(Target(NEW, Order.ROLLING), NEW, [*unheard(old), *pods(KEY, NEW, made, ReplicaState.ASSUMED)])
    assert result.committed_milliwatts["cluster"] > 1_000_000, "over, as it seems"
    assert result.targets[KEY] == Target(NEW, Order.ROLLING, Roll(8, made))
    assert (result.steps, result.hurried) == ((), {KEY})


def test_a_successor_goes_on_from_where_it_is_and_takes_room_that_was_left() -> None:
    alike = option(8, model="m4")
    result = move(Target(alike, Order.ROLLING), alike, [*pods(KEY, OLD, 4), *pods(KEY, alike, 3)])
    assert (result.targets[KEY].roll, result.steps, result.hurried) == (Roll(4, 4), (), {KEY})
    assert result.committed_milliwatts == {"cluster": 800_000}
    done = move(Target(alike, Order.ROLLING), alike, pods(KEY, alike))
    assert done.targets[KEY] == Target(alike)


@given(
    old=st.integers(2, MOST),
    begun=st.integers(0, MOST),
    replicas=st.integers(2, MOST),
    old_watts=st.integers(1, 400),
    new_watts=st.integers(1, 400),
)
def test_it_ends_and_never_draws_more_than_it_was_charged_with_at_its_begin(
    old: int, begun: int, replicas: int, old_watts: int, new_watts: int
) -> None:
    before, after = option(old, each_watts=old_watts), option(replicas, model="m4", each_watts=new_watts)
    roll, left, new = Roll(old, begun), old, min(begun, replicas)
    target = Target(after, Order.ROLLING, roll)

    def charged(ending: int = 0) -> int:
        there = [*pods(KEY, before, left), *pods(KEY, after, new)]
        there += pods(KEY, before, ending, ReplicaState.TERMINATING)
        return committed_milliwatts(TREE, {KEY: target}, there)["cluster"]

    charge = charged()
    looks = 0
    while left:
        looks += 1
        new = max(new, roll.allowed(replicas, left))
        assert charged() <= charge, "new ones were charged before they came"
        fewer = roll.old_next(replicas, left, new)
        assert 0 <= fewer < left
        ending, left = left - fewer, fewer
        assert charged(ending) <= charge
        charge = charged()
        drawn = (left * old_watts + max(new, roll.allowed(replicas, left)) * new_watts) * 1000
        assert drawn <= charge
    assert looks <= old
    assert roll.allowed(replicas, 0) == replicas


@given(old=st.integers(2, MOST), replicas=st.integers(2, MOST))
def test_together_there_are_never_more_than_before_or_after_and_some_always_serve(old: int, replicas: int) -> None:
    roll, left = Roll(old), old
    while left:
        new = roll.allowed(replicas, left)
        assert left + new <= max(old, replicas)
        left = roll.old_next(replicas, left, new)
        assert left + new >= 1, "the next old ones end while these serve"
