"""Power limits of boards on virtual machines: they hold at once, rise when surplus pods are gone, and dim less."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lowbeam.catalog import load_builtin
from lowbeam.planning.committed import Order, Target, replica_milliwatts
from lowbeam.simulation import run_scenario
from lowbeam.simulation.cluster import VirtualCluster
from lowbeam.simulation.scenario import Pace
from lowbeam.sizing import Inventory, Option, Requirements, Sizer
from tests.builders import workload

SCENARIOS = Path(__file__).parent.parent / "scenarios"
CATALOGUE = load_builtin()
ROOM = (Inventory("", "h100", 16, 8, board_limits=True),)
KEY = ("team", "chat")


def busy() -> tuple[Requirements, Option, Option]:
    """A workload, and two options of one placement, batch and count: without a limit, and with the lowest."""
    facts = CATALOGUE.tasks["text-generation"]
    it = workload("chat").task("text-generation").tokens(500, 400).rate(80).within(None, 3000, 100)
    needs = it.only(benchmark=facts.benchmark, pinned_model="qwen3-4b-instruct-2507").build()
    sizer = Sizer(CATALOGUE, ROOM)
    plain = max(
        (o for o in sizer.options_for(needs).options if not o.board_limit_watts and o.replicas > 2),
        key=lambda o: o.worst_case_milliwatts,
    )
    alike = [
        o
        for o in sizer.options_for(needs, plain).options
        if (o.placement_key, o.replicas, o.batch_limit) == (plain.placement_key, plain.replicas, plain.batch_limit)
    ]
    return needs, plain, min(alike, key=lambda o: o.worst_case_milliwatts)


def second(cluster: VirtualCluster, needs: Requirements, option: Option, now_ms: int) -> int:
    """One second towards an option; milliwatts that its pods are charged with afterwards."""
    cluster.carry_out({KEY: Target(option, Order.IN_PLACE)}, {KEY: needs}, now_ms)
    cluster.advance({KEY: needs}, now_ms + 1000, 1000)
    return sum(charge.milliwatts for charge in cluster.charges({}))


def test_a_limit_is_charged_at_once_and_drawn_within_seconds() -> None:
    needs, plain, limited = busy()
    assert limited.board_limit_watts
    cluster = VirtualCluster(CATALOGUE, ROOM, Pace(start=1, batch_settle=2), seed=1)
    for at_ms in range(0, 5000, 1000):
        assert second(cluster, needs, plain, at_ms) == replica_milliwatts(plain) * plain.replicas
    assert any(worker.watts > limited.board_limit_watts for worker in cluster.workers)
    for at_ms in range(5000, 10_000, 1000):
        assert second(cluster, needs, limited, at_ms) == replica_milliwatts(limited) * plain.replicas
    assert all(worker.watts <= limited.board_limit_watts for worker in cluster.workers)
    assert all(worker.limit_milliwatts == limited.board_limit_watts * 1000 for worker in cluster.workers)
    assert second(cluster, needs, plain, 10_000) == replica_milliwatts(plain) * plain.replicas


def test_a_limit_rises_only_when_surplus_pods_are_gone() -> None:
    needs, plain, limited = busy()
    cluster = VirtualCluster(CATALOGUE, ROOM, Pace(start=1, drain=3), seed=1)
    for at_ms in (0, 1000, 2000):
        before = second(cluster, needs, limited, at_ms)
    one = replace(plain, replicas=1, worst_case_milliwatts=replica_milliwatts(plain))
    assert second(cluster, needs, one, 3000) <= before
    for at_ms in range(4000, 9000, 1000):
        after = second(cluster, needs, one, at_ms)
    assert after == one.worst_case_milliwatts


def test_where_agents_set_limits_the_same_cut_dims_nobody_else() -> None:
    names = ("cap-cut-at-full-load", "cap-cut-with-board-limits")
    plain, limited = (set(run_scenario(SCENARIOS / f"{name}.yaml").dimmed_workloads) for name in names)
    assert limited <= plain
