"""Why a choice was made is worked out after it was made, and never in the way of the next."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from lowbeam.cli.plan import snapshot_of
from lowbeam.planning import plan
from lowbeam.runtime import thinking
from lowbeam.runtime.fleet import Fleet
from lowbeam.runtime.thinking import advise, explain, think
from lowbeam.runtime.world import Objects, Parser, build_world
from tests.raw_objects import iw, node

TODAY = datetime(2026, 11, 21, 9, tzinfo=UTC)
NODES = (node("n1", boards=8),)


def _never() -> bool:
    return False


async def test_decisions_come_first_and_explanations_after_them(monkeypatch: Any) -> None:
    monkeypatch.setattr(thinking, "TOGETHER", 2)
    workloads = tuple(
        iw(f"w{i}", load={"requestsPerMinute": 60 + i, "inputTokens": 137, "outputTokens": 1}) for i in range(5)
    )
    world = build_world(Objects(workloads=workloads, nodes=NODES), TODAY, Parser())
    snapshot, fleet = snapshot_of(world), Fleet()
    choices = (await think(snapshot)).choices
    assert [choice.option for choice in choices] == [choice.option for choice in plan(snapshot, explain=False).choices]
    for choice in choices:
        fleet.of(choice.key).choice = choice
    newer = replace(choices[0], message="of another plan")
    fleet.of(newer.key).choice = newer
    del fleet.workloads[choices[1].key]

    looks = iter([False, False, True])
    await explain(snapshot, choices, fleet, lambda: next(looks))

    assert fleet.of(newer.key).choice is newer
    assert choices[1].key not in fleet.workloads
    held = [fleet.of(choice.key).choice for choice in choices[2:]]
    assert [bool(it and it.alternatives) for it in held] == [True, True, False], "interrupted before the last"
    await explain(snapshot, choices, fleet, _never)
    assert fleet.of(choices[4].key).choice == plan(snapshot).choices[4]


async def test_what_was_explained_before_is_explained_at_once() -> None:
    world = build_world(Objects(workloads=(iw("w"),), nodes=NODES), TODAY, Parser())
    snapshot = snapshot_of(world)
    whole = plan(snapshot)
    assert (await think(snapshot)).choices == whole.choices
    assert whole.choices[0].explained
    assert whole.choices[0].alternatives


async def test_advice_is_for_those_that_still_want_it_and_stops_when_it_is_interrupted(monkeypatch: Any) -> None:
    monkeypatch.setattr(thinking, "TOGETHER", 2)
    advised = tuple(iw(f"a{i}", mode="Advise") for i in range(5))
    asked = Objects(workloads=(*advised, iw("enforced")), nodes=NODES)
    world = build_world(asked, TODAY, Parser())
    acted_on = iw("a1")
    acted_on["metadata"]["generation"] = 2
    now = build_world(replace(asked, workloads=(advised[0], acted_on, *advised[3:])), TODAY, Parser())
    fleet, looks = Fleet(), iter([False, False, True])

    await advise(world, lambda: now, fleet, dict.fromkeys(world.requirements, 1), lambda: next(looks))

    told = {name: memory for (_, name), memory in fleet.workloads.items() if memory.choice is not None}
    assert sorted(told) == ["a0", "a3"], "a1 is acted on now, a2 is gone, a4 comes in the next cycle"
    assert {memory.planned_generation for memory in told.values()} == {1}
    assert all(memory.choice and memory.choice.option for memory in told.values())
