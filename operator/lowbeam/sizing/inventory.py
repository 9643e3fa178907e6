"""Inventory: how many accelerators of each class each pool has.

Decides nothing. Built by runtime/mirror from nodes, by the CLI from a flag. One row per (pool, class).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Inventory:
    """Accelerators of one class in one pool that our pods may have (class `cpu`: how many CPU replicas fit)."""

    pool: str
    accelerator_class: str
    accelerators: int
    largest_node: int
    """Most accelerators on one node: bounds accelerators per replica."""
    held_by_others: int = 0
    """Accelerators of these nodes that pods of others hold. Not in `accelerators`."""
    board_limits: bool = False
    """The agents of all its nodes set power limits of boards."""
