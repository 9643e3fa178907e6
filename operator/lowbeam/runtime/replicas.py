"""Worker pods and Deployments as the runtime sees them: small frozen views of raw objects.

Decides how a pod's state is read. Never trusts an annotation for power: what a replica may draw comes from the
catalogue and from its own telemetry.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from lowbeam.api.v1alpha1 import Engine
from lowbeam.catalog.engines import engine_named
from lowbeam.render import Placement, Shares, labels

WorkloadKey = tuple[str, str]
_ENDED = ("Succeeded", "Failed")
MOST_UNMADE = 2_000
"""Of one Deployment, counted one by one: more than that only a slip of the hand asks for (`kubectl scale`), and it is
taken back before so many are made."""


@dataclass(frozen=True, slots=True)
class Replica:
    """One worker pod that may draw power."""

    uid: str
    name: str
    key: WorkloadKey
    """(namespace, value of the workload label)."""
    placement_digest: str
    ip: str
    node: str
    accelerators: int
    """Boards that it asks for; 0 for a CPU replica."""
    ready: bool
    started: bool
    """Whether its container has ever passed its startup probe: before, nobody can have raised its batch limit."""
    terminating: bool
    trouble: str
    """Why it does not become ready, in words of the kubelet or the scheduler; empty when all is well."""
    engine: Engine = Engine.NATIVE
    """What it runs, as its template says."""

    @property
    def scheduled(self) -> bool:
        """Whether it holds a node's accelerators (and may draw watts)."""
        return bool(self.node)

    @property
    def host(self) -> str:
        """Its address as URLs write it: IPv6 in brackets."""
        return f"[{self.ip}]" if ":" in self.ip else self.ip


@dataclass(frozen=True, slots=True)
class Child:
    """One Deployment of a workload."""

    name: str
    uid: str
    placement: Placement | None
    """None when its annotation was edited: it is replaced."""
    placement_digest: str
    replicas: int
    ready_replicas: int
    raw: Mapping[str, Any]
    promised_replicas: int = 0
    """What it is to have when it has taken the place of another; 0 when nothing is under way."""
    shares: Shares | None = None
    """Of a replacement share by share that is under way."""
    rolled_out: bool = True
    """Whether as many pods as are wanted have the present template."""
    trouble: str = ""
    """Why its pods cannot even be made: a quota, Pod Security, a webhook; empty when they can."""
    unseen_replicas: int = 0
    """How many pods it had before its controller saw the newest edit; 0 when that has been seen."""

    @property
    def wanted_replicas(self) -> int:
        """How many pods are made again when they end: the older count until a smaller one has been seen."""
        return max(self.replicas, self.unseen_replicas)

    @property
    def decided_replicas(self) -> int:
        """How many were decided, so far as it shows."""
        return max(self.replicas, self.promised_replicas)


def replica_of(pod: Mapping[str, Any]) -> Replica | None:
    """View of a worker pod; None once it has ended (its accelerators and watts are free)."""
    metadata, status = pod["metadata"], pod.get("status", {})
    workload = metadata.get("labels", {}).get(labels.WORKLOAD)
    if workload is None or status.get("phase") in _ENDED:
        return None
    conditions = {c["type"]: c for c in status.get("conditions", ())}
    ready = conditions.get("Ready", {}).get("status") == "True"
    return Replica(
        uid=metadata["uid"],
        name=metadata["name"],
        key=(metadata["namespace"], workload),
        placement_digest=metadata.get("labels", {}).get(labels.PLACEMENT, ""),
        ip=status.get("podIP", ""),
        node=pod.get("spec", {}).get("nodeName", ""),
        accelerators=accelerators_of(pod),
        ready=ready,
        started=ready or any(container.get("started", False) for container in status.get("containerStatuses", ())),
        terminating="deletionTimestamp" in metadata,
        trouble="" if ready else _trouble(conditions, status),
        engine=_engine(metadata.get("annotations", {}).get(labels.OPTION, "")),
    )


def child_of(deployment: Mapping[str, Any]) -> Child:
    """View of one of our Deployments."""
    metadata, status = deployment["metadata"], deployment.get("status", {})
    replicas = deployment.get("spec", {}).get("replicas", 1)
    seen = status.get("observedGeneration", 0) >= metadata.get("generation", 0)
    refused: Mapping[str, Any] = next((it for it in status.get("conditions", ()) if it["type"] == "ReplicaFailure"), {})
    return Child(
        name=metadata["name"],
        uid=metadata["uid"],
        placement=_placement(metadata.get("annotations", {}).get(labels.OPTION, "")),
        placement_digest=metadata.get("labels", {}).get(labels.PLACEMENT, ""),
        replicas=replicas,
        ready_replicas=status.get("readyReplicas", 0),
        raw=deployment,
        promised_replicas=_count(metadata.get("annotations", {}).get(labels.DECIDED_REPLICAS, "")),
        shares=Shares.from_annotation(metadata.get("annotations", {}).get(labels.SHARES, "")),
        rolled_out=seen and status.get("updatedReplicas", 0) >= replicas,
        trouble=refused.get("message", "") if refused.get("status") == "True" else "",
        unseen_replicas=0 if seen else status.get("replicas", 0),
    )


def unmade(children: Collection[Child], replicas: Iterable[Replica]) -> list[Child]:
    """For every pod that a Deployment wants and that is not there, the Deployment: it was evicted, or is a new one.

    A pod that is on its way out does not count as there: another one is made beside it.
    """
    there = Counter(replica.placement_digest for replica in replicas if not replica.terminating)
    missing = {child.name: child.wanted_replicas - there[child.placement_digest] for child in children}
    return [child for child in children for _ in range(min(missing[child.name], MOST_UNMADE))]


def to_be_made(key: WorkloadKey, child: Child) -> Replica:
    """The next pod of a Deployment: no uid, no node, and the accelerators that its template asks for."""
    return Replica(
        uid="",
        name=child.name,
        key=key,
        placement_digest=child.placement_digest,
        ip="",
        node="",
        accelerators=accelerators_of(child.raw.get("spec", {}).get("template", {})),
        ready=False,
        started=False,
        terminating=False,
        trouble="",
    )


@lru_cache(maxsize=4096)
def _placement(annotation: str) -> Placement | None:
    """Remembered: the same few texts are read again for every Deployment in every cycle."""
    return Placement.from_annotation(annotation)


def _count(annotation: str) -> int:
    return int(annotation) if annotation.isascii() and annotation.isdigit() and len(annotation) < 6 else 0


def _engine(annotation: str) -> Engine:
    placement = _placement(annotation)
    return Engine.NATIVE if placement is None else engine_named(placement.engine).engine


def accelerators_of(pod: Mapping[str, Any]) -> int:
    """Boards that a pod asks for, as the scheduler counts: its init containers run before the others, one by one,
    except for sidecars."""
    spec = pod.get("spec", {})
    beside, alone = 0, 0
    for container in spec.get("initContainers", ()):
        if container.get("restartPolicy") == "Always":
            beside += _accelerators(container)
        else:
            alone = max(alone, beside + _accelerators(container))
    return max(alone, beside + sum(_accelerators(container) for container in spec.get("containers", ())))


def holds_accelerators(pod: Mapping[str, Any]) -> bool:
    """Whether a pod keeps boards of a node from others; one that has ended does not any longer."""
    bound = bool(pod.get("spec", {}).get("nodeName"))
    return bound and pod.get("status", {}).get("phase") not in _ENDED and accelerators_of(pod) > 0


def _accelerators(container: Mapping[str, Any]) -> int:
    return whole(container.get("resources", {}).get("limits", {}).get(labels.GPU_RESOURCE, 0))


def by_workload(items: Iterable[tuple[WorkloadKey, Any]]) -> dict[WorkloadKey, list[Any]]:
    """Group (key, value) pairs by key, keeping their order."""
    groups: dict[WorkloadKey, list[Any]] = {}
    for key, item in items:
        groups.setdefault(key, []).append(item)
    return groups


def whole(quantity: str | int) -> int:
    """A quantity of Kubernetes ("8", "1k", "3920m") in whole units, rounded down."""
    if str(quantity).isdecimal():
        return int(quantity)
    from lowbeam.kube.quantity import whole_units  # noqa: PLC0415 - the client is slow to import, and rarely needed here

    return whole_units(str(quantity))


def _trouble(conditions: Mapping[str, Mapping[str, Any]], status: Mapping[str, Any]) -> str:
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        return f"not scheduled: {scheduled.get('message', 'no reason given')}"
    for container in status.get("containerStatuses", ()):
        state = container.get("state", {})
        waiting, ended = state.get("waiting"), state.get("terminated")
        if waiting and waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
            return f"{waiting['reason']}: {waiting.get('message', '')}".rstrip(": ")
        if ended:
            return f"container ended with code {ended.get('exitCode')}: {ended.get('reason', '')}".rstrip(": ")
    return ""
