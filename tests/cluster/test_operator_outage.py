"""The API server is gone for a minute, on a cluster of its own: the operator lives on and finds out what it missed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from tests.operator_harness import BULK, Stage, is_ready, power_cap, staged, workload
from tools.localcluster import SAMPLE_KWOK_NODES, Cluster, ClusterSpec

OUTAGE_SECONDS = 60


@pytest.fixture(scope="module")
def own_cluster() -> Iterator[Cluster]:
    """A control plane that may be stopped."""
    if os.environ.get("CLUSTER") == "kind":
        pytest.skip("stops parts of the control plane; kind's are not ours to stop")
    with Cluster.up(ClusterSpec(name=f"outage-{os.getpid()}", kwok_nodes=SAMPLE_KWOK_NODES)) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def stage(own_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged(own_cluster, tmp_path_factory.mktemp("outage")) as made:
        made.start_operator()
        yield made


@pytest.mark.timeout(600)
def test_an_api_server_that_is_away_for_a_minute_costs_nobody_a_pod(stage: Stage, own_cluster: Cluster) -> None:
    team, names = "team", ("one", "two")
    own_cluster.kubectl("create", "namespace", team)
    stage.apply(
        power_cap(team, 9000, namespaces=[team]),
        workload(team, "one"),
        workload(team, "two", BULK),
    )
    stage.ready(team, *names, seconds=180)
    stage.eventually("watts are drawn", lambda: stage.watts(team) > 1000)
    pods = {pod["metadata"]["uid"] for pod in stage.pods(team)}
    operator, cut_watts = stage.operator, round(stage.watts(team) * 0.7)

    own_cluster.stop_part("apiserver")
    began = time.monotonic()
    while time.monotonic() - began < OUTAGE_SECONDS:
        assert operator.alive(), operator.tail()
        time.sleep(1)
    assert not operator.ready()
    own_cluster.start_part("apiserver")
    back = time.monotonic()

    # 1. It leads again, with the pods that were there, and carries on.
    stage.eventually("it leads again", lambda: stage.lease_holder() == operator.identity)
    stage.apply(workload(team, "three"))
    stage.patch("pcap", team, {"watts": cut_watts})
    stage.eventually("under the new cap", lambda: stage.watts(team) <= cut_watts * 0.95, 180)
    print(f"\nunder the new cap {time.monotonic() - back:.1f} s after the API server answered again")
    stage.ready(team, "one", "three", seconds=180)
    stage.eventually("in sync", operator.ready)
    assert operator.alive()

    # 2. No workload was ended for nodes that were silent, and no pod is counted that is not there.
    left = {pod["metadata"]["uid"] for pod in stage.pods(team, "one")}
    assert left <= pods
    stage.eventually("two is dimmed, not ended", lambda: is_ready(stage.iw(team, "two")), 180)
    for name in ("one", "two", "three"):
        stage.eventually(f"{name} counts what is there", lambda name=name: _counts(stage, team, name))
        stage.eventually(f"one Deployment of {name}", lambda name=name: len(stage.deployments(team, name)) == 1)
        status = stage.iw(team, name)["status"]
        assert "nothing runs any longer" not in [entry["message"] for entry in status["history"]]


def _counts(stage: Stage, namespace: str, name: str) -> bool:
    status = stage.iw(namespace, name)["status"]
    return bool(status["replicas"] == len(stage.pods(namespace, name)) == status["selected"]["replicas"])
