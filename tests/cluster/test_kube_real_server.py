"""kube/ against the real API server: the seven calls, ownership, refusals, permissions."""

from __future__ import annotations

import asyncio
import functools
from pathlib import Path

import pytest
import yaml

from lowbeam.kube import (
    DEPLOYMENTS,
    NODES,
    SERVICES,
    AioTransport,
    AlreadyExists,
    Applier,
    Conflict,
    Forbidden,
    Informer,
    InformerState,
    Invalid,
    KubeObject,
    NotFound,
    Resource,
    connect,
    count_writes,
    differs,
)
from tests.faultproxy import Answer, FaultProxy, LoseAnswer, Truncate
from tests.kube_harness import (
    CONFIG_MAPS,
    config_map,
    deployment,
    monotonic_ms,
    proxy,
    running,
    service,
    through_proxy,
    transport,
    until,
)
from tools.localcluster.client import ClusterClient

__all__ = ["proxy", "through_proxy", "transport"]


# What the calls do.


async def test_apply_get_list_and_delete_work_on_the_real_server(transport: AioTransport, namespace: str) -> None:
    made = await transport.apply(CONFIG_MAPS, config_map(namespace, a="1"))
    assert made["kind"] == "ConfigMap"
    assert (await transport.get(CONFIG_MAPS, "c", namespace))["data"] == {"a": "1"}
    for number in range(7):
        await transport.apply(CONFIG_MAPS, config_map(namespace, f"c{number}"))
    pages = [page async for page in transport.list_pages(CONFIG_MAPS, namespace=namespace, limit=3)]
    names = {item["metadata"]["name"] for page in pages for item in page.items}
    assert len(pages) >= 3
    assert names >= {"c", *(f"c{number}" for number in range(7))}
    assert all(item["kind"] == "ConfigMap" for page in pages for item in page.items)
    await transport.delete(CONFIG_MAPS, "c", namespace, uid=made["metadata"]["uid"])
    with pytest.raises(NotFound):
        await transport.get(CONFIG_MAPS, "c", namespace)


async def test_delete_apply_and_status_refuse_an_object_that_took_the_name(
    transport: AioTransport, namespace: str
) -> None:
    old = await transport.apply(DEPLOYMENTS, deployment(namespace))
    uid = old["metadata"]["uid"]
    await transport.delete(DEPLOYMENTS, "d", namespace, uid=uid)
    stale = deployment(namespace)
    stale["metadata"]["uid"] = uid
    with pytest.raises(Conflict):
        await transport.apply(DEPLOYMENTS, stale)
    with pytest.raises(NotFound):
        await transport.get(DEPLOYMENTS, "d", namespace)
    await transport.apply(DEPLOYMENTS, deployment(namespace))
    with pytest.raises(Conflict):
        await transport.delete(DEPLOYMENTS, "d", namespace, uid=uid)
    with pytest.raises(Conflict):
        await transport.apply(DEPLOYMENTS, stale)
    status = {"metadata": {"name": "d", "namespace": namespace, "uid": uid}, "status": {"replicas": 3}}
    with pytest.raises(Conflict):
        await transport.apply_status(DEPLOYMENTS, status)


async def test_status_of_a_missing_object_is_not_found_and_creates_nothing(
    transport: AioTransport, namespace: str
) -> None:
    with pytest.raises(NotFound):
        await transport.apply_status(
            DEPLOYMENTS, {"metadata": {"name": "none", "namespace": namespace}, "status": {"replicas": 1}}
        )


async def test_a_resource_version_makes_apply_a_compare_and_swap(transport: AioTransport, namespace: str) -> None:
    first = await transport.apply(CONFIG_MAPS, config_map(namespace, a="1"))
    await transport.apply(CONFIG_MAPS, config_map(namespace, a="2"))
    late = config_map(namespace, a="3")
    late["metadata"]["resourceVersion"] = first["metadata"]["resourceVersion"]
    with pytest.raises(Conflict):
        await transport.apply(CONFIG_MAPS, late)
    with pytest.raises(AlreadyExists):
        await transport.create(CONFIG_MAPS, config_map(namespace))


async def test_a_refused_object_names_its_fields(transport: AioTransport, namespace: str) -> None:
    bad = deployment(namespace)
    bad["spec"]["template"]["spec"]["containers"][0]["ports"][0]["containerPort"] = 99999
    with pytest.raises(Invalid) as caught:
        await transport.apply(DEPLOYMENTS, bad)
    assert any("containerPort" in cause for cause in caught.value.causes)


# Steady state.


async def test_nothing_is_written_while_nothing_differs(transport: AioTransport, namespace: str) -> None:
    applier = Applier(transport)
    wanted: list[tuple[Resource, KubeObject]] = [
        (DEPLOYMENTS, deployment(namespace)),
        (SERVICES, service(namespace)),
        (CONFIG_MAPS, config_map(namespace, a="1")),
    ]
    mirrors = {
        resource: Informer(transport, resource, namespace=namespace, monotonic_ms=monotonic_ms)
        for resource, _ in wanted
    }
    async with running(*(mirror.run() for mirror in mirrors.values())):
        for mirror in mirrors.values():
            await mirror.wait_synced()
        for resource, body in wanted:
            assert await applier.apply(resource, body, None) is not None
            await until(functools.partial(mirrors[resource].get, namespace, body["metadata"]["name"]))
        # The deployment controller writes its own annotation and status; then it is quiet.
        await until(
            lambda: (mirrors[DEPLOYMENTS].get(namespace, "d") or {}).get("status", {}).get("observedGeneration")
        )
        before = count_writes(transport.calls)
        for _ in range(3):
            for resource, body in wanted:
                live = mirrors[resource].get(namespace, body["metadata"]["name"])
                assert live is not None
                assert not differs(body, live), f"{resource.kind} would be written for ever"
                assert await applier.apply(resource, body, live) is None
        assert count_writes(transport.calls) == before


async def test_the_server_takes_away_what_we_give_up_and_keeps_what_others_own(
    transport: AioTransport, namespace: str
) -> None:
    applier = Applier(transport)
    live = await applier.apply(DEPLOYMENTS, deployment(namespace, priorityClassName=""), None)
    theirs = {"metadata": {"name": "d", "namespace": namespace, "annotations": {"team": "a"}}}
    live = await transport.apply(DEPLOYMENTS, theirs, field_manager="somebody")
    narrow = deployment(namespace)
    del narrow["spec"]["template"]["spec"]["tolerations"]
    del narrow["metadata"]["annotations"]
    container = narrow["spec"]["template"]["spec"]["containers"][0]
    container["env"] = container["env"][:1]
    assert differs(narrow, live)
    live = await applier.apply(DEPLOYMENTS, narrow, live)
    assert live is not None
    assert live["metadata"]["annotations"].get("team") == "a"
    assert "lowbeam.dev/x" not in live["metadata"]["annotations"]
    assert "tolerations" not in live["spec"]["template"]["spec"]
    assert [e["name"] for e in live["spec"]["template"]["spec"]["containers"][0]["env"]] == ["POD_NAME"]
    assert not differs(narrow, live)


async def test_somebody_elses_edit_is_noticed_and_put_back(
    transport: AioTransport, cluster: ClusterClient, namespace: str
) -> None:
    applier = Applier(transport)
    await applier.apply(DEPLOYMENTS, deployment(namespace), None)
    cluster.kubectl("set", "image", "-n", namespace, "deployment/d", "worker=other:2")
    live = await transport.get(DEPLOYMENTS, "d", namespace)
    fixed = await applier.apply(DEPLOYMENTS, deployment(namespace), live)
    assert fixed is not None
    assert fixed["spec"]["template"]["spec"]["containers"][0]["image"] == "worker:1"


async def test_status_is_written_once(transport: AioTransport, namespace: str) -> None:
    applier = Applier(transport)
    live = await transport.apply(DEPLOYMENTS, deployment(namespace))
    condition = {"type": "Dimmed", "status": "True", "lastTransitionTime": "2026-11-21T09:00:00Z", "reason": "Cap"}
    after = await applier.apply_status(DEPLOYMENTS, live, {"conditions": [condition]})
    assert after is not None
    assert "Dimmed" in [c["type"] for c in after["status"]["conditions"]]
    assert await applier.apply_status(DEPLOYMENTS, after, {"conditions": [condition]}) is None


# Informer.


async def test_streaming_and_paged_lists_give_the_same_mirror(transport: AioTransport) -> None:
    streaming, paged = (Informer(transport, NODES, monotonic_ms=monotonic_ms) for _ in range(2))
    paged._watch_list = False
    async with running(streaming.run(), paged.run()):
        await until(lambda: streaming.synced and paged.synced)
        names = [{obj["metadata"]["name"] for obj in mirror.objects()} for mirror in (streaming, paged)]
    assert names[0] == names[1] != set()
    assert transport.calls[("list", "nodes")] == 1


async def test_a_cut_connection_loses_no_change(
    proxy: FaultProxy, through_proxy: AioTransport, transport: AioTransport, namespace: str
) -> None:
    made = [await transport.apply(CONFIG_MAPS, config_map(namespace, f"c{number}")) for number in range(10)]
    mirror = Informer(through_proxy, CONFIG_MAPS, namespace=namespace, monotonic_ms=monotonic_ms)
    async with running(mirror.run()):
        await mirror.wait_synced()
        await proxy.go_down()
        await until(lambda: mirror.state is InformerState.UNREACHABLE)
        for obj in made[:6]:
            await transport.delete(CONFIG_MAPS, obj["metadata"]["name"], namespace, uid=obj["metadata"]["uid"])
        assert len([o for o in mirror.objects() if o["metadata"]["name"].startswith("c")]) == 10
        await proxy.come_back()
        await until(lambda: not any(mirror.by_uid(obj["metadata"]["uid"]) for obj in made[:6]))
        assert all(mirror.by_uid(obj["metadata"]["uid"]) for obj in made[6:])


async def test_deletions_during_an_outage_are_found_although_the_server_only_says_gone(
    proxy: FaultProxy, through_proxy: AioTransport, transport: AioTransport, namespace: str
) -> None:
    """The watch cache's own 410: the proxy makes the resume ask for a version from before all history."""
    made = [await transport.apply(CONFIG_MAPS, config_map(namespace, f"c{number}")) for number in range(25)]
    mirror = Informer(through_proxy, CONFIG_MAPS, namespace=namespace, monotonic_ms=monotonic_ms)
    deleted: list[str] = []
    mirror.on_change(
        lambda _, change, old, __: deleted.append(old["metadata"]["uid"]) if old and change == "DELETED" else None
    )
    async with running(mirror.run()):
        await mirror.wait_synced()
        await proxy.go_down()
        for obj in made[:20]:
            await transport.delete(CONFIG_MAPS, obj["metadata"]["name"], namespace, uid=obj["metadata"]["uid"])
        mirror._version = "1"
        await proxy.come_back()
        await until(lambda: len(deleted) >= 20)
        assert sorted(deleted) == sorted(obj["metadata"]["uid"] for obj in made[:20])


async def test_faults_on_the_way_end_in_the_same_state_with_one_write(
    proxy: FaultProxy, through_proxy: AioTransport, transport: AioTransport, namespace: str
) -> None:
    faults = [
        Answer(429, {"Retry-After": "0"}),
        Answer(503, body="down"),
        LoseAnswer(),
        Truncate(20),
    ]
    for number, fault in enumerate(faults):
        once = iter([fault])
        proxy.fault = functools.partial(lambda left, asked: next(left, None) if asked.verb == "patch" else None, once)
        made = await through_proxy.apply(CONFIG_MAPS, config_map(namespace, f"c{number}", a="1"))
        live = await transport.get(CONFIG_MAPS, f"c{number}", namespace)
        assert made["metadata"]["resourceVersion"] == live["metadata"]["resourceVersion"]
    assert through_proxy.calls[("patch", "configmaps")] == len(faults)


# Permissions.


@pytest.fixture
def limited(cluster: ClusterClient, namespace: str, tmp_path: Path) -> Path:
    """Kubeconfig of a real service account that may watch ConfigMaps and nothing else."""
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": "limited", "namespace": namespace},
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "watch"]}],
    }
    cluster.apply(role)
    cluster.kubectl(
        "create", "rolebinding", "limited", "-n", namespace, "--role=limited", f"--serviceaccount={namespace}:default"
    )
    token = cluster.kubectl("create", "token", "default", "-n", namespace).strip()
    admin = yaml.safe_load(cluster.kubeconfig.read_text())
    admin["users"] = [{"name": admin["users"][0]["name"], "user": {"token": token}}]
    path = tmp_path / "limited"
    path.write_text(yaml.safe_dump(admin))
    return path


async def test_one_kind_without_permission_is_named_and_recovers_when_the_rule_is_added(
    cluster: ClusterClient, limited: Path, namespace: str, transport: AioTransport
) -> None:
    await transport.apply(CONFIG_MAPS, config_map(namespace))
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        await asyncio.sleep(0.1)

    async with await connect(str(limited)) as weak:
        allowed, refused = (
            Informer(weak, resource, namespace=namespace, monotonic_ms=monotonic_ms, sleep=sleep)
            for resource in (CONFIG_MAPS, SERVICES)
        )
        async with running(allowed.run(), refused.run()):
            await until(lambda: allowed.get(namespace, "c") and refused.message)
            assert refused.state is InformerState.FORBIDDEN
            assert 'add verb "watch" on "services"' in refused.message
            assert waits[0] >= 7, "asking again and again does not grant a permission"
            cluster.kubectl("create", "role", "more", "-n", namespace, "--verb=list,watch", "--resource=services")
            cluster.kubectl(
                "create", "rolebinding", "more", "-n", namespace, "--role=more", f"--serviceaccount={namespace}:default"
            )
            await until(lambda: refused.synced)
            assert refused.message == ""
        with pytest.raises(Forbidden, match='add verb "patch" on "configmaps"'):
            await weak.apply(CONFIG_MAPS, config_map(namespace, a="1"))
