"""Large passes are branched over a core of their columns: nearly as good as whole ones, and calm."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from lowbeam.planning import Plan, Snapshot, optimise, plan
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
    run, proven = optimise._run_highs, list[bool]()

    def watched(*given: Any) -> Any:
        answer = run(*given)
        proven.append(answer[1])
        return answer

    with patch.multiple(optimise, LONGEST_PASS_SECONDS=0, _run_highs=watched):
        made = plan(ran, explain=False)
    assert proven, "there are passes"
    assert not any(proven), "none of them had the time"
    assert paused(ran, made) == paused(ran, before)
    assert list(unserved(ran, made).items()) == list(unserved(ran, before).items())


def test_steps_keep_nothing_from_something_and_the_order_of_losses() -> None:
    loss = np.array([0, 1, 5, 400, 90_000_000, 90_000_000 - 1, 89_000_000])
    steps = optimise._in_steps(loss)
    assert steps[0] == 0
    assert steps[1] == 1
    assert steps.max() <= optimise.LOSS_STEPS + 1
    assert (np.diff(steps[np.argsort(loss, kind="stable")]) >= 0).all()
    small = np.array([0, 3, 2_999])
    assert (optimise._in_steps(small) == small).all(), "nothing is lost where every loss has a step of its own"
