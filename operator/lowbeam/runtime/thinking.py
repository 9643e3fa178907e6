"""What a plan is made from, and what takes long and needs no lock: planning in a thread, and what readers get of it.

Decides the order: first what to run, then, bit by bit, advice and explanations. Those cost more than the plan itself in
a fleet that is new, or whose cap was cut, and nobody's watts depend on them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice

from lowbeam.planning import Choice, Plan, Snapshot, WorkloadState, explained, plan
from lowbeam.power.ledger import ReplicaCharge, committed
from lowbeam.runtime.fleet import Fleet
from lowbeam.runtime.inventory import holdings
from lowbeam.runtime.replicas import WorkloadKey
from lowbeam.runtime.world import World

TOGETHER = 32
"""A cap that is cut meanwhile waits for so many explanations: some tenths of a second at most."""

Interrupted = Callable[[], bool]


def snapshot_of(
    world: World, fleet: Fleet, pinned: Callable[[WorkloadKey], bool], charges: Sequence[ReplicaCharge] = ()
) -> Snapshot:
    """What a plan is made from. `pinned`: whether anti-flap keeps a workload where it is; `charges`: of all pods."""
    planned, states = set(world.enforced()), []
    replicas = (replica for group in world.replicas.values() for replica in group)
    pods = holdings(charges, replicas, world.node_classes) if charges else {}
    for key in world.enforced():
        memory = fleet.of(key)
        option = memory.target.option if memory.target else None
        states.append(
            WorkloadState(
                world.requirements[key],
                world.standing(key, option) if option else None,
                dimmed=memory.dimming is not None,
                held=pinned(key),
                pods=pods.get(key, ()),
            )
        )
    others = [charge for charge in charges if (charge.namespace, charge.workload) not in planned]
    return Snapshot(
        world.catalogue,
        world.caps,
        world.inventory,
        tuple(states),
        reserved_milliwatts=committed(world.caps, others),
        reserved_accelerators=world.held_unplanned(),
    )


async def think(snapshot: Snapshot) -> Plan:
    """The plan, with the explanations that are known from earlier cycles."""
    return await asyncio.to_thread(_think, snapshot)


async def advise(
    world: World,
    now: Callable[[], World],
    fleet: Fleet,
    generations: Mapping[WorkloadKey, int],
    interrupted: Interrupted,
) -> None:
    """Plan each workload that only wants advice on its own, as it takes nothing from the others; until done or
    `interrupted`. `generations`: the specs that `world` was made of."""
    wanted = ((key, world.alone(key)) for key in world.advised())
    while not interrupted() and (part := list(islice(wanted, TOGETHER))):
        answers = await asyncio.to_thread(_plan_each, part)
        still = set(now().advised())
        for key, choice in answers:
            if key in still:
                memory = fleet.of(key)
                memory.choice = choice
                memory.planned(generations[key])


async def explain(snapshot: Snapshot, choices: Sequence[Choice], fleet: Fleet, interrupted: Interrupted) -> None:
    """Give the fleet's choices what they lack of explanations, until done or `interrupted`: the next cycle goes on."""
    lacking = [choice for choice in choices if not choice.explained]
    for start in range(0, len(lacking), TOGETHER):
        if interrupted():
            return
        part = lacking[start : start + TOGETHER]
        for before, after in zip(part, await asyncio.to_thread(explained, snapshot, part), strict=True):
            memory = fleet.workloads.get(before.key)
            if memory is not None and memory.choice is before:  # else another plan, or edit, was faster
                memory.choice = after


def _think(snapshot: Snapshot) -> Plan:
    answer = plan(snapshot, explain=False)
    return replace(answer, choices=explained(snapshot, answer.choices, known=True))


def _plan_each(asked: Sequence[tuple[WorkloadKey, Snapshot]]) -> list[tuple[WorkloadKey, Choice]]:
    return [(key, plan(snapshot).choices[0]) for key, snapshot in asked]
