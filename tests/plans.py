"""Plans of small fleets: a frugal model and a better one on plenty of accelerators."""

from __future__ import annotations

from lowbeam.planning import Plan, plan
from lowbeam.planning.feasibility import violations
from lowbeam.power.caps import Cap
from lowbeam.sizing import Inventory, Option
from tests.builders import WorkloadBuilder, catalogue_of, model, snapshot, stock

SMALL = model("small").quality("80").on("gpu", (1, 60, 10, 100), (8, 100, 40, 180))
LARGE = model("large").quality("95").on("gpu", (1, 300, 5, 200), (8, 500, 20, 400))
CATALOGUE = catalogue_of(SMALL, LARGE)
BOTH = catalogue_of(SMALL.on("gpu-2", (1, 60, 10, 100)), LARGE)
ROOM = stock(gpu=64)


def planned(*workloads: WorkloadBuilder, caps: tuple[Cap, ...] = (), inventory: tuple[Inventory, ...] = ROOM) -> Plan:
    shot = snapshot(workloads, CATALOGUE, inventory, *caps)
    made = plan(shot)
    assert violations(shot, made.choices) == ()
    return made


def chosen(made: Plan, name: str) -> Option:
    choice = made.choice("team", name)
    assert choice is not None
    assert choice.option is not None, choice.message
    return choice.option


def worst_watts(made: Plan) -> int:
    return sum(c.option.worst_case_milliwatts for c in made.choices if c.option) // 1000
