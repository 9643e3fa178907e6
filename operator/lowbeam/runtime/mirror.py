"""The mirrors of every kind that Lowbeam reads, and which of their changes matter to whom.

Decides what wakes the planner (specs, caps, catalogue, nodes) and what wakes only the executor (children). Status
updates, ours above all, wake nobody; nor do pods of others that take accelerators: the next plan counts them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from lowbeam.api.wire import AGENT_PORT
from lowbeam.kube import (
    ACCELERATOR_CLASSES,
    DEPLOYMENTS,
    ENERGY_PROFILES,
    INFERENCE_WORKLOADS,
    MODEL_CARDS,
    NAMESPACES,
    NODES,
    PODS,
    POWER_CAPS,
    SERVICES,
    Change,
    Informer,
    InformerState,
    KubeObject,
    KubeTransport,
    Resource,
    keep_only,
)
from lowbeam.render import labels
from lowbeam.runtime.board_limits import may_set_limits
from lowbeam.runtime.clock import Clock
from lowbeam.runtime.replicas import holds_accelerators
from lowbeam.runtime.world import Objects
from lowbeam.telemetry import AgentEndpoint

OWN = (INFERENCE_WORKLOADS, POWER_CAPS, MODEL_CARDS, ACCELERATOR_CLASSES, ENERGY_PROFILES)
CHILDREN = (DEPLOYMENTS, SERVICES, PODS)
_NODE_PARTS = ("spec.unschedulable", "spec.taints", "status.allocatable", "status.conditions")
_POD_PARTS = (
    "spec.nodeName",
    "spec.containers",
    "spec.initContainers",
    "status.phase",
    "status.podIP",
    "status.conditions",
    "status.containerStatuses",
)


class Mirror:
    """One informer per kind, one for other people's pods on accelerators, and one for node agents.

    `namespace`: the operator's own. Agents of others are not asked: they would get our token, and be believed.
    `on_input` is called when a plan may change, `on_child` when only children did, `on_others` when a pod of others
    took or left accelerators.
    """

    def __init__(
        self,
        transport: KubeTransport,
        clock: Clock,
        on_input: Callable[[Resource, KubeObject | None, KubeObject | None], None],
        on_child: Callable[[KubeObject], None],
        on_others: Callable[[], None],
        *,
        namespace: str,
    ) -> None:
        self._clock = clock
        self._on_input = on_input
        self._on_child = on_child
        self.informers: dict[Resource, Informer] = {}
        for resource in (*OWN, NAMESPACES, NODES, *CHILDREN):
            transform = {
                NODES: keep_only(*_NODE_PARTS),
                NAMESPACES: keep_only(),
                PODS: keep_only(*_POD_PARTS),
            }.get(resource)
            informer = Informer(
                transport,
                resource,
                monotonic_ms=clock.monotonic_ms,
                label_selector=labels.WORKER_SELECTOR if resource in CHILDREN else "",
                transform=transform,
            )
            informer.on_change(self._changed)
            self.informers[resource] = informer
        self._on_others = on_others
        self._others = Informer(
            transport,
            PODS,
            monotonic_ms=clock.monotonic_ms,
            label_selector=labels.OTHERS_SELECTOR,
            wanted=holds_accelerators,
            transform=keep_only(*_POD_PARTS),
        )
        self._others.on_change(self._others_changed)
        self._agents = Informer(
            transport,
            PODS,
            monotonic_ms=clock.monotonic_ms,
            label_selector=labels.AGENT_SELECTOR,
            wanted=lambda pod: bool(pod["metadata"].get("namespace") == namespace),
            transform=keep_only(*_POD_PARTS),
        )
        self._all = (*self.informers.values(), self._others, self._agents)

    async def run(self) -> None:
        """Keep every mirror true until cancelled."""
        async with asyncio.TaskGroup() as group:
            for informer in self._all:
                group.create_task(informer.run(), name=f"informer {informer.resource.plural}")

    async def wait_synced(self) -> None:
        """Return when every kind that may be read has had its first list. A kind without permission does not block."""
        # A loop, because a kind gets there in several ways: a first list, no permission, no such kind.
        while not all(i.synced or i.state in _REFUSED for i in self._all):
            await self._clock.sleep(0.05)

    def unsynced(self) -> list[str]:
        """Kinds that are not in sync, each with why."""
        return [f"{i.resource.plural}: {i.message or i.state.value}" for i in self._all if i.message or not i.synced]

    def refused(self) -> str:
        """Why the first kind that may not be read, or is not installed, is missing; empty when all can be read."""
        return next((i.message for i in self.informers.values() if i.state in _REFUSED), "")

    def never_seen(self) -> list[str]:
        """Kinds that a plan cannot do without and that have no first list; what was seen once counts, however old.

        Objects of the catalogue add to what is built in, and a Service moves no watts: those hold nobody up.
        """
        return [i.resource.plural for r, i in self.informers.items() if r in _INDISPENSABLE and not i.synced]

    def unreachable(self) -> bool:
        """Whether any kind has lost the server and was not heard of since."""
        return any(i.state is InformerState.UNREACHABLE for i in self._all)

    def objects(self) -> Objects:
        """Everything as the informers hold it now."""
        of = {resource: informer.objects() for resource, informer in self.informers.items()}
        return Objects(
            workloads=of[INFERENCE_WORKLOADS],
            power_caps=of[POWER_CAPS],
            model_cards=of[MODEL_CARDS],
            accelerator_classes=of[ACCELERATOR_CLASSES],
            energy_profiles=of[ENERGY_PROFILES],
            namespaces=of[NAMESPACES],
            nodes=of[NODES],
            deployments=of[DEPLOYMENTS],
            services=of[SERVICES],
            pods=of[PODS],
            other_pods=self._others.objects(),
        )

    def agents(self) -> list[AgentEndpoint]:
        """The node agents that have an address and are to stay."""
        found = (_agent_of(pod) for pod in self._agents.objects() if "deletionTimestamp" not in pod["metadata"])
        return [agent for agent in found if agent is not None]

    def limiting_nodes(self) -> set[str]:
        """Nodes with a pod of an agent that is to set power limits, whether or not it runs yet."""
        pods = (pod for pod in self._agents.objects() if may_set_limits(pod))
        return {node for pod in pods if (node := pod["spec"].get("nodeName"))}

    def _changed(self, resource: Resource, _change: Change, old: KubeObject | None, new: KubeObject | None) -> None:
        if resource in CHILDREN:
            self._on_child(new or old or {})
        elif _input_of(resource, old) != _input_of(resource, new):
            self._on_input(resource, old, new)

    def _others_changed(self, _: Resource, __: Change, old: KubeObject | None, new: KubeObject | None) -> None:
        if old is None or new is None or old.get("spec") != new.get("spec"):
            self._on_others()


_INDISPENSABLE = (INFERENCE_WORKLOADS, POWER_CAPS, NAMESPACES, NODES, DEPLOYMENTS, PODS)
_REFUSED = (InformerState.FORBIDDEN, InformerState.MISSING_KIND)


def _agent_of(pod: KubeObject) -> AgentEndpoint | None:
    spec, ip = pod.get("spec", {}), pod.get("status", {}).get("podIP", "")
    ports = (port for container in spec.get("containers", ()) for port in container.get("ports", ()))
    port = next((it["containerPort"] for it in ports if it.get("name") == labels.AGENT_PORT_NAME), AGENT_PORT)
    if not ip or not spec.get("nodeName"):
        return None
    metadata, host = pod["metadata"], f"[{ip}]" if ":" in ip else ip
    url = f"http://{host}:{port}"
    return AgentEndpoint(metadata["uid"], metadata["namespace"], metadata["name"], spec["nodeName"], url)


def _input_of(resource: Resource, obj: KubeObject | None) -> object:
    """The part of an object that a plan depends on."""
    if obj is None:
        return None
    metadata = obj["metadata"]
    if resource in OWN:
        return (metadata.get("uid"), metadata.get("generation"), "deletionTimestamp" in metadata)
    if resource == NODES:
        ready = [c["status"] for c in obj.get("status", {}).get("conditions", ()) if c["type"] == "Ready"]
        allocatable = obj.get("status", {}).get("allocatable", {})
        accelerators = (allocatable.get(labels.GPU_RESOURCE), allocatable.get("cpu"))
        spec = obj.get("spec", {})
        return (metadata.get("labels"), ready, accelerators, spec.get("unschedulable"), spec.get("taints"))
    return (metadata.get("labels"), "deletionTimestamp" in metadata)
