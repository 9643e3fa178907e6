"""Planning: from one Snapshot to one Plan, and from one option to the next. Pure: no clock, no I/O.

plan(snapshot) -> Plan                      the best choice for all workloads under all caps
explained(snapshot, choices) -> choices     with what lost and what would save energy, where `plan` left that out
move_between(before, after) -> Move         lever, freed watts, surge and settle time of a step
"""

from __future__ import annotations

from lowbeam.planning.explain import (
    cap_table,
    cost_table,
    doubt_lines,
    explain_data,
    explain_lines,
    labelled,
    plan_data,
    plan_table,
    trouble_lines,
)
from lowbeam.planning.moves import Lever, Move, levers_between, move_between
from lowbeam.planning.plan import Sized, explained, plan, size_all
from lowbeam.planning.plan_types import Alternative, Choice, Plan
from lowbeam.planning.shed import Shed, ShedBook, ShedOrder, choose_sheds
from lowbeam.planning.snapshot import Holding, Inventory, Snapshot, WorkloadState

__all__ = [
    "Alternative",
    "Choice",
    "Holding",
    "Inventory",
    "Lever",
    "Move",
    "Plan",
    "Shed",
    "ShedBook",
    "ShedOrder",
    "Sized",
    "Snapshot",
    "WorkloadState",
    "cap_table",
    "choose_sheds",
    "cost_table",
    "doubt_lines",
    "explain_data",
    "explain_lines",
    "explained",
    "labelled",
    "levers_between",
    "move_between",
    "plan",
    "plan_data",
    "plan_table",
    "size_all",
    "trouble_lines",
]
