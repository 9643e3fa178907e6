"""What it costs to plan a large fleet over a core of its columns: CPU time, and what each priority loses.

Judged by priority, from the highest down, as the goals are: a sum over all would fall when a high one loses to many low
ones (docs/design/a-core-for-large-fleets.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from unittest.mock import patch

from lowbeam.planning import Plan, Snapshot, optimise, plan, relaxation

from . import instances
from .figures import MISSING, Section, Table, number
from .reference import cpu_seconds

COUNTS = (1000, 2000)
SEEDS = (1, 2)
_CAP_PERCENT = 75
_STOCK_PERCENT = 70
_ALL = 10**9


def measure(say: Callable[[str], None]) -> Section:
    """Fleets under caps, short of everything, and short of boards from one cycle to the next."""
    rows: list[list[str]] = []
    priorities = sorted({it.priority for it in instances.requirements(COUNTS[0])}, reverse=True)
    for count in COUNTS:
        for seed in SEEDS:
            for name, snapshot, both in _fleets(count, seed):
                for how, columns in (("whole", _ALL), ("over a core", optimise.WHOLE_COLUMNS)):
                    say(f"{count} workloads, seed {seed}, {name}, {how}")
                    seconds, lost = (None, {}) if how == "whole" and not both else _plan(snapshot, columns)
                    figures = [f"{lost[it]:,}" if it in lost else MISSING for it in priorities]
                    took = MISSING if seconds is None else number(seconds, 1)
                    rows.append([f"{count}, seed {seed}: {name}", how, took, *figures])
    header = ("fleet", "solved", "decided after, CPU s", *(f"unserved at {it}, req/s" for it in priorities))
    return Section(
        title="Large fleets",
        about=(
            f"Passes of more than {optimise.WHOLE_COLUMNS:,} columns are branched over {optimise.CORE_COLUMNS:,} of "
            "them; whole: the same with no such bound. Requests per second that stay unserved, by priority, those of "
            "paused workloads included. Whole plans of fleets that lost boards are left out: their passes turn on the "
            f"spot until the net of {relaxation.LONGEST_PASS_SECONDS} s each."
        ),
        tables=[Table(header, rows)],
    )


def _fleets(count: int, seed: int) -> Iterator[tuple[str, Snapshot, bool]]:
    """(name, fleet, whether it can be solved whole)."""
    start = instances.unlimited(count, seed)
    free = plan(start, explain=False)
    capped = instances.under_cluster_cap(start, free, _CAP_PERCENT)
    yield f"cluster cap at {_CAP_PERCENT} %", capped, True
    yield "caps and stock of every kind", instances.under_every_limit(start, free, seed), True
    yield (
        f"the same cap, then {_STOCK_PERCENT} % of the boards",
        instances.short_of_boards(capped, plan(capped, explain=False), _STOCK_PERCENT),
        False,
    )


def _plan(snapshot: Snapshot, whole_columns: int) -> tuple[float, dict[int, int]]:
    """CPU seconds until it is decided, and requests per second unserved by priority."""
    with patch.object(optimise, "WHOLE_COLUMNS", whole_columns):
        seconds, made = cpu_seconds(lambda: plan(snapshot, explain=False))
    return seconds, {level: round(milli / 1000) for level, milli in unserved(snapshot, made).items()}


def unserved(snapshot: Snapshot, made: Plan) -> dict[int, int]:
    """Thousandths of requests per second by priority; a paused workload serves none."""
    needs = {state.requirements.key: state.requirements for state in snapshot.workloads}
    found: dict[int, int] = {}
    for choice in made.choices:
        asked = needs[choice.key]
        lost = choice.option.unserved_millirps if choice.option else asked.demand.requests_per_second_milli
        found[asked.priority] = found.get(asked.priority, 0) + lost
    return found
