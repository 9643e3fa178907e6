"""Edits of spec.pod on the real API server: what it makes of a rendered Deployment is what the new spec says."""

from __future__ import annotations

from typing import Any

import pytest

from lowbeam.kube import DEPLOYMENTS, AioTransport, Applier, KubeObject, differs
from tests.kube_harness import transport
from tests.unit.test_render_deployments import pod_of, render, workload

__all__ = ["transport"]

ACCOUNT = {"serviceAccountName": "s3-reader"}


def manifest(namespace: str, pod: dict[str, Any]) -> KubeObject:
    """Without an owner, as there is none in the namespace."""
    rendered = render(workload(pod=pod), replicas=0)
    metadata = {key: value for key, value in rendered["metadata"].items() if key != "ownerReferences"}
    return {**rendered, "metadata": {**metadata, "namespace": namespace}}


def variables(*names: str) -> dict[str, Any]:
    return {"env": [{"name": name, "value": "$(A)"} for name in names]}


def volume(**source: Any) -> dict[str, Any]:
    return {"volumes": [{"name": "w", **source}], "volumeMounts": [{"name": "w", "mountPath": "/w"}]}


async def edited(transport: AioTransport, namespace: str, before: dict[str, Any], after: dict[str, Any]) -> KubeObject:
    """The live Deployment after an edit, which must have settled with one write."""
    applier, wanted = Applier(transport), manifest(namespace, after)
    first = await applier.apply(DEPLOYMENTS, manifest(namespace, before), None)
    assert first is not None
    live = await applier.apply(DEPLOYMENTS, wanted, first)
    assert live is not None, "nothing was written"
    assert not differs(wanted, live), "it would be written for ever"
    return live


async def test_an_account_that_is_taken_away_is_gone_from_the_pods(transport: AioTransport, namespace: str) -> None:
    pod = pod_of(await edited(transport, namespace, ACCOUNT, {}))
    assert not {"serviceAccountName", "serviceAccount"} & set(pod)


async def test_another_order_of_variables_reaches_the_pods(transport: AioTransport, namespace: str) -> None:
    pod = pod_of(await edited(transport, namespace, variables("B", "A"), variables("A", "B")))
    assert [variable["name"] for variable in pod["containers"][0]["env"]][-2:] == ["A", "B"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (volume(hostPath={"path": "/x"}), volume(persistentVolumeClaim={"claimName": "c"})),
        (volume(configMap={"name": "c"}), volume(secret={"secretName": "s"})),
        (volume(emptyDir={"medium": "Memory"}), volume(hostPath={"path": "/x"})),
        ({"resources": {"limits": {"cpu": 1, "memory": "1.5Gi"}}}, {"resources": {"limits": {"cpu": "0.5"}}}),
    ],
    ids=["disk to claim", "config map to secret", "memory to disk", "fewer limits"],
)
async def test_volumes_and_resources_of_another_sort_replace_the_old_ones(
    transport: AioTransport, namespace: str, before: dict[str, Any], after: dict[str, Any]
) -> None:
    pod = pod_of(await edited(transport, namespace, before, after))
    wanted = pod_of(manifest(namespace, after))
    assert [set(it) for it in pod["volumes"]] == [set(it) for it in wanted["volumes"]]
    live, limits = pod["containers"][0]["resources"], wanted["containers"][0]["resources"]["limits"]
    assert set(live["limits"]) == set(limits)


async def test_a_deployment_that_is_shrunk_keeps_the_rest_and_can_be_applied_again(
    transport: AioTransport, namespace: str
) -> None:
    applier, wanted = Applier(transport), manifest(namespace, ACCOUNT)
    wanted["spec"]["replicas"] = 3
    first = await applier.apply(DEPLOYMENTS, wanted, None)
    assert first is not None
    assert await applier.scale(DEPLOYMENTS, first, 2)
    shrunk = await transport.get(DEPLOYMENTS, first["metadata"]["name"], namespace)
    assert shrunk["spec"] == {**first["spec"], "replicas": 2}
    again = await applier.apply(DEPLOYMENTS, wanted, shrunk)
    assert again is not None
    assert again["spec"] == first["spec"]
    assert not differs(wanted, again)

    await applier.delete(DEPLOYMENTS, first)
    assert not await applier.scale(DEPLOYMENTS, first, 1), "what is gone is not brought back"
