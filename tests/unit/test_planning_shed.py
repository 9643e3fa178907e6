"""The guard's fast path: lowest priority first, lightest lever first, never further than needed."""

from __future__ import annotations

from lowbeam.planning import Lever, Shed, Snapshot, plan, size_all
from lowbeam.planning.shed import ShedOrder, choose_sheds
from lowbeam.power.caps import Cap
from tests.builders import WorkloadBuilder, cap, catalogue_of, model, snapshot, stock, workload

SMALL = model("small").quality("80").on("gpu", (1, 60, 10, 100), (8, 150, 40, 180))
LARGE = model("large").quality("95").on("gpu", (1, 300, 5, 200), (4, 400, 12, 300), (8, 500, 20, 400))
CATALOGUE = catalogue_of(SMALL, LARGE)
ROOM = stock(gpu=64)


def running(*workloads: WorkloadBuilder, under: Cap) -> Snapshot:
    free = plan(snapshot(workloads, CATALOGUE, ROOM))
    now = {choice.key: choice.option for choice in free.choices}
    return snapshot([it.running(now[it.needs.key]) for it in workloads], CATALOGUE, ROOM, under)


def shed(shot: Snapshot, watts: float, *, committed: bool = False, cap_name: str = "cluster") -> dict[str, Shed]:
    sets = {it.state.requirements.key: it.options for it in size_all(shot)}
    order = ShedOrder(cap_name, round(watts * 1000), committed)
    return {it.name: it for it in choose_sheds(shot, [order], sets)}


def test_nothing_to_free_moves_nobody() -> None:
    assert shed(running(workload("a").rate(30), under=cap("cluster", 100)), 0) == {}


def test_an_unknown_cap_moves_nobody() -> None:
    assert shed(running(workload("a").rate(30), under=cap("cluster", 100)), 100, cap_name="gone") == {}


def test_the_lowest_priority_pays_alone_while_it_can() -> None:
    team = [workload(f"w{p}").rate(60).priority(p).floor("90") for p in (100, 500, 900)]
    assert set(shed(running(*team, under=cap("cluster", 100)), 300)) == {"w100"}


def test_the_next_priority_follows_when_the_lowest_has_nothing_left() -> None:
    team = [workload(f"w{p}").rate(60).priority(p).floor("90") for p in (100, 500, 900)]
    assert set(shed(running(*team, under=cap("cluster", 100)), 3000)) == {"w100", "w500"}


def test_the_deficit_is_met_and_not_far_exceeded() -> None:
    team = [workload(f"w{i}").rate(60).floor("90") for i in range(6)]
    freed = sum(it.freed_milliwatts for it in shed(running(*team, under=cap("cluster", 100)), 1000).values())
    assert 1_000_000 <= freed <= 1_600_000


def test_a_hot_lever_comes_before_fewer_replicas() -> None:
    shot = running(workload("a").rate(50).floor("90"), under=cap("cluster", 100))
    assert shed(shot, 100, committed=True)["a"].move.lever is Lever.BATCH
    assert shed(shot, 1700)["a"].move.lever is Lever.REPLICAS


def test_a_smaller_model_is_taken_only_above_the_floor() -> None:
    free = workload("a").rate(8).floor("70").target("95").replicas(most=1)
    assert shed(running(free, under=cap("cluster", 100)), 250)["a"].move.lever is Lever.MODEL
    firm = workload("a").rate(8).floor("90").replicas(most=1)
    assert all(it.move.lever is not Lever.MODEL for it in shed(running(firm, under=cap("cluster", 100)), 250).values())


def test_a_lever_that_the_cap_does_not_list_is_not_used() -> None:
    it = workload("a").rate(60).floor("90")
    only_batch = running(it, under=cap("cluster", 100, levers=("Batch",)))
    assert all(s.move.levers <= {Lever.BATCH} for s in shed(only_batch, 2000, committed=True).values())


def test_the_minimum_stands_unless_the_cap_may_pause() -> None:
    it = workload("a").rate(5)
    assert all(s.option for s in shed(running(it, under=cap("cluster", 1)), 5000).values())
    paused = shed(running(it, under=cap("cluster", 1, pause_lowest=True)), 5000)
    assert paused["a"].option is None
    assert paused["a"].move.lever is Lever.PAUSE


def test_a_cap_sheds_only_what_it_covers() -> None:
    mine, theirs = workload("a").rate(60), workload("b").in_namespace("other").rate(60)
    assert set(shed(running(mine, theirs, under=cap("cluster", 100, namespaces=["other"])), 50)) == {"b"}


def test_a_shed_never_takes_watts_or_boards_and_stays_where_it_is() -> None:
    team = [workload(f"w{i}").rate(10 * i + 5).floor("70").target("95") for i in range(8)]
    shot = running(*team, under=cap("cluster", 100))
    now = {state.requirements.key: state.running for state in shot.workloads}
    for it in shed(shot, 5000).values():
        before = now[it.key]
        assert before is not None
        assert it.option is not None
        assert it.move.freed_milliwatts >= 0
        assert it.option.accelerators <= before.accelerators
        assert (it.option.pool, it.option.accelerator_class) == (before.pool, before.accelerator_class)


def test_who_does_not_run_cannot_be_shed() -> None:
    shot = snapshot([workload("a").rate(60)], CATALOGUE, ROOM, cap("cluster", 1, pause_lowest=True))
    assert shed(shot, 1000) == {}
