"""Which nodes may run a replica of an accelerator class in a pool.

Decides node affinity and tolerations. The inventory that planning counts must be of the same nodes: a test compares the
terms with `catalog.class_of_node` and the pools of the caps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from lowbeam.catalog.facts import AcceleratorClass
from lowbeam.catalog.nodes import CLASS_LABEL, PRODUCT_LABEL
from lowbeam.render import labels

GPU_TOLERATION: Mapping[str, str] = {"key": labels.GPU_RESOURCE, "operator": "Exists", "effect": "NoSchedule"}
"""Passes the taint that GPU nodes usually carry."""


def needs_accelerator(accelerator: AcceleratorClass) -> bool:
    """False for the class `cpu`, whose replicas ask for no device."""
    return bool(accelerator.product_labels)


def node_selector_terms(
    accelerator: AcceleratorClass, pool: Mapping[str, str], other_pools: Sequence[Mapping[str, str]] = ()
) -> list[dict[str, Any]]:
    """Alternatives (any may match) for `requiredDuringSchedulingIgnoredDuringExecution`.

    A node counts by its product label, or because its team named the class with `lowbeam.dev/accelerator-class`, which
    wins over the product and is the only way for a class without boards. To be in none of `other_pools`, a node must
    lack one label of each.
    """
    of_class = [[_expression(CLASS_LABEL, "In", accelerator.name)]]
    if needs_accelerator(accelerator):
        boards = _expression(PRODUCT_LABEL, "In", *sorted(accelerator.product_labels))
        of_class.insert(0, [boards, _expression(CLASS_LABEL, "DoesNotExist")])
    inside = [_expression(key, "In", value) for key, value in sorted(pool.items())]
    outside = product(*([_expression(key, "NotIn", value) for key, value in sorted(p.items())] for p in other_pools))
    return [{"matchExpressions": [*one_class, *inside, *lacks]} for lacks in outside for one_class in of_class]


def tolerations(accelerator: AcceleratorClass) -> list[dict[str, Any]]:
    """What our pods must tolerate; users add theirs."""
    return [dict(GPU_TOLERATION)] if needs_accelerator(accelerator) else []


def _expression(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"key": key, "operator": operator, **({"values": list(values)} if values else {})}
