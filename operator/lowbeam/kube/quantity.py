"""Quantities as Kubernetes writes them."""

from __future__ import annotations

from kubernetes.utils.quantity import parse_quantity


def whole_units(quantity: str) -> int:
    """Of "1k" 1000, of "3920m" 3: rounded down. Raises ValueError."""
    return int(parse_quantity(quantity))
