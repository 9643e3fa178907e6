"""Inventory: how many accelerators of each class each pool has.

Decides nothing. Built by runtime/mirror from nodes, by the CLI from a flag. One row per (pool, class).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Inventory:
    """Allocatable accelerators of one class in one pool (class `cpu`: how many CPU replicas fit)."""

    pool: str
    accelerator_class: str
    accelerators: int
    largest_node: int
    """Most accelerators on one node: bounds accelerators per replica."""
