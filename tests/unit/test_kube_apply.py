"""Writes happen only when something differs, and what we no longer want is noticed too."""

from __future__ import annotations

from typing import Any

import pytest

from lowbeam.kube import (
    DEPLOYMENTS,
    INFERENCE_WORKLOADS,
    Applier,
    Conflict,
    KubeObject,
    NotOurs,
    ServerUnavailable,
    count_writes,
    differs,
    subset_equal,
)
from tests.fakes.transport import FakeTransport


def deployment(**spec: Any) -> KubeObject:
    container = {"name": "worker", "image": "worker:1", "env": [{"name": "A", "value": "1"}]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "d", "namespace": "team-a", "labels": {"app": "d"}},
        "spec": {"replicas": 2, "template": {"spec": {"containers": [container]}}, **spec},
    }


@pytest.fixture
def server() -> FakeTransport:
    return FakeTransport()


@pytest.fixture
def applier(server: FakeTransport) -> Applier:
    return Applier(server)


async def test_an_object_that_is_as_wanted_is_not_written_again(server: FakeTransport, applier: Applier) -> None:
    live = await applier.apply(DEPLOYMENTS, deployment(), None)
    assert live is not None
    assert await applier.apply(DEPLOYMENTS, deployment(), live) is None
    assert count_writes(server.calls) == 1


async def test_defaults_and_fields_of_others_are_no_reason_to_write(server: FakeTransport, applier: Applier) -> None:
    await applier.apply(DEPLOYMENTS, deployment(), None)
    changed = server.stored(DEPLOYMENTS)[0]
    changed["spec"]["progressDeadlineSeconds"] = 600
    changed["spec"]["template"]["spec"]["containers"].append({"name": "sidecar", "image": "mesh:1"})
    changed["metadata"]["annotations"] = {"deployment.kubernetes.io/revision": "1"}
    live = server.put(DEPLOYMENTS, changed)
    assert await applier.apply(DEPLOYMENTS, deployment(), live) is None


@pytest.mark.parametrize(
    "edit",
    [
        lambda spec: spec.update(replicas=3),
        lambda spec: spec["template"]["spec"]["containers"][0].update(image="other:2"),
        lambda spec: spec["template"]["spec"]["containers"][0]["env"].clear(),
        lambda spec: spec["template"]["spec"]["containers"].clear(),
    ],
    ids=["a number", "a nested field", "an item of a keyed list", "a whole list"],
)
async def test_what_somebody_else_changed_is_put_back(server: FakeTransport, applier: Applier, edit: Any) -> None:
    await applier.apply(DEPLOYMENTS, deployment(), None)
    changed = server.stored(DEPLOYMENTS)[0]
    edit(changed["spec"])
    live = server.put(DEPLOYMENTS, changed)
    assert await applier.apply(DEPLOYMENTS, deployment(), live) is not None
    assert subset_equal(deployment()["spec"], server.stored(DEPLOYMENTS)[0]["spec"])


async def test_variables_get_a_new_order_since_one_may_only_refer_to_those_before_it(
    server: FakeTransport, applier: Applier
) -> None:
    def with_variables(*names: str) -> KubeObject:
        body = deployment()
        body["spec"]["template"]["spec"]["containers"][0]["env"] = [{"name": name, "value": "1"} for name in names]
        return body

    def names(live: KubeObject) -> list[str]:
        return [variable["name"] for variable in live["spec"]["template"]["spec"]["containers"][0]["env"]]

    live = await applier.apply(DEPLOYMENTS, with_variables("B", "A"), None)
    live = await applier.apply(DEPLOYMENTS, with_variables("A", "B"), live)
    assert live is not None
    assert names(live) == ["A", "B"]
    live["spec"]["template"]["spec"]["containers"][0]["env"].insert(1, {"name": "THEIRS", "value": "1"})
    assert await applier.apply(DEPLOYMENTS, with_variables("A", "B"), live) is None, "others may stand between ours"


async def test_a_field_or_item_that_is_no_longer_wanted_is_removed_once(
    server: FakeTransport, applier: Applier
) -> None:
    wide = deployment(minReadySeconds=5)
    wide["spec"]["template"]["spec"]["containers"][0]["env"].append({"name": "B", "value": "2"})
    live = await applier.apply(DEPLOYMENTS, wide, None)
    live = await applier.apply(DEPLOYMENTS, deployment(), live)
    assert live is not None
    stored = server.stored(DEPLOYMENTS)[0]["spec"]
    assert "minReadySeconds" not in stored
    assert stored["template"]["spec"]["containers"][0]["env"] == [{"name": "A", "value": "1"}]
    assert await applier.apply(DEPLOYMENTS, deployment(), live) is None


async def test_an_object_that_somebody_else_made_under_the_name_is_left_as_it_is(
    server: FakeTransport, applier: Applier
) -> None:
    made = await server.create(DEPLOYMENTS, deployment(replicas=7))
    with pytest.raises(NotOurs, match="rename or delete"):
        await applier.apply(DEPLOYMENTS, deployment(), None)
    assert server.stored(DEPLOYMENTS) == [made]


async def test_our_own_object_that_the_mirror_does_not_show_yet_is_no_strangers(
    server: FakeTransport, applier: Applier
) -> None:
    await applier.apply(DEPLOYMENTS, deployment(), None)
    await applier.apply(DEPLOYMENTS, deployment(replicas=5), None)
    assert server.stored(DEPLOYMENTS)[0]["spec"]["replicas"] == 5


async def test_an_object_deleted_meanwhile_is_not_brought_back_by_an_update(
    server: FakeTransport, applier: Applier
) -> None:
    live = await applier.apply(DEPLOYMENTS, deployment(), None)
    server.remove(DEPLOYMENTS, "team-a", "d")
    with pytest.raises(Conflict):
        await applier.apply(DEPLOYMENTS, deployment(replicas=5), live)
    assert server.stored(DEPLOYMENTS) == []


async def test_status_is_written_once_and_leaves_conditions_of_others_alone(
    server: FakeTransport, applier: Applier
) -> None:
    workload = {"metadata": {"name": "w", "namespace": "team-a"}, "spec": {"task": "t"}}
    server.put(INFERENCE_WORKLOADS, {**workload, "status": {"conditions": [{"type": "Theirs", "status": "True"}]}})
    status = {"conditions": [{"type": "Ready", "status": "False"}], "replicas": 0}
    live = server.stored(INFERENCE_WORKLOADS)[0]
    live_after = await applier.apply_status(INFERENCE_WORKLOADS, live, status)
    assert live_after is not None
    assert [c["type"] for c in live_after["status"]["conditions"]] == ["Theirs", "Ready"]
    assert live_after["metadata"]["generation"] == 1
    assert await applier.apply_status(INFERENCE_WORKLOADS, live_after, status) is None


async def test_status_of_a_deleted_object_is_no_error_and_of_its_successor_is_refused(
    server: FakeTransport, applier: Applier
) -> None:
    live = server.put(INFERENCE_WORKLOADS, {"metadata": {"name": "w", "namespace": "a"}})
    server.remove(INFERENCE_WORKLOADS, "a", "w")
    assert await applier.apply_status(INFERENCE_WORKLOADS, live, {"replicas": 1}) is None
    server.put(INFERENCE_WORKLOADS, {"metadata": {"name": "w", "namespace": "a"}})
    with pytest.raises(Conflict):
        await applier.apply_status(INFERENCE_WORKLOADS, live, {"replicas": 1})


async def test_delete_takes_the_object_that_was_seen_and_never_its_successor(
    server: FakeTransport, applier: Applier
) -> None:
    first = await applier.apply(DEPLOYMENTS, deployment(), None)
    assert first is not None
    server.remove(DEPLOYMENTS, "team-a", "d")
    assert await applier.delete(DEPLOYMENTS, first) is False
    second = await applier.apply(DEPLOYMENTS, deployment(), None)
    assert second is not None
    assert await applier.delete(DEPLOYMENTS, first) is False
    assert await applier.delete(DEPLOYMENTS, second) is True
    assert server.stored(DEPLOYMENTS) == []


async def test_a_write_that_fails_says_so(server: FakeTransport, applier: Applier) -> None:
    server.fault = lambda request: ServerUnavailable(request, "down")
    with pytest.raises(ServerUnavailable, match="patch deployments team-a/d: down; check that the API server is up"):
        await applier.apply(DEPLOYMENTS, deployment(), None)


@pytest.mark.parametrize(
    ("desired", "live"),
    [
        ({"limits": {"cpu": "1000m", "memory": "1Gi"}}, {"limits": {"cpu": "1", "memory": "1024Mi"}}),
        ({"limits": {"nvidia.com/gpu": 1}}, {"limits": {"nvidia.com/gpu": "1"}}),
        ({"emptyDir": {"sizeLimit": "0.5Gi"}}, {"emptyDir": {"sizeLimit": "512Mi"}}),
        ({"ports": [{"containerPort": 80}]}, {"ports": [{"containerPort": 80, "protocol": "TCP", "name": "x"}]}),
        ({"conditions": [{"type": "B"}]}, {"conditions": [{"type": "A"}, {"type": "B", "status": "True"}]}),
        ({"args": ["a", "b"]}, {"args": ["a", "b"]}),
        ({"tolerations": [{"key": "gpu"}]}, {"tolerations": [{"key": "gpu", "operator": "Equal"}]}),
        ({"weight": 1.0}, {"weight": 1}),
        ({"note": None}, {}),
        ({"securityContext": {}}, {}),
        ({"command": []}, {}),
    ],
)
def test_the_same_thing_said_differently_is_the_same(desired: Any, live: Any) -> None:
    assert subset_equal(desired, live)


@pytest.mark.parametrize(
    ("desired", "live"),
    [
        ({"limits": {"cpu": "1"}}, {"limits": {"cpu": "2"}}),
        ({"limits": {"cpu": "1"}}, {"limits": {"cpu": "many"}}),
        ({"args": ["a", "b"]}, {"args": ["b", "a"]}),
        ({"args": ["a"]}, {"args": ["a", "b"]}),
        ({"args": []}, {"args": ["a"]}),
        ({"enabled": True}, {"enabled": 1}),
        ({"port": "80"}, {"port": 80}),
        ({"ports": [{"containerPort": 80}]}, {"ports": [{"containerPort": 80, "protocol": "UDP"}]}),
        ({"image": "1000m"}, {"image": "1"}),
        ({"spec": {"a": 1}}, {"spec": "text"}),
        ({"list": ["a"]}, {"list": "a"}),
        ({"replicas": 1}, {}),
    ],
)
def test_different_things_are_different(desired: Any, live: Any) -> None:
    assert not subset_equal(desired, live)


def test_a_zero_value_that_the_server_dropped_is_ours_and_one_it_never_saw_is_written() -> None:
    desired = {"metadata": {"name": "d"}, "spec": {"paused": False}}
    ours = {"manager": "lowbeam", "operation": "Apply", "fieldsV1": {"f:spec": {"f:paused": {}}}}
    assert not differs(desired, {"metadata": {"managedFields": [ours]}, "spec": {}})
    assert differs(desired, {"metadata": {"managedFields": []}, "spec": {}})
