"""What power limits of boards give a fleet: watts where no cap binds, and what each priority keeps where one does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from lowbeam.planning import Inventory, Snapshot, plan

from . import instances
from .core import unserved
from .figures import Section, Table, number
from .reference import cpu_seconds

COUNTS = (100, 500)
SEEDS = (1, 2)
CAP_PERCENTS = (None, 75, 50)
"""Of what the fleet commits without a cap and without limits; None: no cap."""


def measure(say: Callable[[str], None]) -> Section:
    """The same fleets with and without agents that may set power limits."""
    rows: list[list[str]] = []
    priorities = sorted({it.priority for it in instances.requirements(COUNTS[0])}, reverse=True)
    for count in COUNTS:
        for seed in SEEDS:
            start = instances.unlimited(count, seed)
            free = plan(start, explain=False)
            for percent in CAP_PERCENTS:
                fleet = start if percent is None else instances.under_cluster_cap(start, free, percent)
                for limits in (False, True):
                    name = "no cap" if percent is None else f"cap at {percent} %"
                    say(f"{count} workloads, seed {seed}, {name}, {'power limits' if limits else 'none'}")
                    figures = _row(_with(fleet, board_limits=limits), priorities)
                    rows.append([f"{count}, seed {seed}: {name}", "yes" if limits else "no", *figures])
    header = ("fleet", "limits", "limited workloads", "decided after, CPU s", "expected kW", "committed kW")
    lost = (f"unserved at {it}, req/s" for it in priorities)
    return Section(
        title="Power limits of boards",
        about=(
            "The fleets of the planner's benchmark, on nodes whose agents may set power limits, and on others. Caps "
            "are of what the same fleet commits without cap and limits. Requests per second that stay unserved, by "
            "priority. What a limit does to a board is modelled (docs/catalogue-physics.md)."
        ),
        tables=[Table((*header, *lost), rows)],
    )


def _with(snapshot: Snapshot, *, board_limits: bool) -> Snapshot:
    def those(rows: Iterable[Inventory]) -> tuple[Inventory, ...]:
        return tuple(replace(row, board_limits=board_limits) for row in rows)

    states = tuple(
        state
        if state.requirements.reachable is None
        else replace(state, requirements=replace(state.requirements, reachable=those(state.requirements.reachable)))
        for state in snapshot.workloads
    )
    inventory, catalogue = those(snapshot.inventory), instances.fresh_catalogue()
    return replace(snapshot, catalogue=catalogue, inventory=inventory, workloads=states)


def _row(snapshot: Snapshot, priorities: Iterable[int]) -> list[str]:
    seconds, made = cpu_seconds(lambda: plan(snapshot, explain=False))
    options = [choice.option for choice in made.choices if choice.option is not None]
    lost = unserved(snapshot, made)
    return [
        str(sum(option.board_limit_watts > 0 for option in options)),
        number(seconds, 2),
        number(sum(option.expected_milliwatts for option in options) / 1_000_000, 1),
        number(sum(option.worst_case_milliwatts for option in options) / 1_000_000, 1),
        *(f"{round(lost[it] / 1000):,}" for it in priorities),
    ]
