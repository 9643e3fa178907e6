"""What the tests of `lowbeam.kube` against a real API server share: small objects, connections, waiting."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from lowbeam.kube import AioTransport, KubeObject, Resource, connect
from tests.faultproxy import FaultProxy
from tools.localcluster.client import ClusterClient

CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap", True)


def monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def now() -> datetime:
    return datetime.now(UTC)


async def until(condition: Callable[[], object], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  # the condition is in another process
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def running(*coroutines: Any) -> AsyncIterator[list[asyncio.Task[None]]]:
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def token_of(cluster: ClusterClient, namespace: str) -> str:
    """A token of the namespace's own ServiceAccount."""
    return cluster.kubectl("create", "token", "default", "-n", namespace).strip()


def with_token(cluster: ClusterClient, folder: Path, token: str, server: str = "") -> Path:
    """A kubeconfig with this token, for this server where one is named."""
    config = yaml.safe_load(cluster.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token}
    config["clusters"][0]["cluster"]["server"] = server or config["clusters"][0]["cluster"]["server"]
    path = folder / f"kubeconfig-{uuid.uuid4().hex[:8]}"
    path.write_text(yaml.safe_dump(config))
    return path


def user_of(cluster: ClusterClient, namespace: str, folder: Path, *verbs: str) -> Path:
    """A kubeconfig of somebody who may do this with the workloads of the namespace, and nothing else."""
    rights = [f"--verb={verb}" for verb in verbs]
    where = ("-n", namespace)
    cluster.kubectl("create", "role", "viewer", *where, *rights, "--resource=inferenceworkloads.lowbeam.dev")
    bound = ("--role=viewer", f"--serviceaccount={namespace}:default")
    cluster.kubectl("create", "rolebinding", "viewer", *where, *bound)
    return with_token(cluster, folder, token_of(cluster, namespace))


@pytest.fixture
async def transport(cluster: ClusterClient) -> AsyncIterator[AioTransport]:
    async with await connect(str(cluster.kubeconfig)) as transport:
        yield transport


@pytest.fixture
async def proxy(cluster: ClusterClient) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(cluster.kubeconfig) as proxy:
        yield proxy


@pytest.fixture
async def through_proxy(proxy: FaultProxy, tmp_path: Path) -> AsyncIterator[AioTransport]:
    async with await connect(str(proxy.write_kubeconfig(tmp_path))) as transport:
        yield transport


def config_map(namespace: str, name: str = "c", **data: str) -> KubeObject:
    return {"metadata": {"name": name, "namespace": namespace}, "data": data}


def deployment(namespace: str, **pod: Any) -> KubeObject:
    """A Deployment with one of everything that Lowbeam's renderer writes, in forms that the server rewrites."""
    container = {
        "name": "worker",
        "image": "worker:1",
        "args": ["--batch-limit", "8"],
        "env": [
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "EMPTY", "value": ""},
        ],
        "ports": [{"name": "http", "containerPort": 8080}, {"name": "control", "containerPort": 9465}],
        "resources": {
            "limits": {"nvidia.com/gpu": 1, "memory": "16384Mi"},
            "requests": {"cpu": "2000m", "memory": "16384Mi"},
        },
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}, "periodSeconds": 2},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "cache", "mountPath": "/cache"}],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "d", "namespace": namespace, "labels": {"app": "d"}, "annotations": {"lowbeam.dev/x": ""}},
        "spec": {
            "replicas": 0,
            "paused": False,
            "selector": {"matchLabels": {"app": "d"}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
            "template": {
                "metadata": {"labels": {"app": "d"}},
                "spec": {
                    "containers": [container],
                    "hostNetwork": False,
                    "securityContext": {},
                    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
                    "volumes": [{"name": "cache", "emptyDir": {"sizeLimit": "0.5Gi"}}],
                    "terminationGracePeriodSeconds": 60,
                    **pod,
                },
            },
        },
    }


def service(namespace: str) -> KubeObject:
    return {
        "metadata": {"name": "s", "namespace": namespace},
        "spec": {"selector": {"app": "d"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    }
