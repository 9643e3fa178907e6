from __future__ import annotations

import pytest

from lowbeam.planning import plan
from tools.bench import instances


def test_the_same_seed_makes_the_same_fleet_and_another_seed_another() -> None:
    assert instances.workloads(20, seed=1) == instances.workloads(20, seed=1)
    assert instances.workloads(20, seed=1) != instances.workloads(20, seed=2)


@pytest.mark.parametrize("count", [8, 40])
def test_every_workload_can_run_where_nothing_binds(count: int) -> None:
    choices = plan(instances.unlimited(count), explain=False).choices
    assert len(choices) == count
    assert [c.name for c in choices if c.option is None] == []


def test_the_nodes_hold_what_the_workloads_choose() -> None:
    choices = plan(instances.unlimited(40), explain=False).choices
    wanted = sum(c.option.accelerators for c in choices if c.option)
    room = sum(int(node["status"]["allocatable"]["nvidia.com/gpu"]) for node in instances.nodes(40))
    assert room >= wanted


def test_a_cap_at_three_quarters_binds_and_is_kept() -> None:
    start = instances.unlimited(20)
    free = plan(start, explain=False)
    capped = instances.under_cluster_cap(start, free, 75)
    answer = plan(capped, explain=False)
    before = sum(c.option.worst_case_milliwatts for c in free.choices if c.option)
    after = sum(c.option.worst_case_milliwatts for c in answer.choices if c.option)
    assert after <= capped.caps.usable("cluster") <= before * 75 // 100


def test_in_a_drifted_cycle_everything_runs_and_few_rates_moved() -> None:
    start = instances.unlimited(100)
    chosen = plan(start, explain=False)
    after = instances.drifted(start, chosen)
    moved = [
        new
        for old, new in zip(start.workloads, after.workloads, strict=True)
        if old.requirements.demand != new.requirements.demand
    ]
    assert len(moved) == 3
    assert all(state.running is not None for state in after.workloads)
