"""What the tests of `lowbeam.kube` against a real API server share: small objects, connections, waiting."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

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
