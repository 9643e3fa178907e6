"""Clusters for every test that needs one: a control plane per test session, a namespace per test.

`LOWBEAM_CLUSTER=NAME` uses a running cluster of tools/localcluster instead of starting one, and leaves it running.
`CLUSTER=kind` uses kind. Nothing here starts before a test asks for it.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tools.localcluster import SAMPLE_KWOK_NODES, Cluster, ClusterSpec, LocalClusterError, build, images, parts
from tools.localcluster.client import ClusterClient
from tools.localcluster.kind import KindCluster
from tools.localcluster.network import require_node_rights
from tools.localcluster.process import wait_until

# How long an example takes says who else uses the machine. On top of hypothesis' own profile, which is another in CI.
settings.register_profile("lowbeam", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("lowbeam")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build what the selected tests need before the first one starts: no test's time limit covers a compiler."""
    if session.config.option.collectonly or os.environ.get("CLUSTER") == "kind":
        return
    needed: list[str] = []
    if any(_needs(item, "cluster") or _needs(item, "node") for item in session.items):
        needed += [*parts.CONTROL_PLANE, "kwok", "prometheus"]
    real = any(_needs(item, "node") for item in session.items) and _may_run_nodes()
    if real:
        needed += parts.NODE
    with session.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        build.ensure_all(needed)
        if real:
            images.base_archive()


def _needs(item: pytest.Item, kind: str) -> bool:
    """Return whether a test needs the control plane ("cluster") or a real node ("node")."""
    fixture = {"cluster": "cluster", "node": "node_cluster"}[kind]
    return item.get_closest_marker(kind) is not None or fixture in getattr(item, "fixturenames", ())


def _may_run_nodes() -> bool:
    try:
        require_node_rights()
    except LocalClusterError:
        return False
    return True


@pytest.fixture(scope="session")
def cluster() -> Iterator[ClusterClient]:
    """One control plane with KWOK and 12 GPU nodes of 3 classes, for the whole session."""
    if running := os.environ.get("LOWBEAM_CLUSTER"):
        yield Cluster.attach(running)
    elif os.environ.get("CLUSTER") == "kind":
        with KindCluster.up(f"lowbeam-test-{os.getpid()}") as kind:
            yield kind
    else:
        with Cluster.up(ClusterSpec(name=f"test-{os.getpid()}", kwok_nodes=SAMPLE_KWOK_NODES)) as local:
            yield local


@pytest.fixture(scope="session")
def node_cluster() -> Iterator[Cluster]:
    """A cluster with one real node, 8 fake GPUs on it, and the KWOK nodes of `cluster`."""
    if os.environ.get("CLUSTER") == "kind":
        pytest.skip("tests of tools/localcluster's own real node; CLUSTER=kind brings its own nodes")
    try:
        require_node_rights()
    except LocalClusterError as error:
        pytest.skip(str(error))
    spec = ClusterSpec(name=f"test-node-{os.getpid()}", nodes=1, fake_gpus=8, kwok_nodes=SAMPLE_KWOK_NODES)
    with Cluster.up(spec) as cluster:
        yield cluster


def _fresh_namespace(cluster: ClusterClient) -> Iterator[str]:
    name = f"test-{uuid.uuid4().hex[:10]}"
    cluster.kubectl("create", "namespace", name)
    # Pods are refused until the namespace has its default ServiceAccount.
    account = ("get", "serviceaccount", "default", "-n", name, "--ignore-not-found", "-o", "name")
    wait_until("the default ServiceAccount", lambda: cluster.kubectl(*account), timeout_s=30)
    yield name
    # Not waited for: the name is never used again, and the session's end takes the rest.
    cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def namespace(cluster: ClusterClient) -> Iterator[str]:
    """A namespace in `cluster` of this test's own."""
    yield from _fresh_namespace(cluster)


@pytest.fixture
def node_namespace(node_cluster: Cluster) -> Iterator[str]:
    """A namespace in `node_cluster` of this test's own."""
    yield from _fresh_namespace(node_cluster)
