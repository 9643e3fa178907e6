"""The Snapshot: one immutable value per cycle, everything that a decision may depend on.

Decides nothing. Built by runtime/mirror from API objects and samples; by simulation from a virtual cluster; by the CLI
from files. Two equal snapshots give equal plans, whatever the order in which their parts arrived.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lowbeam.catalog.facts import Catalogue
from lowbeam.power.caps import CapTree
from lowbeam.sizing.inventory import Inventory
from lowbeam.sizing.options import Option
from lowbeam.sizing.requirements import Requirements

__all__ = ["Holding", "Inventory", "Snapshot", "WorkloadState"]


@dataclass(frozen=True, slots=True)
class Holding:
    """What one pod takes."""

    pool: str
    accelerator_class: str
    """Empty while it holds no accelerator of a node."""
    accelerators: int
    milliwatts: int
    """At most, as the ledger charges it."""


@dataclass(frozen=True, slots=True)
class WorkloadState:
    """One workload: what it needs and what it runs."""

    requirements: Requirements
    running: Option | None = None
    """The option in force (decided and written), None before the first decision."""
    dimmed: bool = False
    held: bool = False
    """True: the plan must keep `running` (pinned by anti-flap, or advise mode of the caps)."""
    pods: tuple[Holding, ...] = ()
    """What is there of it now, also where `running` is not known: a new leader may find pods that no option of today
    stands for."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Input of `planning.plan`."""

    catalogue: Catalogue
    caps: CapTree
    inventory: tuple[Inventory, ...]
    workloads: tuple[WorkloadState, ...]
    reserved_milliwatts: Mapping[str, int] = field(default_factory=dict)
    """Per cap: what pods may draw that no workload here stands for, because it was refused or only wants advice."""
    reserved_accelerators: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """By (pool, class), of `inventory`: what such pods hold."""
