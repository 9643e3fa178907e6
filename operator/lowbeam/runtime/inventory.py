"""Which accelerators there are for whom: nodes as pools and classes, less what may not be used.

Decides what a cordon, a silent kubelet, taints and other people's pods mean for planning. Nothing that runs is ended
because of them: a node that takes no pods still counts what our own replicas hold there. Of the class `cpu` nobody's
requests are taken off: there the scheduler decides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from lowbeam.api.v1alpha1.pod import Toleration
from lowbeam.catalog.facts import Catalogue
from lowbeam.planning import Holding, Inventory
from lowbeam.power.ledger import ReplicaCharge
from lowbeam.render import labels
from lowbeam.render.nodes import GPU_TOLERATION, needs_accelerator
from lowbeam.runtime.replicas import Replica, WorkloadKey, accelerators_of, whole

Raw = Mapping[str, Any]
Tolerations = tuple[Toleration, ...]

NO_LIMITS: Mapping[str, int] = MappingProxyType({})
_KUBERNETES_OWN = "node.kubernetes.io/"
"""Taints that follow from a node's state (cordoned, not ready, under pressure): that is read from the node itself."""
_DEVICES = Toleration.model_validate(GPU_TOLERATION)


class NodeStock:
    """The nodes of one cycle. What a selector and tolerations leave of them is worked out once for each."""

    def __init__(
        self,
        nodes: Iterable[Raw],
        node_pools: Mapping[str, str],
        node_classes: Mapping[str, str],
        catalogue: Catalogue,
        replicas: Iterable[Replica] = (),
        *,
        other_pods: Iterable[Raw] = (),
        limitable: Mapping[str, int] = NO_LIMITS,
    ) -> None:
        """`replicas`: ours. `other_pods`: those of others that hold accelerators. `limitable`: nodes whose agent sets
        power limits, and of how many boards."""
        self._limitable = limitable
        self._others: Counter[str] = Counter()
        """Boards of others, by node."""
        for pod in other_pods:
            self._others[pod["spec"]["nodeName"]] += accelerators_of(pod)
        self._of_class = [(node, name) for node in nodes if (name := node_classes.get(node["metadata"]["name"]))]
        self._pools, self._classes = node_pools, catalogue.accelerator_classes
        closed = {node["metadata"]["name"] for node, name in self._of_class if not self._accepts((), node, name)}
        self._tainted = bool(closed)
        self._held: Counter[str] = Counter()
        """Boards of ours, by node."""
        self._held_by: dict[WorkloadKey, Counter[str]] = {}
        """The same of each workload, on nodes that are closed to pods without tolerations."""
        for replica in replicas:
            if not replica.terminating:
                boards = max(1, replica.accelerators)
                self._held[replica.node] += boards
                if replica.node in closed:
                    self._held_by.setdefault(replica.key, Counter())[replica.node] += boards
        self._known: dict[Hashable, tuple[Inventory, ...]] = {}
        self._all: tuple[Inventory, ...] = ()

    @property
    def tainted(self) -> bool:
        """Whether what pods tolerate makes a difference."""
        return self._tainted

    def inventory(self, accepted: Iterable[Tolerations] = ()) -> tuple[Inventory, ...]:
        """Accelerators per pool and class, on nodes without taints or whose taints any of `accepted` tolerates.

        A node of a class without devices (cpu) counts one replica per allocatable core. A node that takes no new pods
        counts only what our own replicas hold on it, every other one what others leave of it.
        """
        self._all = self._count(self._of_class, ((), *accepted) if self._tainted else ((),), self._held)
        return self._all

    def reachable(
        self, workload: WorkloadKey, selector: Mapping[str, str], tolerations: Tolerations
    ) -> tuple[Inventory, ...]:
        """The part of it for pods of a workload with this node selector and these tolerations.

        What others hold on nodes whose taints it does not tolerate is not its own. `workload`: as `Replica.key`. The
        very value that `inventory` gave where that is all.
        """
        labels_wanted = selector.items()
        held = self._held_by.get(workload, Counter())
        known = frozenset(labels_wanted), tolerations if self._tainted else (), frozenset(held.items())
        if known not in self._known:
            nodes = [it for it in self._of_class if labels_wanted <= it[0]["metadata"].get("labels", {}).items()]
            counted = self._count(nodes, (tolerations,), held)
            self._known[known] = self._all if counted == self._all else counted
        return self._known[known]

    def _count(
        self, nodes: Iterable[tuple[Raw, str]], accepted: Sequence[Tolerations], held: Mapping[str, int]
    ) -> tuple[Inventory, ...]:
        """`held`: boards that stay counted where no taint is tolerated."""
        total: dict[tuple[str, str], int] = {}
        largest: dict[tuple[str, str], int] = {}
        taken: dict[tuple[str, str], int] = {}
        fixed: set[tuple[str, str]] = set()
        """Places with a node whose boards keep their limits: a pod may come to stand there, where it is ready."""
        for node, name in nodes:
            node_name = node["metadata"]["name"]
            allocatable = node.get("status", {}).get("allocatable", {})
            on_device = needs_accelerator(self._classes[name])
            boards = whole(allocatable.get(labels.GPU_RESOURCE if on_device else "cpu", 0))
            # Never below what our replicas hold: a board that died is not a reason to end any of them.
            ours = min(boards, self._held[node_name])
            others = min(boards - ours, self._others[node_name]) if on_device else 0
            count = boards - others
            if not any(self._accepts(theirs, node, name) for theirs in accepted):
                count, others = min(count, held.get(node_name, 0)), 0
            elif not _schedulable(node):
                count, others = ours, 0
            where = (self._pools[node_name], name)
            total[where] = total.get(where, 0) + count
            largest[where] = max(largest.get(where, 0), count)
            taken[where] = taken.get(where, 0) + others
            if count and boards > self._limitable.get(node_name, 0) and _is_ready(node):
                fixed.add(where)
        return tuple(
            Inventory(*where, count, largest[where], taken[where], board_limits=where not in fixed)
            for where, count in sorted(total.items())
            if count or taken[where]
        )

    def _accepts(self, theirs: Tolerations, node: Raw, name: str) -> bool:
        ours = (_DEVICES,) if needs_accelerator(self._classes[name]) else ()
        return all(any(_tolerates(it, taint) for it in (*ours, *theirs)) for taint in _taints(node))


def holdings(
    charges: Iterable[ReplicaCharge], replicas: Iterable[Replica], node_classes: Mapping[str, str]
) -> dict[WorkloadKey, tuple[Holding, ...]]:
    """What the pods of each workload take. One that has no node yet, or leaves it, takes watts and no accelerators."""
    by_uid = {replica.uid: replica for replica in replicas}
    found: dict[WorkloadKey, list[Holding]] = {}
    for charge in charges:
        replica = by_uid.get(charge.pod_uid)
        stays = replica is not None and not replica.terminating
        name = node_classes.get(replica.node, "") if replica is not None and stays else ""
        boards = max(1, replica.accelerators) if replica is not None and name else 0
        key = (charge.namespace, charge.workload)
        found.setdefault(key, []).append(Holding(charge.pool, name, boards, charge.milliwatts))
    return {key: tuple(rows) for key, rows in found.items()}


def devices_of(node: Raw) -> int:
    """Boards that a node says it has, whoever holds them."""
    return whole(node.get("status", {}).get("allocatable", {}).get(labels.GPU_RESOURCE, 0))


def _is_ready(node: Raw) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in node.get("status", {}).get("conditions", ()))


def _schedulable(node: Raw) -> bool:
    return _is_ready(node) and not node.get("spec", {}).get("unschedulable", False)


def _taints(node: Raw) -> list[Raw]:
    return [
        taint
        for taint in node.get("spec", {}).get("taints", ())
        if taint["effect"] != "PreferNoSchedule" and not taint["key"].startswith(_KUBERNETES_OWN)
    ]


def _tolerates(toleration: Toleration, taint: Raw) -> bool:
    """The scheduler's rule."""
    return (
        toleration.key in (None, taint["key"])
        and toleration.effect in (None, taint["effect"])
        and (toleration.operator == "Exists" or (toleration.value or "") == taint.get("value", ""))
    )
