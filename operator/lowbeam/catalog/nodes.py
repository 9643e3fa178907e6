"""Which accelerator class a node belongs to, from its labels.

The label `lowbeam.dev/accelerator-class` wins: its owner knows. Else the product label of GPU feature discovery must
equal a label of a class; a node without GPUs serves only when it is labelled by hand. A MIG slice or a time-shared
board (`...-MIG-1g.10gb`, `...-SHARED`) is no whole board: it has other memory, speed and watts than the class's
profiles say, so it belongs to a class only where one lists its label in full, or where the node is labelled by hand.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from lowbeam.catalog.facts import Catalogue

CLASS_LABEL: Final = "lowbeam.dev/accelerator-class"
PRODUCT_LABEL: Final = "nvidia.com/gpu.product"
AMD_PRODUCT_LABEL: Final = "amd.com/gpu.product-name"
"""Written by AMD's node labeller. No class is matched by it: pods ask for nvidia.com/gpu, which no such node has."""

_PART_OF_A_BOARD = re.compile(r"(-SHARED|-MIG-[0-9]+g\.[0-9]+gb(\.me)?)+$")


def class_of_node(labels: Mapping[str, str], catalogue: Catalogue) -> str | None:
    """Name of the class, or None when the catalogue has none for this node."""
    named = labels.get(CLASS_LABEL)
    if named is not None:
        return named if named in catalogue.accelerator_classes else None
    product = labels.get(PRODUCT_LABEL)
    return None if product is None else _class_of_product(product, catalogue)


def why_no_class(labels: Mapping[str, str], catalogue: Catalogue) -> str:
    """One sentence for a node that `class_of_node` does not know: what it is and what to do."""
    named = labels.get(CLASS_LABEL)
    if named is not None:
        known = ", ".join(sorted(catalogue.accelerator_classes))
        return f"label {CLASS_LABEL}={named} names no class (known: {known}); correct it, or add an AcceleratorClass"
    product = labels.get(PRODUCT_LABEL)
    if product is None and AMD_PRODUCT_LABEL in labels:
        return (
            f"the node has {labels[AMD_PRODUCT_LABEL]} boards ({AMD_PRODUCT_LABEL}), and replicas ask for "
            "nvidia.com/gpu: Lowbeam places none on it"
        )
    if product is None:
        return f"the node has no {PRODUCT_LABEL}; to run replicas without accelerator on it, label it {CLASS_LABEL}=cpu"
    whole = _class_of_product(_PART_OF_A_BOARD.sub("", product), catalogue)
    if whole is not None:
        return (
            f"{product} is a part of a board of class {whole}, whose profiles do not hold for it; "
            f"add an AcceleratorClass with productLabels [{product}] and profiles of its own"
        )
    return f"no class has the product label {product}; add an AcceleratorClass, or label the node {CLASS_LABEL}"


def _class_of_product(product: str, catalogue: Catalogue) -> str | None:
    return next((c.name for c in catalogue.accelerator_classes.values() if product in c.product_labels), None)
