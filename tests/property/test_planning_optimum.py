"""The optimiser against every combination of tiny fleets, and strict priorities on larger ones."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from unittest.mock import patch

import numpy as np
from hypothesis import event, given, settings
from hypothesis import strategies as st

from lowbeam.catalog.facts import Catalogue
from lowbeam.planning import Snapshot, optimise, relaxation
from lowbeam.planning.give_way import let_give_way
from lowbeam.planning.greedy import by_priority, improve
from lowbeam.planning.optimise import solve
from lowbeam.planning.problem import Entry, Ints, Problem, build, rows_of
from lowbeam.power.caps import Cap
from lowbeam.power.tree import build_cap_tree
from lowbeam.sizing import Inventory, Option
from tests.builders import cap, option, workload

POOLS, CLASSES, NAMESPACES = ("p", "q"), ("gpu", "l4"), ("x", "y")


@st.composite
def options(draw: st.DrawFn, demand: int) -> Option:
    capacity = draw(st.integers(0, demand))
    return option(
        draw(st.sampled_from(["m1", "m2", "m3"])),
        watts=draw(st.integers(1, 40)) * 10,
        expected=draw(st.integers(1, 40)) * 10,
        replicas=draw(st.integers(1, 4)),
        batch=draw(st.sampled_from([1, 8, 64])),
        limit_watts=draw(st.sampled_from([0, 0, 300])),
        pool=draw(st.sampled_from(POOLS)),
        accelerator_class=draw(st.sampled_from(CLASSES)),
        capacity=capacity,
        unserved=demand - capacity,
        shortfall=draw(st.integers(0, 3)),
    )


@st.composite
def entries(draw: st.DrawFn, number: int, most_options: int) -> Entry:
    demand = draw(st.integers(0, 6))
    needs = workload(f"w{number}").in_namespace(draw(st.sampled_from(NAMESPACES))).rate(demand)
    found = draw(st.lists(options(demand), max_size=most_options, unique_by=lambda o: o.id))
    running = draw(st.sampled_from([None, *found])) if found else None
    ordered = tuple(sorted(found, key=lambda o: o.id))
    priority = draw(st.sampled_from([1, 5, 9, 100 + number]))  # the last one is its own
    return Entry(needs.priority(priority).build(), ordered, running)


CAPS = st.tuples(
    st.builds(cap, st.just("cluster"), st.integers(0, 900)),
    st.builds(cap, st.just("pool"), st.integers(0, 500), pool=st.just("p")),
    st.builds(cap, st.just("tenant"), st.integers(0, 500), namespaces=st.just(["x"])),
)
SHELVES = st.tuples(
    *(st.builds(Inventory, st.just(p), st.just(c), st.integers(0, 8), st.just(8)) for p in POOLS for c in CLASSES)
)


def problem(fleet: list[Entry], caps: tuple[Cap, ...], shelves: tuple[Inventory, ...]) -> Problem:
    return build(fleet, rows_of(Snapshot(Catalogue(), build_cap_tree(caps), shelves, ())))


def worth(it: Problem, choice: Ints) -> list[int]:
    """The goals in their order; smaller is better, list by list."""
    priorities = sorted({e.needs.priority for e in it.entries}, reverse=True)
    of = np.array([e.needs.priority for e in it.entries])
    paused = [int(it.paused[choice][of == p].sum()) for p in priorities]
    lost = [int(loss[choice][of == p].sum()) for p in priorities for loss in (it.unserved, it.shortfall)]
    return [*paused, *lost, int(it.cost[choice].sum())]


def combinations(it: Problem) -> Iterator[Ints]:
    """All that keep the rows."""
    spans = [range(it.columns_of(i).start, it.columns_of(i).stop) for i in range(len(it.entries))]
    return (choice for choice in map(np.array, product(*spans)) if it.fits(choice))


def least_worth(it: Problem) -> list[int]:
    """By trying every combination."""
    return min(worth(it, choice) for choice in combinations(it))


@settings(max_examples=120, deadline=None)
@given(st.integers(1, 4).flatmap(lambda n: st.tuples(*(entries(i, 5) for i in range(n)))), CAPS, SHELVES)
def test_no_combination_is_better_than_the_answer(
    fleet: tuple[Entry, ...], caps: tuple[Cap, ...], shelves: tuple[Inventory, ...]
) -> None:
    it = problem(list(fleet), caps, shelves)
    answer = solve(it, np.ones(it.owner.size, dtype=np.bool_))
    assert answer.exact
    assert it.fits(answer.choice)
    assert worth(it, answer.choice) == least_worth(it)


@settings(max_examples=120, deadline=None)
@given(st.integers(2, 4).flatmap(lambda n: st.tuples(*(entries(i, 5) for i in range(n)))), CAPS, SHELVES)
def test_an_answer_over_a_core_of_the_columns_keeps_every_row_and_is_best_where_it_says_so(
    fleet: tuple[Entry, ...], caps: tuple[Cap, ...], shelves: tuple[Inventory, ...]
) -> None:
    it = problem(list(fleet), caps, shelves)
    for columns, steps in ((1, optimise.LOSS_STEPS), (8, optimise.LOSS_STEPS), (8, 2)):
        with patch.multiple(optimise, WHOLE_COLUMNS=0, CORE_COLUMNS=columns, LOSS_STEPS=steps):
            answer = solve(it, np.ones(it.owner.size, dtype=np.bool_))
        assert it.fits(answer.choice)
        event(f"{columns} columns, {steps} steps: {'proven' if answer.exact else 'not proven'}")
        if answer.exact:
            assert worth(it, answer.choice) == least_worth(it)


@settings(max_examples=120, deadline=None)
@given(st.integers(2, 4).flatmap(lambda n: st.tuples(*(entries(i, 5) for i in range(n)))), CAPS, SHELVES)
def test_no_answer_with_a_column_outside_of_the_core_is_below_its_bound(
    fleet: tuple[Entry, ...], caps: tuple[Cap, ...], shelves: tuple[Inventory, ...]
) -> None:
    it, columns = problem(list(fleet), caps, shelves), np.arange(sum(len(entry.options) + 1 for entry in fleet))
    nothing = it.start[1:] - 1
    with patch.object(optimise, "CORE_COLUMNS", len(fleet) + 2):
        relaxed = relaxation.Relaxation(it, columns).solve(columns, it.unserved.astype(np.float64), [], anew=True)
        assert relaxed is not None
        core, bound = optimise._core(it, columns, it.unserved, relaxed, start=nothing)
    assert set(nothing.tolist()) <= set(core.tolist())
    outside = [choice for choice in combinations(it) if not np.isin(choice, core).all()]
    event("something left out" if outside else "nothing left out")
    assert all(it.unserved[choice].sum() >= bound - 1e-6 for choice in outside)
    if core.size < columns.size:
        assert np.isfinite(bound)


def could_give_way(fleet: tuple[Entry, ...], it: Problem, choice: Ints) -> list[tuple[str, str]]:
    """Pairs of whom the first is dimmed while the second is less important and could give way."""
    used = it.usage[:, choice].sum(axis=1)
    found = []
    for high, low in product(range(len(fleet)), repeat=2):
        if fleet[high].needs.priority <= fleet[low].needs.priority:
            continue
        now = (it.paused[choice[high]], it.unserved[choice[high]], it.shortfall[choice[high]])
        rest = used - it.usage[:, choice[high]] - it.usage[:, choice[low]]
        for mine, theirs in product(*(range(*it.columns_of(who).indices(it.owner.size)) for who in (high, low))):
            better = (it.paused[mine], it.unserved[mine], it.shortfall[mine]) < now
            nobody_stops = it.paused[theirs] <= it.paused[choice[low]]  # so that another one runs better
            if better and nobody_stops and (rest + it.usage[:, mine] + it.usage[:, theirs] <= it.rows.limits).all():
                found.append((fleet[high].needs.name, fleet[low].needs.name))
    return found


FLEETS = st.integers(5, 12).flatmap(lambda n: st.tuples(*(entries(i, 6) for i in range(n))))


@settings(max_examples=60, deadline=None)
@given(FLEETS, CAPS, SHELVES, st.sampled_from([optimise.WHOLE_COLUMNS, 0]))
def test_nobody_important_is_dimmed_while_somebody_less_important_could_still_give_way(
    fleet: tuple[Entry, ...], caps: tuple[Cap, ...], shelves: tuple[Inventory, ...], whole: int
) -> None:
    it = problem(list(fleet), caps, shelves)
    with patch.multiple(optimise, WHOLE_COLUMNS=whole, CORE_COLUMNS=20):
        choice = solve(it, np.ones(it.owner.size, dtype=np.bool_)).choice
    assert could_give_way(fleet, it, choice) == []


@settings(max_examples=60, deadline=None)
@given(FLEETS, CAPS, SHELVES)
def test_an_answer_that_served_the_least_important_first_is_mended_by_exchanges(
    fleet: tuple[Entry, ...], caps: tuple[Cap, ...], shelves: tuple[Inventory, ...]
) -> None:
    it = problem(list(fleet), caps, shelves)
    allowed = np.ones(it.owner.size, dtype=np.bool_)
    wrong = improve(it, allowed, it.start[1:] - 1, reversed(by_priority(it)))
    choice, rests = let_give_way(it, allowed, wrong)
    assert rests
    assert it.fits(choice)
    assert could_give_way(fleet, it, choice) == []
    assert np.array_equal(let_give_way(it, allowed, choice)[0], choice), "comes to rest"
