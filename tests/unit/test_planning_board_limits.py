"""Power limits of boards in plans and sheds: more is served under a cap, hot levers first, and only where a cap may."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lowbeam.catalog import load_builtin
from lowbeam.planning import Lever, Plan, Shed, Snapshot, levers_between, plan, size_all
from lowbeam.planning.choices import step_text
from lowbeam.planning.feasibility import violations
from lowbeam.planning.problem import Entry, build, rows_of
from lowbeam.planning.shed import ShedOrder, choose_sheds
from lowbeam.planning.words import option_text
from lowbeam.power.tree import build_cap_tree
from lowbeam.sizing import Inventory, Option, OptionSet
from tests.builders import ALL_LEVERS, WorkloadBuilder, cap, catalogue_of, option, snapshot, workload

CATALOGUE = load_builtin()
OTHERS = tuple(it for it in ALL_LEVERS if it != Lever.POWER_LIMIT)
MODEL = "qwen3-4b-instruct-2507"


def chat(name: str, rate: float = 100, priority: int = 500) -> WorkloadBuilder:
    facts = CATALOGUE.tasks["text-generation"]
    it = workload(name).task("text-generation").tokens(500, 400).rate(rate).within(None, 3000, 100).priority(priority)
    return it.only(benchmark=facts.benchmark, pinned_model=MODEL)


def fleet(watts: int, *, board_limits: bool, levers: tuple[str, ...] = ALL_LEVERS) -> Snapshot:
    room = [Inventory("", "h100", 32, 8, board_limits=board_limits)]
    team = [chat("a"), chat("b", 60, 800), chat("c", 40, 200)]
    return snapshot(team, CATALOGUE, room, cap("cluster", watts, levers=levers))


def served(made: Plan) -> list[int]:
    """Unserved by priority, the highest first: what a plan minimises in this order."""
    rates = {"a": 100_000, "b": 60_000, "c": 40_000}
    unserved = {c.name: rates[c.name] if c.option is None else c.option.unserved_millirps for c in made.choices}
    return [unserved[name] for name in ("b", "a", "c")]


@pytest.mark.parametrize("watts", [900, 2000, 3500, 5000, 6500])
def test_under_a_cap_a_fleet_serves_no_less_with_limits_than_without(watts: int) -> None:
    with_limits, without = (fleet(watts, board_limits=it) for it in (True, False))
    made = plan(with_limits, explain=False)
    assert violations(with_limits, made.choices) == ()
    assert served(made) <= served(plan(without, explain=False))


def test_under_a_cap_that_binds_it_serves_more() -> None:
    made = {it: plan(fleet(5000, board_limits=it), explain=False) for it in (True, False)}
    assert sum(served(made[True])) < sum(served(made[False]))
    assert any(c.option is not None and c.option.board_limit_watts for c in made[True].choices)


def running(shot: Snapshot, *, limited: bool) -> Snapshot:
    """Everybody runs what serves it, busy; with limits or without."""
    states = []
    for it in size_all(shot):
        fits = [
            o for o in it.options.options if bool(o.board_limit_watts) is limited and o.accelerators_per_replica == 1
        ]
        states.append(replace(it.state, running=min(fits, key=lambda o: (o.unserved_millirps, o.expected_milliwatts))))
    return replace(shot, workloads=tuple(states))


def shed(shot: Snapshot, watts: int, *, committed: bool = True) -> dict[str, Shed]:
    sets = {it.state.requirements.key: it.options for it in size_all(shot)}
    return {it.name: it for it in choose_sheds(shot, [ShedOrder("cluster", watts * 1000, committed)], sets)}


def test_a_shed_limits_boards_before_it_ends_replicas() -> None:
    shot = running(fleet(100, board_limits=True), limited=False)
    found = shed(shot, 100)
    assert set(found) == {"c"}, "the least important"
    assert found["c"].move.hot
    assert Lever.POWER_LIMIT in found["c"].move.levers or Lever.BATCH in found["c"].move.levers


@pytest.mark.parametrize("lighter", ["batch", "limit"])
def test_batches_and_limits_go_together_by_what_they_cost(lighter: str) -> None:
    now = option("m", watts=600, expected=600, batch=64, capacity=20)
    smaller_batch = replace(now, batch_limit=8, worst_case_milliwatts=500_000, expected_milliwatts=500_000)
    lower_limit = replace(smaller_batch, batch_limit=64, board_limit_watts=500)
    cheap, dear = (smaller_batch, lower_limit) if lighter == "batch" else (lower_limit, smaller_batch)
    found = (cheap, replace(dear, unserved_millirps=1000), now)
    it = workload("a").rate(20).running(now)
    shot = snapshot([it], catalogue_of(), [Inventory("pool", "gpu", 8, 8)], cap("cluster", 100))
    (chosen,) = choose_sheds(shot, [ShedOrder("cluster", 100_000)], {it.needs.key: OptionSet(found, (), now)})
    assert chosen.option == cheap


def test_only_a_limit_frees_what_batches_do_not() -> None:
    shot = running(fleet(100, board_limits=True, levers=("PowerLimit",)), limited=False)
    found = shed(shot, 100)
    assert found["c"].move.lever is Lever.POWER_LIMIT
    assert found["c"].option is not None
    assert found["c"].option.board_limit_watts


@pytest.mark.parametrize("watts", [50, 500, 5000])
@pytest.mark.parametrize("committed", [True, False])
def test_a_cap_without_the_lever_never_limits_boards(watts: int, committed: bool) -> None:
    shot = running(fleet(100, board_limits=True, levers=OTHERS), limited=False)
    for it in shed(shot, watts, committed=committed).values():
        assert it.option is None or it.option.board_limit_watts == 0


def test_without_agents_a_shed_is_what_it_was() -> None:
    shot = running(fleet(100, board_limits=False), limited=False)
    assert all(it.option is None or it.option.board_limit_watts == 0 for it in shed(shot, 2000).values())


def test_a_plan_under_a_cap_without_the_lever_adds_no_limit_to_what_runs_without_caps() -> None:
    made = plan(fleet(3500, board_limits=True, levers=OTHERS), explain=False)
    free = plan(replace(fleet(3500, board_limits=True), caps=build_cap_tree([])), explain=False)
    wanted = {c.name: c.option for c in free.choices}
    for choice in made.choices:
        want = wanted[choice.name]
        if choice.option is not None and want is not None:
            assert Lever.POWER_LIMIT not in levers_between(want, choice.option)


def test_hysteresis_keeps_the_limit_that_is_set_while_another_saves_little() -> None:
    now = option("m", watts=600, expected=500, limit_watts=600)
    close, far = replace(now, board_limit_watts=0, expected_milliwatts=480_000), replace(now, board_limit_watts=500)
    for other, keeps in ((close, True), (replace(far, expected_milliwatts=400_000), False)):
        entry = Entry(workload("w").build(), tuple(sorted((now, other), key=lambda o: o.id)), now)
        problem = build([entry], rows_of(Snapshot(catalogue_of(), build_cap_tree([]), (), ())))
        assert problem.option[int(problem.running[0])] == now, "only the very same setting changes nothing"
        best = problem.option[int(problem.best_alone()[0])]
        assert (best == now) is keeps


def test_of_equals_the_one_without_a_limit_is_taken() -> None:
    plain = option("m", watts=600, expected=400)
    limited = replace(plain, board_limit_watts=500, worst_case_milliwatts=500_000)
    entry = Entry(workload("w").build(), tuple(sorted((plain, limited), key=lambda o: o.id)))
    problem = build([entry], rows_of(Snapshot(catalogue_of(), build_cap_tree([]), (), ())))
    assert problem.option[int(problem.best_alone()[0])] == plain


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        (0, 490, "power limit none -> 490 W a board"),
        (595, 490, "power limit 595 W -> 490 W a board"),
        (490, 0, "power limit 490 W a board -> none"),
    ],
)
def test_a_step_says_from_which_limit_to_which(before: int, after: int, text: str) -> None:
    one, other = (option("m", limit_watts=it) for it in (before, after))
    assert step_text(one, other) == text
    assert step_text(one, replace(other, batch_limit=4)) == f"batch limit 8 -> 4, {text}"


def test_an_option_says_its_limit_only_where_there_is_one() -> None:
    plain: Option = option("m", boards=2)
    assert "gpu x2, batch" in option_text(plain)
    assert "gpu x2 at 490 W, batch" in option_text(replace(plain, board_limit_watts=490))
