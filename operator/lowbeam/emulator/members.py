"""Raw pods, workloads and nodes as the emulator reads them.

Decides which pods are played (worker pods and node agents that run on KWOK nodes and have an address), what each of
them is, and which containers hold boards. Part of the emulator (tests and demos only).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from lowbeam.api.wire import AGENT_PORT
from lowbeam.render import Placement, labels
from lowbeam.runtime.replicas import holds_accelerators, whole

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
    node: str
    address: str
    placement: Placement | None
    """None when the annotation is missing or edited: then there is nothing to compute watts from."""
    token: str
    """What the control port asks for; empty = nothing."""
    ready: bool
    terminating: bool
    created: str


@dataclass(frozen=True, slots=True)
class Agent:
    """The pod of a node's agent."""

    uid: str
    namespace: str
    name: str
    node: str
    address: str
    port: int
    terminating: bool
    created: str


@dataclass(frozen=True, slots=True)
class Guest:
    """A pod that holds boards of a node, ours or not."""

    uid: str
    namespace: str
    name: str
    node: str
    containers: tuple[str, ...]
    """One name for each board."""
    created: str


Addressed = TypeVar("Addressed", Member, Agent)


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
        node=spec["nodeName"],
        address=address,
        placement=Placement.from_annotation(metadata.get("annotations", {}).get(labels.OPTION, "")),
        token=_token(spec),
        ready=any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions", ())),
        terminating="deletionTimestamp" in metadata,
        created=metadata.get("creationTimestamp", ""),
    )


def agent_of(pod: Raw, nodes: set[str]) -> Agent | None:
    """The pod as an agent, or None when it is none or not ours to play (yet)."""
    metadata, spec, status = pod["metadata"], pod.get("spec", {}), pod.get("status", {})
    address = status.get("podIP")
    if not is_agent(pod) or spec.get("nodeName") not in nodes or not address or status.get("phase") != "Running":
        return None
    ports = (port for container in spec.get("containers", ()) for port in container.get("ports", ()))
    return Agent(
        uid=metadata["uid"],
        namespace=metadata["namespace"],
        name=metadata["name"],
        node=spec["nodeName"],
        address=address,
        port=next((it["containerPort"] for it in ports if it.get("name") == labels.AGENT_PORT_NAME), AGENT_PORT),
        terminating="deletionTimestamp" in metadata,
        created=metadata.get("creationTimestamp", ""),
    )


def is_agent(pod: Raw) -> bool:
    """Whether the labels are those of `labels.AGENT_SELECTOR`."""
    wanted = dict(part.split("=") for part in labels.AGENT_SELECTOR.split(","))
    return bool(wanted.items() <= pod["metadata"].get("labels", {}).items())


def guest_of(pod: Raw) -> Guest | None:
    """The pod as a holder of boards; None when it asks for none, is bound to no node, or has ended."""
    if not holds_accelerators(pod):
        return None
    metadata, spec = pod["metadata"], pod["spec"]
    asked = [
        (it["name"], whole(it.get("resources", {}).get("limits", {}).get(labels.GPU_RESOURCE, 0)))
        for it in spec["containers"]
    ]
    return Guest(
        uid=metadata["uid"],
        namespace=metadata["namespace"],
        name=metadata["name"],
        node=spec["nodeName"],
        containers=tuple(name for name, boards in asked for _ in range(boards)),
        created=metadata.get("creationTimestamp", ""),
    )


def by_address(members: Iterable[Addressed]) -> dict[str, Addressed]:
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
