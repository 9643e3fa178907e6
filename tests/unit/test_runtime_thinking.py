"""Why a choice was made is worked out after it was made, and never in the way of the next."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Any

from lowbeam.cli.plan import snapshot_of
from lowbeam.planning import plan
from lowbeam.runtime import thinking
from lowbeam.runtime.fleet import Fleet
from lowbeam.runtime.thinking import explain, think
from lowbeam.runtime.world import Objects, Parser, build_world
from tests.unit.test_runtime_world import iw, node

TODAY = date(2026, 11, 21)
NODES = (node("n1"),)


def _never() -> bool:
    return False


async def test_decisions_come_first_and_explanations_after_them(monkeypatch: Any) -> None:
    monkeypatch.setattr(thinking, "EXPLAINED_TOGETHER", 2)
    workloads = tuple(
        iw(f"w{i}", load={"requestsPerMinute": 60 + i, "inputTokens": 137, "outputTokens": 1}) for i in range(5)
    )
    world = build_world(Objects(workloads=workloads, nodes=NODES), TODAY, Parser())
    snapshot, fleet = snapshot_of(world), Fleet()
    choices = (await think(snapshot, world)).plan.choices
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
    world = build_world(Objects(workloads=(iw("w"), iw("v", mode="Advise")), nodes=NODES), TODAY, Parser())
    snapshot = snapshot_of(world)
    whole = plan(snapshot)
    thoughts = await think(snapshot, world)
    assert thoughts.plan.choices == whole.choices
    assert thoughts.plan.choices[0].alternatives
    (advised,) = thoughts.advice.values()
    assert (advised.key, bool(advised.alternatives)) == (("team", "v"), True)
