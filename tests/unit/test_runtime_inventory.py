"""What cordons, silent kubelets, selectors and taints leave of the nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest

from lowbeam.api.v1alpha1 import reasons
from lowbeam.api.v1alpha1.pod import Toleration
from lowbeam.catalog import load_builtin
from lowbeam.planning import Holding, Inventory, Snapshot, WorkloadState, plan
from lowbeam.power.ledger import ReplicaCharge, ReplicaState
from lowbeam.render import labels
from lowbeam.runtime.inventory import NodeStock, holdings
from lowbeam.runtime.replicas import Replica, accelerators_of, holds_accelerators, replica_of
from lowbeam.runtime.world import Objects, Parser, World, build_world
from tests.raw_objects import TODAY, iw, node

CATALOGUE = load_builtin()
DEDICATED = {"key": "dedicated", "value": "team-x", "effect": "NoSchedule"}
GPU = {"key": labels.GPU_RESOURCE, "value": "present", "effect": "NoSchedule"}


NO_OTHERS: Mapping[str, int] = MappingProxyType({})


def replica(**told: Any) -> Replica:
    plain = Replica("pod-1", "w-1", ("team", "w"), "d", "10.0.0.1", "n1", 1, True, True, False, "")
    return replace(plain, **told)


def stock(
    nodes: list[dict[str, Any]], *replicas: Replica, name: str = "l4", others: Mapping[str, int] = NO_OTHERS
) -> NodeStock:
    names = [n["metadata"]["name"] for n in nodes]
    pools, classes = dict.fromkeys(names, ""), dict.fromkeys(names, name)
    pods = [others_pod(boards, on=where) for where, boards in others.items()]
    return NodeStock(nodes, pools, classes, CATALOGUE, replicas, other_pods=pods)


def limits(nodes: list[dict[str, Any]], limitable: Mapping[str, int], *replicas: Replica) -> list[bool]:
    """Whether power limits are planned, by pool."""
    names = [n["metadata"]["name"] for n in nodes]
    pools, classes = {name: name.rstrip("0123456789") for name in names}, dict.fromkeys(names, "l4")
    made = NodeStock(nodes, pools, classes, CATALOGUE, replicas, limitable=limitable)
    return [row.board_limits for row in made.inventory()]


def test_power_limits_are_planned_where_every_node_that_takes_pods_has_an_agent_of_all_its_boards() -> None:
    nodes = [node("a1"), node("a2"), node("b1")]
    assert limits(nodes, {}) == [False, False]
    assert limits(nodes, {"a1": 4, "b1": 4}) == [False, True]
    assert limits(nodes, {"a1": 4, "a2": 3, "b1": 4}) == [False, True], "its agent does not see one of its boards"
    assert limits(nodes, {"a1": 4, "a2": 4, "b1": 4}) == [True, True]
    gone, holds = [node("a1"), node("a2", ready=False)], replica(node="a2")
    assert limits(gone, {"a1": 4}, holds) == [True], "no pod comes to stand on a node that is gone"
    assert limits([node("a1"), node("a2", cordoned=True)], {"a1": 4}, holds) == [False]


def count(nodes: list[dict[str, Any]], *replicas: Replica) -> int:
    return sum(row.accelerators for row in stock(nodes, *replicas).inventory())


def tainted(name: str, *taints: dict[str, str], **more: Any) -> dict[str, Any]:
    made = node(name, **more)
    made["spec"]["taints"] = list(taints)
    return made


def test_nodes_that_take_no_pods_count_only_what_our_replicas_hold_there() -> None:
    nodes = [node("n1"), node("n2", cordoned=True), node("n3", ready=False)]
    assert count(nodes) == 4
    held = (replica(node="n2", accelerators=2), replica(node="n3"), replica(node="n3", terminating=True))
    assert count(nodes, *held) == 4 + 2 + 1


def test_a_cordoned_node_never_counts_more_than_it_has() -> None:
    assert count([node("n1", boards=1, cordoned=True)], replica(accelerators=8)) == 1


def test_a_node_without_boards_is_no_inventory() -> None:
    assert count([node("n1", boards=0)]) == 0


@pytest.mark.parametrize(("quantity", "boards"), [("8", 8), ("1k", 1000), ("2500m", 2), (3, 3)])
def test_quantities_are_read_as_kubernetes_writes_them(quantity: str | int, boards: int) -> None:
    made = node("n1")
    made["status"]["allocatable"][labels.GPU_RESOURCE] = quantity
    assert count([made]) == boards
    container = {"resources": {"limits": {labels.GPU_RESOURCE: quantity}}}
    metadata = {"name": "p", "namespace": "team", "uid": "u", "labels": {labels.WORKLOAD: "w"}}
    # Nested deeper than Python reads: whoever may label a pod must not end the planner with it.
    metadata["annotations"] = {labels.OPTION: "[" * 200_000}
    seen = replica_of({"metadata": metadata, "spec": {"containers": [container]}})
    assert seen is not None
    assert seen.accelerators == boards


@pytest.mark.parametrize(
    ("toleration", "accepted"),
    [
        ({"key": "dedicated", "value": "team-x"}, True),
        ({"key": "dedicated", "value": "team-x", "effect": "NoSchedule"}, True),
        ({"key": "dedicated", "operator": "Exists"}, True),
        ({"operator": "Exists"}, True),
        ({"key": "dedicated", "value": "team-y"}, False),
        ({"key": "dedicated"}, False),
        ({"key": "dedicated", "operator": "Exists", "effect": "NoExecute"}, False),
        ({"key": "other", "operator": "Exists"}, False),
    ],
)
def test_a_tainted_node_is_there_for_those_that_tolerate_it(toleration: dict[str, str], accepted: bool) -> None:
    found = stock([tainted("n1", DEDICATED)])
    assert found.inventory() == ()
    assert bool(found.reachable(("team", "w"), {}, (Toleration.model_validate(toleration),))) is accepted


def test_the_taint_of_gpu_nodes_is_tolerated_by_pods_that_ask_for_boards_only() -> None:
    assert count([tainted("n1", GPU)]) == 4
    assert stock([tainted("n1", GPU)], name="cpu").inventory() == ()


@pytest.mark.parametrize(
    "taint",
    [
        {"key": "dedicated", "value": "x", "effect": "PreferNoSchedule"},
        {"key": "node.kubernetes.io/memory-pressure", "effect": "NoSchedule"},
    ],
)
def test_taints_that_forbid_nothing_or_pass_by_themselves_are_no_reason(taint: dict[str, str]) -> None:
    assert count([tainted("n1", taint)]) == 4


def test_what_runs_on_a_node_that_is_tainted_later_keeps_its_boards() -> None:
    assert count([tainted("n1", DEDICATED)], replica(accelerators=2)) == 2


def test_what_others_hold_on_a_tainted_node_is_not_there_for_a_workload_that_does_not_tolerate_it() -> None:
    found = stock([tainted("n1", DEDICATED, boards=8)], replica(key=("team", "its"), accelerators=4))
    assert found.reachable(("team", "other"), {}, ()) == ()
    assert [row.accelerators for row in found.reachable(("team", "its"), {}, ())] == [4]


def reach(*nodes: dict[str, Any], **placement: Any) -> tuple[World, int | None]:
    """The world, and how many boards the workload with this placement reaches; None: all that there are."""
    objects = Objects(workloads=(iw("chosen", placement=placement), iw("free")), nodes=nodes)
    world = build_world(objects, TODAY, Parser())
    reachable = world.requirements["team", "chosen"].reachable
    return world, None if reachable is None else sum(row.accelerators for row in reachable)


def test_a_workload_reaches_only_the_nodes_that_its_selector_allows() -> None:
    world, boards = reach(node("a", boards=4, zone="a"), node("b", boards=2, zone="b"), nodeSelector={"zone": "b"})
    assert boards == 2
    assert world.requirements["team", "chosen"].reach_limits == "spec.placement.nodeSelector"
    assert world.requirements["team", "free"].reachable is None


def test_nodes_that_one_workload_tolerates_are_no_inventory_for_the_others() -> None:
    nodes = node("a"), tainted("x", DEDICATED, boards=2)
    world, boards = reach(*nodes, tolerations=[{"key": "dedicated", "operator": "Exists"}])
    assert (boards, [row.accelerators for row in world.inventory]) == (None, [6])
    free = world.requirements["team", "free"]
    assert free.reachable is not None
    assert [row.accelerators for row in free.reachable] == [4]
    assert free.reach_limits == "spec.placement.tolerations"
    world, boards = reach(*nodes)
    assert (boards, [row.accelerators for row in world.inventory]) == (None, [4])


def test_boards_that_pods_of_others_hold_are_no_inventory() -> None:
    nodes = [node("n1", boards=8), node("n2", boards=8), node("n3", boards=8, cordoned=True)]
    held = {"n1": 5, "n2": 8, "n3": 8}
    assert stock(nodes, others=held).inventory() == (Inventory("", "l4", 3, 3, held_by_others=13),)


def test_what_planned_replicas_hold_stays_theirs_also_where_a_board_died() -> None:
    found = stock([node("n1", boards=7)], replica(accelerators=4), others={"n1": 4})
    assert found.inventory() == (Inventory("", "l4", 4, 4, held_by_others=3),)


def test_pods_of_others_take_no_places_from_cpu_replicas() -> None:
    assert stock([node("n1", boards=0)], name="cpu", others={"n1": 5}).inventory() == (Inventory("", "cpu", 8, 8),)


def others_pod(*boards: int, phase: str = "Running", on: str = "n1", init: Sequence[Any] = ()) -> dict[str, Any]:
    containers = [{"name": f"c{i}", "resources": {"limits": {labels.GPU_RESOURCE: n}}} for i, n in enumerate(boards)]
    spec = {"containers": [*containers, {"name": "without"}], "initContainers": list(init)}
    metadata = {"name": "train", "namespace": "research", "uid": "u"}
    return {"metadata": metadata, "spec": {**spec, **({"nodeName": on} if on else {})}, "status": {"phase": phase}}


def first(boards: int, *, sidecar: bool = False) -> dict[str, Any]:
    policy = {"restartPolicy": "Always"} if sidecar else {}
    return {"resources": {"limits": {labels.GPU_RESOURCE: str(boards)}}, **policy}


@pytest.mark.parametrize(
    ("pod", "boards"),
    [
        (others_pod(2, 1), 3),
        (others_pod(1, init=[first(4), first(2)]), 4),
        (others_pod(1, init=[first(1, sidecar=True), first(1)]), 2),
        (others_pod(2, init=[first(1, sidecar=True), first(1)]), 3),
        (others_pod(), 0),
    ],
    ids=["containers", "before them", "sidecar", "sidecar beside", "none"],
)
def test_a_pods_boards_are_counted_as_the_scheduler_counts_them(pod: dict[str, Any], boards: int) -> None:
    assert accelerators_of(pod) == boards
    assert holds_accelerators(pod) is (boards > 0)


@pytest.mark.parametrize("pod", [others_pod(1, phase="Succeeded"), others_pod(1, phase="Failed"), others_pod(1, on="")])
def test_pods_that_ended_or_have_no_node_hold_nothing(pod: dict[str, Any]) -> None:
    assert not holds_accelerators(pod)


def pod_of(workload: str, name: str, *, boards: int, leaving: bool = False) -> dict[str, Any]:
    made = others_pod(boards)
    ending = {"deletionTimestamp": "2026-11-21T09:00:00Z"} if leaving else {}
    made["metadata"] = {**made["metadata"], "name": name, "uid": name, "namespace": "team", **ending}
    made["metadata"]["labels"] = {labels.WORKLOAD: workload}
    return made


def test_replicas_that_are_not_planned_hold_boards_until_they_leave() -> None:
    objects = Objects(
        workloads=(iw("runs"), iw("typo", task="tex-classification"), iw("advised", mode="Advise")),
        nodes=(node("n1", boards=16),),
        pods=(
            pod_of("runs", "a", boards=1),
            pod_of("typo", "b", boards=2),
            pod_of("advised", "c", boards=4),
            pod_of("typo", "d", boards=1, leaving=True),
            pod_of("gone", "e", boards=1),
            pod_of("going", "f", boards=1),
        ),
        deployments=(owned_by("going"),),
        other_pods=(others_pod(1), others_pod(1, on="another")),
    )
    world = build_world(objects, TODAY, Parser())
    assert world.inventory == (Inventory("", "l4", 15, 15, held_by_others=1),)
    assert world.held_unplanned() == {("", "l4"): 7}, "nobody is about to end what a workload left that is gone"


def owned_by(workload: str) -> dict[str, Any]:
    """A Deployment that the garbage collector ends once the workload is gone."""
    owner = {"kind": "InferenceWorkload", "name": workload, "uid": "u", "controller": True}
    metadata = {"name": workload, "namespace": "team", "uid": workload, "ownerReferences": [owner]}
    return {"metadata": {**metadata, "labels": {labels.WORKLOAD: workload}}, "spec": {"replicas": 1}}


def test_a_workload_whose_boards_orphans_hold_waits_for_them() -> None:
    wish = iw("w", task="text-generation", placement={"acceleratorClasses": ["l4"]})
    objects = Objects(workloads=(wish,), nodes=(node("n1"),), pods=(pod_of("gone", "e", boards=4),))
    world = build_world(objects, TODAY, Parser())
    states = tuple(WorkloadState(needs) for needs in world.requirements.values())
    held = world.held_unplanned()
    shot = Snapshot(world.catalogue, world.caps, world.inventory, states, reserved_accelerators=held)
    (choice,) = plan(shot).choices
    assert choice.option is None
    assert choice.reason == reasons.NO_ACCELERATOR_OF_CLASS
    assert "which no pool has free" in choice.message


def test_pods_hold_accelerators_while_they_are_on_a_node_and_stay() -> None:
    pods = [replica(), replica(uid="pod-2", node=""), replica(uid="pod-3", terminating=True, accelerators=2)]
    charges = [
        ReplicaCharge("team", "w", "p", uid, None, 100, None, ReplicaState.LIVE) for uid in ("pod-1", "pod-2", "pod-3")
    ]
    found = holdings(charges, pods, {"n1": "l4"})
    assert found == {("team", "w"): (Holding("p", "l4", 1, 100), Holding("p", "", 0, 100), Holding("p", "", 0, 100))}


def test_a_workload_whose_boards_others_hold_is_told_so() -> None:
    wish = iw("w", task="text-generation", placement={"acceleratorClasses": ["l4"]})
    objects = Objects(workloads=(wish,), nodes=(node("n1"),), other_pods=(others_pod(4),))
    world = build_world(objects, TODAY, Parser())
    states = tuple(WorkloadState(needs) for needs in world.requirements.values())
    (choice,) = plan(Snapshot(world.catalogue, world.caps, world.inventory, states)).choices
    assert choice.reason == reasons.NO_ACCELERATOR_OF_CLASS
    assert "no node has a free l4; pods of others hold 4" in choice.message
