"""Which nodes may run a replica of an accelerator class in a pool.

Decides node affinity and tolerations. The inventory that planning counts must be of the same nodes: a test compares the
terms with `catalog.class_of_node` and the pools of the caps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

from lowbeam.catalog.facts import AcceleratorClass
from lowbeam.catalog.nodes import CLASS_LABEL, PRODUCT_LABEL
from lowbeam.render import labels

GPU_TOLERATION: Mapping[str, str] = {"key": labels.GPU_RESOURCE, "operator": "Exists", "effect": "NoSchedule"}
"""Passes the taint that GPU nodes usually carry."""
MOST_WAYS: Final = 256
"""To lack a label of each pool: an object of Kubernetes holds about 1 MB. Nodes that fit no kept way stay unused."""


def needs_accelerator(accelerator: AcceleratorClass) -> bool:
    """False for the class `cpu`, whose replicas ask for no device."""
    return bool(accelerator.product_labels)


def node_selector_terms(
    accelerator: AcceleratorClass, pool: Mapping[str, str], other_pools: Sequence[Mapping[str, str]] = ()
) -> list[dict[str, Any]]:
    """Alternatives (any may match) for `requiredDuringSchedulingIgnoredDuringExecution`.

    A node counts by its product label, or because its team named the class with `lowbeam.dev/accelerator-class`, which
    wins over the product and is the only way for a class without boards. To be in none of `other_pools`, a node must
    lack one label of each; of more than `MOST_WAYS` ways to do so those with the fewest labels are kept.
    """
    of_class = [[_expression(CLASS_LABEL, "In", accelerator.name)]]
    if needs_accelerator(accelerator):
        boards = _expression(PRODUCT_LABEL, "In", *sorted(accelerator.product_labels))
        of_class.insert(0, [boards, _expression(CLASS_LABEL, "DoesNotExist")])
    inside = [_expression(key, "In", value) for key, value in sorted(pool.items())]
    return [
        {"matchExpressions": [*one_class, *inside, *lacks]}
        for lacks in _ways_outside(other_pools)
        for one_class in of_class
    ]


def _ways_outside(pools: Sequence[Mapping[str, str]]) -> list[list[dict[str, Any]]]:
    """Ways to lack a label of each pool, none of which says more than another one."""
    ways: set[frozenset[tuple[str, str]]] = {frozenset()}
    for pool in pools:
        grown = {way if way & pool.items() else way | {label} for way in ways for label in pool.items()}
        least = sorted(
            (it for it in grown if not any(other < it for other in grown)), key=lambda it: (len(it), sorted(it))
        )
        ways = set(least[:MOST_WAYS])
    return [
        [
            _expression(key, "NotIn", *sorted(value for _, value in labels_of_key))
            for key, labels_of_key in groupby(sorted(way), key=itemgetter(0))
        ]
        for way in sorted(ways, key=lambda it: (len(it), sorted(it)))
    ]


def tolerations(accelerator: AcceleratorClass) -> list[dict[str, Any]]:
    """What our pods must tolerate; users add theirs."""
    return [dict(GPU_TOLERATION)] if needs_accelerator(accelerator) else []


def _expression(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"key": key, "operator": operator, **({"values": list(values)} if values else {})}
