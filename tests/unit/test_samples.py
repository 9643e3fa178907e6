"""The sample manifests do what their comments say, on the fleet that the demo has."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from lowbeam.api.v1alpha1.inferenceworkload import InferenceWorkload
from lowbeam.api.v1alpha1.loading import read_object
from lowbeam.api.v1alpha1.powercap import PowerCap
from lowbeam.catalog import load_builtin
from lowbeam.planning import Inventory, Plan, Snapshot, WorkloadState, plan
from lowbeam.power.caps import Cap
from lowbeam.power.tree import build_cap_tree
from lowbeam.sizing import Requirements, requirements_of

SAMPLES = Path(__file__).parents[2] / "workloads" / "samples"
DOCUMENTS: list[dict[str, Any]] = [
    document for file in sorted(SAMPLES.glob("*.yaml")) for document in yaml.safe_load_all(file.read_text())
]
WORKLOADS = [d for d in DOCUMENTS if d["kind"] == "InferenceWorkload"]
CAPS = [d for d in DOCUMENTS if d["kind"] == "PowerCap"]
README = (Path(__file__).parents[2] / "README.md").read_text()
CATALOGUE = load_builtin()
FLEET = (
    *(
        Inventory(pool, name, 2 * boards, boards)
        for pool in ("pool-a", "")
        for name, boards in (("h100", 8), ("a100", 8), ("l4", 4))
    ),
    Inventory("", "cpu", 2, 2),
)


def requirements() -> list[Requirements]:
    found = []
    for document in WORKLOADS:
        workload = InferenceWorkload.from_cluster(document)
        meta = workload.metadata
        answer = requirements_of(
            meta.namespace, meta.name, "uid", workload.spec, CATALOGUE, observed=None, today=date(2026, 12, 1)
        )
        assert isinstance(answer, Requirements), answer
        found.append(answer)
    return found


def planned(share_of_the_cluster_cap: float | None, before: Plan | None = None) -> Plan:
    caps = []
    for document in CAPS if share_of_the_cluster_cap is not None else ():
        cap = PowerCap.from_cluster(document)
        watts = cap.spec.watts
        if cap.metadata.name == "cluster":
            watts = int(watts * (share_of_the_cluster_cap or 1))
        caps.append(
            Cap(
                name=cap.metadata.name,
                uid=cap.metadata.name,
                parent=cap.spec.parent or "",
                watts=watts,
                meter_tolerance_percent=cap.spec.meter_tolerance_percent,
                overhead_watts=0,
                levers=tuple(lever.value for lever in cap.spec.levers),
                enforce=True,
                pause_lowest=False,
                pool=cap.metadata.name if cap.spec.scope.node_pool else None,
                namespaces=frozenset(cap.spec.scope.namespaces.names) if cap.spec.scope.namespaces else None,
            )
        )
    running = {choice.key: choice.option for choice in before.choices} if before else {}
    states = tuple(WorkloadState(needs, running.get(needs.key)) for needs in requirements())
    return plan(Snapshot(CATALOGUE, build_cap_tree(caps), FLEET, states))


def committed_watts(made: Plan) -> float:
    return sum(choice.option.worst_case_milliwatts for choice in made.choices if choice.option) / 1000


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: f"{d['kind']}-{d['metadata']['name']}")
def test_every_sample_is_valid_and_says_what_it_is_for(document: dict[str, Any]) -> None:
    if document["kind"] != "Namespace":
        assert read_object(document).problems == ()


def test_eight_workloads_in_three_namespaces_that_exist() -> None:
    namespaces = {d["metadata"]["name"] for d in DOCUMENTS if d["kind"] == "Namespace"}
    assert len(WORKLOADS) == 8
    assert {d["metadata"]["namespace"] for d in WORKLOADS} == namespaces
    assert len(namespaces) == 3
    assert len({d["spec"]["task"] for d in WORKLOADS}) == 4
    assert len({d["spec"]["priority"] for d in WORKLOADS}) == 8


def test_the_fleet_serves_all_of_them_without_a_cap_for_some_ten_kilowatts() -> None:
    made = planned(None)
    for choice in made.choices:
        assert choice.option is not None, choice
        assert choice.option.unserved_millirps == 0, choice
        assert choice.option.quality_shortfall_centi == 0, choice
    assert 8_000 < committed_watts(made) < 15_000


def test_nobody_is_dimmed_under_the_sample_caps_and_a_restore_passes_the_gate() -> None:
    made = planned(1.0)
    assert all(choice.option is not None and not choice.binding_cap for choice in made.choices)
    cluster = next(d for d in CAPS if d["metadata"]["name"] == "cluster")
    usable = cluster["spec"]["watts"] * 0.95
    assert committed_watts(made) <= 0.94 * usable


def test_at_seventy_percent_only_low_priorities_lose_and_nobody_falls_below_a_floor_without_consent() -> None:
    made = planned(0.7, before=planned(1.0))
    priority = {needs.key: needs.priority for needs in requirements()}
    chosen = {choice.key: choice.option for choice in made.choices if choice.option is not None}
    assert len(chosen) == 8, "nobody is paused"
    losers = {key for key, o in chosen.items() if o.unserved_millirps or o.quality_shortfall_centi}
    assert losers
    assert max(priority[key] for key in losers) <= 300
    assert {key for key, option in chosen.items() if option.below_floor} <= {("support", "summaries")}
    assert not made.unsatisfiable_caps


def test_reasoning_is_used_only_where_it_was_opted_in_to() -> None:
    reasoning = {choice.key: str(choice.option.reasoning) for choice in planned(None).choices if choice.option}
    assert reasoning.pop(("research", "grading")) != "Off"
    assert set(reasoning.values()) == {"Off"}


def test_the_manifests_of_the_readme_are_valid_and_ask_for_no_namespace_that_is_not_there() -> None:
    documents = [yaml.safe_load(text) for text in re.findall(r"^```yaml\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)]
    assert [it["kind"] for it in documents] == ["InferenceWorkload", "PowerCap"]
    for it in documents:
        assert read_object(it).problems == ()
        assert it["metadata"].get("namespace", "default") == "default"
