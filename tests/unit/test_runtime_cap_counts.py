"""How much a cap counts, and what somebody with a typing error in a selector reads."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from lowbeam.catalog import load_builtin
from lowbeam.render import labels
from lowbeam.runtime.cap_counts import MOST_COMPARED, Counted
from lowbeam.runtime.world import Objects, Parser, build_world

L4 = next(iter(load_builtin().accelerator_classes["l4"].product_labels))
NAMESPACES = ("team-a", "team-b")


def node(name: str, **more: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "labels": {"nvidia.com/gpu.product": L4, **more}},
        "status": {"allocatable": {labels.GPU_RESOURCE: "4"}},
    }


NODES = (node("n1", rack="seven", row="1"), node("n2", rack="eight", row="2"), node("n3"))
UNKNOWN = {"metadata": {"name": "n4", "labels": {"rack": "nine"}}, "status": {"allocatable": {"cpu": "64"}}}


def pcap(name: str, scope: dict[str, Any], **spec: Any) -> dict[str, Any]:
    metadata = {"name": name, "uid": f"uid-{name}", "resourceVersion": "1", "generation": 1}
    spec = {"scope": scope, "watts": 1000, **spec}
    return {"apiVersion": "lowbeam.dev/v1alpha1", "kind": "PowerCap", "metadata": metadata, "spec": spec}


def pool(**selector: str) -> dict[str, Any]:
    return {"nodePool": {"nodeSelector": selector}}


def counted(*caps: dict[str, Any], nodes: tuple[dict[str, Any], ...] = (*NODES, UNKNOWN)) -> dict[str, Counted]:
    namespaces = tuple({"metadata": {"name": it, "labels": {"team": it[-1], "stage": "test"}}} for it in NAMESPACES)
    objects = Objects(power_caps=caps, nodes=nodes, namespaces=namespaces)
    return dict(build_world(objects, datetime(2026, 11, 21, tzinfo=UTC), Parser()).counted)


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ({"cluster": {}}, Counted(accelerators=12)),
        (pool(rack="seven"), Counted(accelerators=4)),
        (pool(rack="nine"), Counted(accelerators=0)),
        ({"namespaces": {"names": ["team-a", "to-come"]}}, Counted(namespaces=1)),
        ({"namespaces": {"selector": {"matchLabels": {"stage": "test"}}}}, Counted(namespaces=2)),
    ],
)
def test_a_cap_counts_what_its_scope_fits(scope: dict[str, Any], expected: Counted) -> None:
    assert counted(pcap("cap", scope)) == {"cap": expected}


def test_the_nodes_of_the_pools_below_count_and_those_that_another_cap_claims_do_not() -> None:
    found = counted(
        pcap("row", pool(row="1")), pcap("rack", pool(rack="seven"), parent="row"), pcap("other", pool(row="1"))
    )
    assert found == {"row": Counted(4), "rack": Counted(4), "other": Counted(0)}, "CapOverlaps says why other has none"


@pytest.mark.parametrize(
    ("scope", "nothing"),
    [
        (pool(rack="sevn"), "no node carries rack=sevn (did you mean rack=seven?): nothing is counted"),
        (pool(rak="seven"), "no node carries rak=seven (did you mean rack=seven?): nothing is counted"),
        (pool(rak="7"), "no node carries rak=7 (did you mean rack?): nothing is counted"),
        (pool(rack="seven", row="2"), "no node carries rack=seven and row=2: nothing is counted"),
        (pool(zone="7"), "no node carries zone=7: nothing is counted"),
        (
            {"namespaces": {"selector": {"matchLabels": {"stage": "tets"}}}},
            "no namespace matches stage=tets (did you mean stage=test?): nothing is counted",
        ),
        (
            {"namespaces": {"names": ["taem-a"], "selector": {"matchLabels": {"stage": "live"}}}},
            "no namespace is called taem-a (did you mean team-a?), and no namespace matches stage=live: "
            "nothing is counted",
        ),
        (
            {"namespaces": {"names": ["v", "w", "x", "y", "z"]}},
            "no namespace is called v, w, x or 2 more: nothing is counted",
        ),
    ],
)
def test_a_scope_that_fits_nothing_says_what_is_not_there_and_what_is_near(scope: dict[str, Any], nothing: str) -> None:
    assert counted(pcap("cap", scope))["cap"].nothing == nothing


def test_the_nearest_of_very_many_values_is_not_looked_for() -> None:
    nodes = tuple(node(f"n{number}", host=f"h{number}") for number in range(MOST_COMPARED + 1))
    found = counted(pcap("cap", pool(host="h")), nodes=nodes)
    assert found["cap"].nothing == "no node carries host=h: nothing is counted"
