"""Bad input and trouble: each says what to do, harms nobody else, and ends by itself when the cause goes.

A healthy workload stands beside every one of them; that it is still reconciled is tested by changing it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.operator_harness import CHAT, TRIAGE, Stage, condition, is_ready, power_cap, stage, workload

__all__ = ["stage"]


@pytest.fixture
def beside(stage: Stage, namespace: str) -> Iterator[None]:
    """A healthy workload that stays Ready, and is still cared for at the end."""
    stage.apply(workload(namespace, "healthy"))
    stage.ready(namespace, "healthy")
    yield
    assert is_ready(stage.iw(namespace, "healthy"))
    (deployment,) = stage.deployments(namespace, "healthy")
    stage.cluster.kubectl("delete", "deployment", deployment["metadata"]["name"], "-n", namespace)

    def made_again() -> bool:
        found = stage.deployments(namespace, "healthy")
        return bool(found) and found[0]["metadata"]["uid"] != deployment["metadata"]["uid"]

    stage.eventually("the healthy workload's Deployment again", made_again)


@pytest.mark.parametrize(
    ("spec", "reason", "hint", "repair"),
    [
        pytest.param({"task": "text-clasification"}, "UnknownTask", "text-classification", TRIAGE, id="unknown-task"),
        pytest.param(
            {"quality": {"benchmark": "sst2", "floor": "99.9"}},
            "NoModelMeetsFloor",
            "sst2",
            TRIAGE,
            id="floor-too-high",
        ),
        pytest.param(
            {"model": {"pinned": "distilbert-sst"}},
            "ModelNotInCatalogue",
            "distilbert-sst2",
            {"model": {"pinned": "distilbert-sst2"}},
            id="unknown-model",
        ),
        pytest.param(
            {"latency": {"endToEndMilliseconds": 1}}, "NoOption", "endToEndMilliseconds", TRIAGE, id="too-fast"
        ),
    ],
)
@pytest.mark.usefixtures("beside")
def test_a_workload_that_cannot_run_says_what_to_change(  # noqa: PLR0917 - one row of the table
    stage: Stage, namespace: str, spec: dict[str, Any], reason: str, hint: str, repair: dict[str, Any]
) -> None:
    stage.apply(workload(namespace, "odd", **spec))

    row = stage.says(lambda: stage.iw(namespace, "odd"), "Stalled", "True", reason)

    assert hint in row["message"], row
    assert hint in stage.warned(reason, "odd", namespace)
    assert not stage.deployments(namespace, "odd")
    assert condition(stage.iw(namespace, "odd"), "Ready")["status"] == "False"
    stage.patch("iw", "odd", repair, namespace)
    stage.ready(namespace, "odd")


@pytest.mark.usefixtures("beside")
def test_a_typing_error_in_a_running_workload_ends_none_of_its_pods(stage: Stage, namespace: str) -> None:
    stage.apply(workload(namespace, "typo"))
    stage.ready(namespace, "typo")
    (pod,) = stage.pods(namespace, "typo")
    for spec, reason in (
        ({"quality": {"benchmark": "sst2", "floor": "99.9"}}, "NoModelMeetsFloor"),
        ({"model": {"pinned": "no-such-model"}}, "ModelNotInCatalogue"),
    ):
        stage.patch("iw", "typo", spec, namespace)
        row = stage.says(lambda: stage.iw(namespace, "typo"), "Stalled", "True", reason)
        assert "stay" in row["message"]
    assert [it["metadata"]["uid"] for it in stage.pods(namespace, "typo")] == [pod["metadata"]["uid"]]
    stage.patch("iw", "typo", {**TRIAGE, "model": {"pinned": ""}}, namespace)
    stage.ready(namespace, "typo")
    assert [it["metadata"]["uid"] for it in stage.pods(namespace, "typo")] == [pod["metadata"]["uid"]]


@pytest.mark.usefixtures("beside")
def test_a_workload_waits_for_a_node_of_its_class(stage: Stage, namespace: str) -> None:
    node = f"{namespace}-b200"
    wish = {"placement": {"acceleratorClasses": ["b200"]}}
    stage.apply(workload(namespace, "wish", CHAT, load={**CHAT["load"], "requestsPerMinute": 300}, **wish))

    row = stage.says(lambda: stage.iw(namespace, "wish"), "Stalled", "True", "NoAcceleratorOfClass")
    assert "b200" in row["message"]
    assert "b200" in stage.warned("NoAcceleratorOfClass", "wish", namespace)

    stage.apply(_node(node, "NVIDIA-B200", 8))
    try:
        stage.ready(namespace, "wish")
        assert stage.iw(namespace, "wish")["status"]["selected"]["acceleratorClass"] == "b200"
    finally:
        stage.cluster.kubectl("delete", "node", node)


@pytest.mark.usefixtures("beside")
def test_a_workload_waits_for_accelerators_that_a_pod_of_somebody_else_holds(stage: Stage, namespace: str) -> None:
    node = f"{namespace}-b200"
    stage.apply(_node(node, "NVIDIA-B200", 8))
    try:
        stage.apply(_training(namespace, node, boards=8))
        stage.eventually("training to run", lambda: _runs(stage, namespace, "training"))
        stage.apply(workload(namespace, "wish", CHAT, placement={"acceleratorClasses": ["b200"]}))

        row = stage.says(lambda: stage.iw(namespace, "wish"), "Stalled", "True", "NoAcceleratorOfClass")

        assert "pods of others hold 8" in row["message"]
        assert not stage.deployments(namespace, "wish")
        stage.cluster.kubectl("delete", "pod", "training", "-n", namespace, "--now")
        stage.ready(namespace, "wish", seconds=60)
    finally:
        stage.cluster.kubectl("delete", "node", node)


@pytest.mark.usefixtures("beside")
def test_a_workload_waits_for_accelerators_that_pods_of_a_workload_hold_that_is_gone(
    stage: Stage, namespace: str
) -> None:
    node, on_it = f"{namespace}-b200", {"placement": {"acceleratorClasses": ["b200"]}}
    stage.apply(_node(node, "NVIDIA-B200", 1))
    try:
        stage.apply(workload(namespace, "past", CHAT, **on_it))
        stage.ready(namespace, "past")
        stage.cluster.kubectl("delete", "iw", "past", "-n", namespace, "--cascade=orphan")
        stage.apply(workload(namespace, "wish", CHAT, **on_it))

        row = stage.says(lambda: stage.iw(namespace, "wish"), "Stalled", "True", "NoAcceleratorOfClass")

        assert "which no pool has free" in row["message"]
        assert not stage.deployments(namespace, "wish")
        (left,) = stage.deployments(namespace, "past")
        stage.cluster.kubectl("delete", "deployment", left["metadata"]["name"], "-n", namespace)
        stage.ready(namespace, "wish", seconds=60)
    finally:
        stage.cluster.kubectl("delete", "node", node)


def _training(namespace: str, node: str, *, boards: int) -> dict[str, Any]:
    """A pod that nobody here made, on these accelerators of this node."""
    container = {"name": "train", "image": "example/train", "resources": {"limits": {"nvidia.com/gpu": str(boards)}}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "training", "namespace": namespace},
        "spec": {"nodeSelector": {"kubernetes.io/hostname": node}, "containers": [container]},
    }


def _runs(stage: Stage, namespace: str, name: str) -> bool:
    phase: str = stage.cluster.get("pod", name, "-n", namespace)["status"]["phase"]
    return phase == "Running"


def _node(name: str, product: str, boards: int) -> dict[str, Any]:
    """A node that KWOK plays."""
    labels = {"nvidia.com/gpu.present": "true", "nvidia.com/gpu.product": product, "nvidia.com/gpu.count": str(boards)}
    there = {"cpu": "64", "memory": "1Ti", "pods": "110", "nvidia.com/gpu": str(boards)}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {"kwok.x-k8s.io/node": "fake"},
            "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", **labels},
        },
        "status": {"allocatable": there, "capacity": there},
    }


@pytest.mark.usefixtures("beside")
def test_a_node_selector_that_no_node_has_is_named_until_one_has_it(stage: Stage, namespace: str) -> None:
    label = f"lowbeam.test/{namespace}"
    stage.apply(workload(namespace, "lost", placement={"nodeSelector": {label: "yes"}}))

    row = stage.says(lambda: stage.iw(namespace, "lost"), "Stalled", "True", "NoAcceleratorOfClass")

    assert "spec.placement.nodeSelector" in row["message"]
    assert "spec.placement.nodeSelector" in stage.warned("NoAcceleratorOfClass", "lost", namespace)
    assert not stage.deployments(namespace, "lost")
    try:
        stage.cluster.kubectl("label", "node", "l4-1", f"{label}=yes")
        stage.ready(namespace, "lost")
        assert {pod["spec"]["nodeName"] for pod in stage.pods(namespace, "lost")} == {"l4-1"}
    finally:
        stage.cluster.kubectl("label", "node", "l4-1", f"{label}-")


@pytest.mark.usefixtures("beside")
def test_a_pod_that_cannot_be_scheduled_is_quoted_until_it_can(stage: Stage, namespace: str) -> None:
    stage.apply(workload(namespace, "large", pod={"resources": {"requests": {"cpu": "100000"}}}))

    row = stage.says(lambda: stage.iw(namespace, "large"), "Stalled", "True", "ReplicasNotReady")

    assert "Insufficient cpu" in row["message"]
    assert "Insufficient cpu" in stage.warned("ReplicasNotReady", "large", namespace)
    assert condition(stage.iw(namespace, "large"), "Ready")["status"] == "False"
    stage.patch("iw", "large", {"pod": {"resources": {"requests": {"cpu": "1"}}}}, namespace)
    stage.ready(namespace, "large")


@pytest.mark.usefixtures("beside")
def test_pods_that_may_not_be_made_are_a_reason_to_stall_that_quotes_who_refused_them(
    stage: Stage, namespace: str
) -> None:
    stage.allow_pods(namespace, 1)  # the healthy one's
    stage.apply(workload(namespace, "refused"))
    row = stage.says(lambda: stage.iw(namespace, "refused"), "Stalled", "True", "ReplicasNotReady")
    assert "exceeded quota" in row["message"]
    assert stage.deployments(namespace, "refused")[0]["metadata"]["name"] in row["message"]
    stage.allow_pods(namespace, None)
    stage.ready(namespace, "refused")


def test_a_workload_whose_deletion_a_finalizer_holds_up_stays_under_its_caps(stage: Stage, namespace: str) -> None:
    made = workload(namespace, "held-up")
    made["metadata"]["finalizers"] = ["example.org/backup"]
    stage.apply(made)
    stage.ready(namespace, "held-up")
    stage.cluster.kubectl("delete", "iw", "held-up", "-n", namespace, "--wait=false")
    with stage.caps(power_cap(f"none-{namespace}", 1, namespaces=[namespace])):
        stage.eventually("it is paused", lambda: not stage.pods(namespace, "held-up"))
    patch = ("--type=merge", "-p", '{"metadata":{"finalizers":null}}')
    stage.cluster.kubectl("patch", "iw", "held-up", "-n", namespace, *patch)
    stage.eventually("it is gone", lambda: not stage.deployments(namespace, "held-up"))


@pytest.mark.usefixtures("beside")
def test_a_service_of_somebody_else_keeps_its_name_until_it_is_gone(stage: Stage, namespace: str) -> None:
    stage.cluster.kubectl("create", "service", "clusterip", "taken", "--tcp=80:8080", "-n", namespace)
    before = stage.cluster.get("service", "taken", "-n", namespace)
    stage.apply(workload(namespace, "taken"))

    row = stage.says(lambda: stage.iw(namespace, "taken"), "Stalled", "True", "WriteRefused")

    assert "rename or delete" in row["message"]
    assert not stage.deployments(namespace, "taken")
    assert stage.cluster.get("service", "taken", "-n", namespace)["spec"] == before["spec"]
    stage.cluster.kubectl("delete", "service", "taken", "-n", namespace)
    stage.ready(namespace, "taken")


@pytest.mark.usefixtures("beside")
def test_caps_that_are_their_own_ancestors_hold_on_their_own_and_say_so(stage: Stage, namespace: str) -> None:
    one, two = f"{namespace}-one", f"{namespace}-two"
    caps = [
        power_cap(one, 5000, namespaces=[namespace], parent=two),
        power_cap(two, 6000, namespaces=[namespace], parent=one),
    ]
    with stage.caps(*caps):
        for name in (one, two):
            row = stage.says(lambda name=name: stage.own("powercaps", name), "Stalled", "True", "CapCycle")
            assert "spec.parent" in row["message"]
            assert "spec.parent" in stage.warned("CapCycle", name)
        assert stage.own("powercaps", one)["status"]["effectiveWatts"] == 5000
        stage.cluster.kubectl("patch", "pcap", two, "--type=json", "-p", '[{"op":"remove","path":"/spec/parent"}]')
        for name in (one, two):
            stage.says(lambda name=name: stage.own("powercaps", name), "Ready", "True", "InForce")
        assert stage.own("powercaps", one)["status"]["limitedBy"] == one


@pytest.mark.usefixtures("beside")
def test_a_cap_whose_parent_is_missing_holds_on_its_own_until_it_appears(stage: Stage, namespace: str) -> None:
    child, parent = f"{namespace}-child", f"{namespace}-parent"
    with stage.caps(power_cap(child, 5000, namespaces=[namespace], parent=parent)):
        row = stage.says(lambda: stage.own("powercaps", child), "Stalled", "True", "CapParentMissing")
        assert parent in row["message"]
        assert parent in stage.warned("CapParentMissing", child)
        assert stage.own("powercaps", child)["status"]["effectiveWatts"] == 5000
        with stage.caps(power_cap(parent, 4000, namespaces=[namespace])):
            stage.says(lambda: stage.own("powercaps", child), "Ready", "True", "InForce")
            stage.eventually(
                "the parent limits it",
                lambda: stage.own("powercaps", child)["status"]["effectiveWatts"] == 4000,
            )


@pytest.mark.usefixtures("beside")
def test_a_cap_that_fits_nothing_says_so_until_it_fits_something(stage: Stage, namespace: str) -> None:
    name = f"{namespace}-typo"
    with stage.caps(power_cap(name, 5000, namespaces=[f"{namespace}x"])):
        row = stage.says(lambda: stage.own("powercaps", name), "Ready", "True", "InForce")
        assert f"no namespace is called {namespace}x" in row["message"]
        assert stage.own("powercaps", name)["status"]["namespaces"] == 0
        stage.patch("pcap", name, {"scope": {"namespaces": {"names": [namespace]}}})
        stage.eventually("it counts", lambda: stage.own("powercaps", name)["status"]["namespaces"] == 1)
        assert stage.says(lambda: stage.own("powercaps", name), "Ready", "True", "InForce")["message"] == ""
