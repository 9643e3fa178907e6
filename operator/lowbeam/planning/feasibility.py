"""An independent check of a plan, in integers, on the options themselves: no arrays, no solver, no shared code.

Decides whether a plan may leave planning. Returns every violation as a sentence; an empty answer means: feasible.
"""

from __future__ import annotations

from collections.abc import Sequence

from lowbeam.planning.plan_types import Choice
from lowbeam.planning.snapshot import Snapshot
from lowbeam.sizing.requirements import Requirements


def violations(snapshot: Snapshot, choices: Sequence[Choice]) -> tuple[str, ...]:
    """What the choices break: caps, inventory, floors, counts. In a fixed order."""
    return (
        *_caps(snapshot, choices),
        *_inventory(snapshot, choices),
        *_promises(snapshot, choices),
    )


def committed_milliwatts(snapshot: Snapshot, choices: Sequence[Choice]) -> dict[str, int]:
    """Worst-case milliwatts of the choices under each cap, also those that only observe."""
    return {
        cap.name: sum(
            c.option.worst_case_milliwatts
            for c in choices
            if c.option is not None and cap.covers(c.namespace, c.option.pool)
        )
        for cap in snapshot.caps.caps
    }


def _caps(snapshot: Snapshot, choices: Sequence[Choice]) -> list[str]:
    committed = committed_milliwatts(snapshot, choices)
    return [
        f'cap "{cap.name}": {committed[cap.name]} mW committed, {left} mW left'
        for cap, usable in snapshot.caps.enforced()
        if committed[cap.name] > (left := max(0, usable - snapshot.reserved_milliwatts.get(cap.name, 0)))
    ]


def _inventory(snapshot: Snapshot, choices: Sequence[Choice]) -> list[str]:
    taken: dict[tuple[str, str], int] = {}
    for choice in choices:
        if choice.option is not None:
            where = (choice.option.pool, choice.option.accelerator_class)
            taken[where] = taken.get(where, 0) + choice.option.accelerators
    have = {where: -count for where, count in snapshot.reserved_accelerators.items()}
    for row in snapshot.inventory:
        where = (row.pool, row.accelerator_class)
        have[where] = have.get(where, 0) + row.accelerators
    return [
        f"pool {pool or 'cluster'}: {count} {name} planned, {have.get((pool, name), 0)} there"
        for (pool, name), count in sorted(taken.items())
        if count > have.get((pool, name), 0)
    ]


def _promises(snapshot: Snapshot, choices: Sequence[Choice]) -> list[str]:
    needs_of = {state.requirements.key: state.requirements for state in snapshot.workloads}
    return [line for choice in choices for line in _broken(needs_of[choice.key], choice)]


def _broken(needs: Requirements, choice: Choice) -> list[str]:
    option = choice.option
    if option is None:
        return []
    name, lines = f"{needs.namespace}/{needs.name}", []
    below = needs.floor_centi > 0 and (option.quality_centi is None or option.quality_centi < needs.floor_centi)
    if below and not needs.below_floor_when_capped:
        lines.append(f"{name}: {option.model} is below the floor and the owner did not consent")
    if option.replicas > needs.max_replicas:
        lines.append(f"{name}: {option.replicas} replicas, at most {needs.max_replicas} are allowed")
    return lines
