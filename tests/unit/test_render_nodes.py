from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowbeam.catalog.facts import AcceleratorClass, Catalogue, Source
from lowbeam.catalog.nodes import class_of_node
from lowbeam.power.tree import build_cap_tree, kept_out, pool_of_node, strongest_first
from lowbeam.render import node_selector_terms
from lowbeam.render.nodes import MOST_WAYS
from tests.builders import cap

H100 = AcceleratorClass("h100", ("NVIDIA-H100", "NVIDIA-H100-SXM"), 1, 90, (), 1, 1, Source("", ""))
CPU = AcceleratorClass("cpu", (), 0, 0, (), 1, 1, Source("", ""))
NODES = st.fixed_dictionaries(
    {},
    optional={
        "nvidia.com/gpu.product": st.sampled_from(["NVIDIA-H100", "NVIDIA-H100-SXM", "NVIDIA-L4"]),
        "lowbeam.dev/accelerator-class": st.sampled_from(["h100", "l4", "cpu"]),
        "row": st.sampled_from(["a", "b"]),
        "rack": st.sampled_from(["1", "2"]),
    },
)


def scheduler_picks(terms: list[dict[str, Any]], node: Mapping[str, str]) -> bool:
    """The scheduler's rule: any term, all of its expressions; a label that is not there is NotIn everything."""

    def holds(expression: Mapping[str, Any]) -> bool:
        value = node.get(expression["key"])
        match expression["operator"]:
            case "In":
                return value in expression["values"]
            case "NotIn":
                return value not in expression["values"]
            case "DoesNotExist":
                return value is None
        raise AssertionError(expression)

    return any(all(holds(e) for e in term["matchExpressions"]) for term in terms)


@pytest.mark.parametrize(
    ("accelerator", "node", "picked"),
    [
        (H100, {"nvidia.com/gpu.product": "NVIDIA-H100-SXM"}, True),
        (H100, {"nvidia.com/gpu.product": "NVIDIA-L4"}, False),
        (H100, {}, False),
        (H100, {"lowbeam.dev/accelerator-class": "h100"}, True),
        (H100, {"nvidia.com/gpu.product": "NVIDIA-H100", "lowbeam.dev/accelerator-class": "cpu"}, False),
        (CPU, {}, False),
        (CPU, {"lowbeam.dev/accelerator-class": "cpu"}, True),
        (CPU, {"nvidia.com/gpu.product": "NVIDIA-H100"}, False),
        (CPU, {"nvidia.com/gpu.product": "NVIDIA-H100", "lowbeam.dev/accelerator-class": "cpu"}, True),
        (CPU, {"lowbeam.dev/accelerator-class": "h100"}, False),
    ],
)
def test_a_node_counts_by_its_board_unless_its_team_named_the_class(
    accelerator: AcceleratorClass, node: dict[str, str], picked: bool
) -> None:
    assert scheduler_picks(node_selector_terms(accelerator, {}), node) is picked


@given(st.sampled_from([H100, CPU]), NODES)
def test_the_inventory_counts_exactly_the_nodes_that_the_scheduler_may_use(
    accelerator: AcceleratorClass, node: dict[str, str]
) -> None:
    counted = class_of_node(node, Catalogue(accelerator_classes={"h100": H100, "cpu": CPU}))
    assert scheduler_picks(node_selector_terms(accelerator, {}), node) is (counted == accelerator.name)


@given(st.sampled_from([H100, CPU]), NODES)
def test_the_pool_of_all_other_nodes_takes_none_from_the_pools_of_caps(
    accelerator: AcceleratorClass, node: dict[str, str]
) -> None:
    pools = [{"row": "a", "rack": "1"}, {"row": "b"}]
    in_a_pool = [pool.items() <= node.items() for pool in pools]
    of_class = scheduler_picks(node_selector_terms(accelerator, {}), node)
    assert scheduler_picks(node_selector_terms(accelerator, {}, pools), node) is (of_class and not any(in_a_pool))
    for pool, inside in zip(pools, in_a_pool, strict=True):
        assert scheduler_picks(node_selector_terms(accelerator, pool), node) is (of_class and inside)


POOLS = st.dictionaries(
    st.sampled_from(["a", "b", "c", "d"]),
    st.dictionaries(st.sampled_from(["row", "rack"]), st.sampled_from(["1", "2", "a"]), min_size=1),
    max_size=4,
)


@given(POOLS, st.dictionaries(st.sampled_from(["row", "rack"]), st.sampled_from(["1", "2", "a"])), st.booleans())
def test_the_scheduler_uses_a_node_for_the_pool_that_counts_it_and_for_no_other(
    chosen: dict[str, dict[str, str]], place: dict[str, str], nested: bool
) -> None:
    names = sorted(chosen)
    above = ["", *names] if nested else [""] * len(names)
    caps = [cap(name, 1000, pool=name, parent=parent) for name, parent in zip(names, above, strict=False)]
    tree = build_cap_tree(caps)
    pools = strongest_first(chosen.items(), tree)
    node = {"lowbeam.dev/accelerator-class": "cpu", **place}
    match = pool_of_node(node, pools, tree)
    out = kept_out(pools, tree, [match])
    used = [
        name for name in ("", *pools) if scheduler_picks(node_selector_terms(CPU, pools.get(name, {}), out[name]), node)
    ]
    assert used == [match.pool or ""]


@pytest.mark.parametrize(
    ("pools", "ways"),
    [
        ([{"zone": f"z{n % 4}", "row": f"r{n // 4}"} for n in range(40)], 2),
        ([{"zone": "z", "row": f"r{n}"} for n in range(40)], 2),
        ([{f"one{n}": "1", f"other{n}": "1"} for n in range(30)], MOST_WAYS),
    ],
)
def test_many_pools_make_no_endless_affinity(pools: list[dict[str, str]], ways: int) -> None:
    terms = node_selector_terms(CPU, {}, pools)
    assert len(terms) == ways
    node = {"lowbeam.dev/accelerator-class": "cpu"}
    assert scheduler_picks(terms, node)
    assert not any(scheduler_picks(terms, {**node, **pool}) for pool in pools)
