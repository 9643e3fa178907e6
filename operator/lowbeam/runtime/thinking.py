"""What takes long and needs no lock: planning in a thread, and the explanations after it.

Decides the order: first what to run, then, bit by bit, why. Explanations cost more than the plan itself in a fleet that
is new, or whose cap was cut, and nobody's watts depend on them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from lowbeam.api.v1alpha1 import WorkloadMode
from lowbeam.planning import Choice, Plan, Snapshot, WorkloadState, explained, plan
from lowbeam.power.caps import CapTree
from lowbeam.runtime.fleet import Fleet
from lowbeam.runtime.replicas import WorkloadKey
from lowbeam.runtime.world import World

EXPLAINED_TOGETHER = 32
"""A cap that is cut meanwhile waits no longer than for so many explanations: about a tenth of a second."""


@dataclass(frozen=True, slots=True)
class Thoughts:
    """What one planner cycle found."""

    plan: Plan
    """With the explanations that are known from earlier cycles."""
    advice: dict[WorkloadKey, Choice]
    """For the workloads that only want advice, each planned on its own: it takes nothing from the others."""


async def think(snapshot: Snapshot, world: World) -> Thoughts:
    """Plan the snapshot; `world` is what it was made of."""
    return await asyncio.to_thread(_think, snapshot, world)


async def explain(snapshot: Snapshot, choices: Sequence[Choice], fleet: Fleet, interrupted: Callable[[], bool]) -> None:
    """Give the fleet's choices what they lack of explanations, until done or `interrupted`: the next cycle goes on."""
    for start in range(0, len(choices), EXPLAINED_TOGETHER):
        if interrupted():
            return
        part = choices[start : start + EXPLAINED_TOGETHER]
        for before, after in zip(part, await asyncio.to_thread(explained, snapshot, part), strict=True):
            memory = fleet.workloads.get(before.key)
            if memory is not None and memory.choice is before:  # else another plan, or edit, was faster
                memory.choice = after


def _think(snapshot: Snapshot, world: World) -> Thoughts:
    answer = plan(snapshot, explain=False)
    known = replace(answer, choices=explained(snapshot, answer.choices, known=True))
    alone = {
        key: Snapshot(world.catalogue, CapTree(), world.inventory, (WorkloadState(needs),))
        for key, needs in world.requirements.items()
        if world.workloads[key].spec.mode is WorkloadMode.ADVISE
    }
    return Thoughts(known, {key: plan(asked).choices[0] for key, asked in alone.items()})
