"""Raw pods, workloads and nodes as the emulator reads them.

Decides which pods are played (worker pods that run on KWOK nodes and have an address) and what each of them is. Part of
the emulator (tests and demos only).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lowbeam.render import Placement, labels

KWOK_NODE = ("kwok.x-k8s.io/node", "fake")
"""Annotation of the nodes that KWOK plays."""

Raw = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Member:
    """One pod to play."""

    uid: str
    namespace: str
    name: str
    workload: str
    """Value of the workload label."""
    address: str
    placement: Placement | None
    """None when the annotation is missing or edited: then there is nothing to compute watts from."""
    token: str
    """What the control port asks for; empty = nothing."""
    ready: bool
    terminating: bool
    created: str


@dataclass(frozen=True, slots=True)
class Demand:
    """What a workload says about its task and its load."""

    task: str
    requests_per_second: float
    input_tokens: int
    output_tokens: int


def fake_nodes(nodes: Iterable[Raw]) -> set[str]:
    """Names of the nodes that KWOK plays."""
    key, value = KWOK_NODE
    return {n["metadata"]["name"] for n in nodes if n["metadata"].get("annotations", {}).get(key) == value}


def member_of(pod: Raw, nodes: set[str]) -> Member | None:
    """The pod as a member, or None when it is not ours to play (yet)."""
    metadata, spec, status = pod["metadata"], pod.get("spec", {}), pod.get("status", {})
    found = metadata.get("labels", {})
    address = status.get("podIP")
    if labels.WORKLOAD not in found or spec.get("nodeName") not in nodes:
        return None
    if not address or status.get("phase") != "Running":
        return None
    return Member(
        uid=metadata["uid"],
        namespace=metadata["namespace"],
        name=metadata["name"],
        workload=found[labels.WORKLOAD],
        address=address,
        placement=Placement.from_annotation(metadata.get("annotations", {}).get(labels.OPTION, "")),
        token=_token(spec),
        ready=any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions", ())),
        terminating="deletionTimestamp" in metadata,
        created=metadata.get("creationTimestamp", ""),
    )


def by_address(members: Iterable[Member]) -> dict[str, Member]:
    """One member per address: KWOK reuses the address of a deleted pod before everybody has seen the deletion."""
    ordered = sorted(members, key=lambda m: (not m.terminating, m.created, m.uid))
    return {member.address: member for member in ordered}


def demands_of(workloads: Iterable[Raw]) -> dict[tuple[str, str], Demand]:
    """Demand by (namespace, value of the workload label); a workload that cannot be read has none."""
    demands: dict[tuple[str, str], Demand] = {}
    for raw in workloads:
        metadata, spec = raw["metadata"], raw.get("spec", {})
        load = spec.get("load", {})
        try:
            demand = Demand(
                task=str(spec["task"]),
                requests_per_second=load["requestsPerMinute"] / 60,
                input_tokens=int(load["inputTokens"]),
                output_tokens=int(load["outputTokens"]),
            )
        except (KeyError, TypeError, ValueError):
            continue
        demands[metadata["namespace"], labels.label_value(metadata["name"])] = demand
    return demands


def _token(spec: Raw) -> str:
    for container in spec.get("containers", ()):
        for variable in container.get("env", ()):
            if variable["name"] == labels.ENV_CONTROL_TOKEN:
                return str(variable.get("value", ""))
    return ""
