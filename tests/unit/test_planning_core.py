"""Large passes are branched over a core of their columns: nearly as good as whole ones, and calm."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from lowbeam.planning import Plan, Snapshot, doubt_lines, give_way, optimise, plan, relaxation
from lowbeam.planning.greedy import by_priority, improve
from lowbeam.planning.plan import size_all
from lowbeam.planning.problem import Entry, Flags, Problem, build, rows_of
from tools.bench import instances
from tools.bench.core import unserved


def crowded(count: int, seed: int) -> Snapshot:
    """A fleet in which caps of every kind and accelerators are short."""
    start = instances.unlimited(count, seed)
    return instances.under_every_limit(start, plan(start, explain=False), seed)


def over_a_core(snapshot: Snapshot, columns: int = 200) -> Plan:
    with patch.multiple(optimise, WHOLE_COLUMNS=0, CORE_COLUMNS=columns):
        return plan(snapshot, explain=False)


def paused(snapshot: Snapshot, made: Plan) -> list[int]:
    """Priorities of the workloads that run nothing, in order."""
    priority = {state.requirements.key: state.requirements.priority for state in snapshot.workloads}
    return sorted(priority[choice.key] for choice in made.choices if choice.option is None)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_over_a_core_all_but_the_lowest_priority_have_what_they_would_have_without_it(seed: int) -> None:
    snapshot = crowded(100, seed)
    whole, core = plan(snapshot, explain=False), over_a_core(snapshot, columns=1500)
    assert paused(snapshot, core) == paused(snapshot, whole)
    exact, found = unserved(snapshot, whole), unserved(snapshot, core)
    lowest = min(exact)
    assert {it: found[it] for it in found if it > lowest} == {it: exact[it] for it in exact if it > lowest}


def test_in_a_world_that_does_not_change_plans_over_a_core_come_to_rest() -> None:
    snapshot = crowded(100, 2)
    made, moved = over_a_core(snapshot), []
    for _ in range(6):
        again = over_a_core(instances.running(snapshot, made))
        moved.append(sum(a.option != b.option for a, b in zip(made.choices, again.choices, strict=True)))
        made = again
    assert moved[-1] == 0, moved


def test_a_pass_that_turns_on_the_spot_ends_and_takes_nothing_from_what_runs() -> None:
    snapshot = crowded(40, 3)
    before = plan(snapshot, explain=False)
    ran = instances.running(snapshot, before)
    assert (before.proven, before.passes_given_up) == (True, 0)
    run, ends = optimise._run_highs, list[Any]()

    def watched(*given: Any) -> Any:
        answer = run(*given)
        ends.append(answer[1])
        return answer

    at_once = patch.object(relaxation, "LONGEST_PASS_SECONDS", 0)
    with at_once, patch.multiple(optimise, MOST_TURNING=10**9, _run_highs=watched):
        made = plan(ran, explain=False)
    assert ends, "there are passes"
    assert set(ends) == {optimise._End.GIVEN_UP}, "none of them had the time"
    assert (made.proven, made.passes_given_up) == (False, len(ends))
    assert paused(ran, made) == paused(ran, before)
    assert list(unserved(ran, made).items()) == list(unserved(ran, before).items())


@pytest.mark.parametrize(
    ("limit", "seconds"), [({"MOST_PASSES": 1}, relaxation.LONGEST_PASS_SECONDS), ({"MOST_TURNING": 1}, 0)]
)
def test_passes_that_a_limit_leaves_out_are_told_and_nobody_important_pays(limit: dict[str, int], seconds: int) -> None:
    problem, allowed = problem_of(crowded(40, 3))
    whole = optimise.solve(problem, allowed)
    run, ends = optimise._run_highs, list[Any]()

    def watched(*given: Any) -> Any:
        answer = run(*given)
        ends.append(answer[1])
        return answer

    in_time = patch.object(relaxation, "LONGEST_PASS_SECONDS", seconds)
    with in_time, patch.multiple(optimise, _run_highs=watched, **limit):
        cut = optimise.solve(problem, allowed)
    assert len(ends) == 1
    assert (ends[0] is optimise._End.GIVEN_UP) is (seconds == 0)
    assert (whole.exact, cut.exact) == (True, False)
    assert cut.given_up > 1
    assert problem.fits(cut.choice)
    choice, rests = give_way.let_give_way(problem, allowed, cut.choice)
    assert rests
    assert np.array_equal(choice, cut.choice), "nobody less important could give way"


def test_exchanges_that_a_limit_ends_are_told() -> None:
    problem, allowed = problem_of(crowded(40, 3))
    wrong = improve(problem, allowed, problem.start[1:] - 1, reversed(by_priority(problem)))
    assert give_way.let_give_way(problem, allowed, wrong)[1]
    told = {}
    for most in (1, give_way.MOST_ROUNDS):
        with (
            patch.object(give_way, "MOST_ROUNDS", most),
            patch.object(optimise, "MOST_PASSES", 0),
            patch.object(optimise._Search, "_begin", lambda _: wrong),
        ):
            answer = optimise.solve(problem, allowed)
        assert problem.fits(answer.choice)
        told[most] = answer.given_up
    assert told[1] == told[give_way.MOST_ROUNDS] + 1


def test_a_priority_of_ones_own_needs_no_row_and_the_answer_is_the_best_all_the_same() -> None:
    shot = crowded(30, 3)
    own = tuple(
        replace(it, requirements=replace(it.requirements, priority=number)) for number, it in enumerate(shot.workloads)
    )
    problem, allowed = problem_of(replace(shot, workloads=own))
    kept: list[int] = []
    run = optimise._run_highs

    def watched(*given: Any) -> Any:
        kept.append(len(given[3]))
        return run(*given)

    with patch.object(optimise, "_run_highs", watched):
        answer = optimise.solve(problem, allowed)
    assert answer.exact
    assert set(kept) == {0}


def problem_of(shot: Snapshot) -> tuple[Problem, Flags]:
    entries = [Entry(it.state.requirements, it.options.options) for it in size_all(shot)]
    problem = build(entries, rows_of(shot))
    return problem, np.ones(problem.owner.size, dtype=np.bool_)


def test_steps_keep_nothing_from_something_and_the_order_of_losses() -> None:
    for greatest in (3_001, 5_999, 6_001, 90_000_000):
        loss = np.array([0, 1, 5, 400, greatest, greatest - 1, greatest * 9 // 10])
        steps = optimise._in_steps(loss)
        assert steps[0] == 0
        assert steps[1] == 1
        assert steps.max() <= optimise.LOSS_STEPS
        assert (np.diff(steps[np.argsort(loss, kind="stable")]) >= 0).all()
    small = np.array([0, 3, optimise.LOSS_STEPS])
    assert (optimise._in_steps(small) == small).all(), "nothing is lost where every loss has a step of its own"


def test_a_plan_whose_search_was_ended_by_nodes_is_not_proven_and_says_so() -> None:
    snapshot = crowded(60, 3)
    with patch.multiple(optimise, NODE_BUDGET=0, MIN_NODES=0):
        made = plan(snapshot, explain=False)
    assert (made.proven, made.passes_given_up) == (False, 0)
    assert "a limit of nodes ended the search" in " ".join(doubt_lines(made))
    assert doubt_lines(plan(snapshot, explain=False)) == ()
    assert "given up: 3" in " ".join(doubt_lines(replace(made, passes_given_up=3)))


def test_a_kept_level_leaves_a_relaxation_half_a_unit_of_room_and_whole_answers_none() -> None:
    """Without room the relaxation is often a single point, on which the simplex method turned for minutes."""
    shot = crowded(4, 1)
    entries = [Entry(it.state.requirements, it.options.options) for it in size_all(shot)]
    problem = build(entries, rows_of(shot, with_caps=False))
    columns, loss = np.arange(problem.owner.size), problem.unserved
    level = int(loss.max()) // 2
    most = {}
    for integral in (False, True):
        solver = relaxation.model_of(problem, columns, -loss.astype(float), [(loss, level)], integral=integral).solver
        solver.run()
        most[integral] = -solver.getInfo().objective_function_value
    assert most[False] == pytest.approx(level + 0.5, abs=1e-3)
    assert most[True] <= level
