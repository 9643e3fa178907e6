"""tools/localcluster keeps its promises: real RBAC, verified TLS, KWOK pods with reachable addresses, no leftovers."""

from __future__ import annotations

import base64
import contextlib
import http.client
import ipaddress
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from tools.localcluster import SAMPLE_KWOK_NODES, Cluster, ClusterSpec, LocalClusterError, network, paths, process
from tools.localcluster.client import ClusterClient

ROOT = Path(__file__).parents[2]


def eventually(condition: Callable[[], Any], *, timeout_s: float = 90.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, "condition did not hold in time"
        time.sleep(0.1)
    return value


def gpu_pod(name: str, namespace: str, gpus: int = 1) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
            "containers": [
                {"name": "main", "image": "localhost/none:1", "resources": {"limits": {"nvidia.com/gpu": gpus}}}
            ],
        },
    }


def running(cluster: ClusterClient, name: str, namespace: str) -> dict[str, Any] | None:
    pod: dict[str, Any] = cluster.get("pod", name, "-n", namespace)
    return pod if pod["status"].get("phase") == "Running" and pod["status"].get("podIP") else None


def answer_always(server: socket.socket, body: bytes) -> None:
    """Answer every request until the socket is closed."""
    with contextlib.suppress(OSError):
        while True:
            answer_once(server, body)


def answer_once(server: socket.socket, body: bytes) -> None:
    connection, _ = server.accept()
    with connection:
        connection.recv(4096)
        connection.sendall(
            b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )


# ---- one cluster for the session


def test_the_twelve_gpu_nodes_are_ready_with_their_classes(cluster: ClusterClient) -> None:
    nodes = cluster.get("nodes", "-l", "nvidia.com/gpu.present=true")["items"]
    gpus: dict[str, int] = {}
    for node in nodes:
        product = node["metadata"]["labels"]["nvidia.com/gpu.product"]
        gpus[product] = gpus.get(product, 0) + int(node["status"]["allocatable"]["nvidia.com/gpu"])
        assert {c["type"]: c["status"] for c in node["status"]["conditions"]}["Ready"] == "True"
    assert gpus == {"NVIDIA-H100-80GB-HBM3": 32, "NVIDIA-A100-SXM4-80GB": 32, "NVIDIA-L4": 16}


def test_a_gpu_pod_is_scheduled_and_its_address_can_be_served_from_this_machine(
    cluster: ClusterClient, namespace: str
) -> None:
    cluster.apply(gpu_pod("worker", namespace))
    pod = eventually(lambda: running(cluster, "worker", namespace))
    address = pod["status"]["podIP"]
    assert ipaddress.ip_address(address) in ipaddress.ip_network(cluster.kwok_cidr)
    with socket.create_server((address, 0)) as server:
        thread = threading.Thread(target=answer_once, args=(server, b"emulated"))
        thread.start()
        connection = http.client.HTTPConnection(address, server.getsockname()[1], timeout=5)
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"emulated"
        thread.join()


def test_a_running_pod_is_ready_again_after_its_node_was_silent(cluster: ClusterClient, namespace: str) -> None:
    cluster.apply(gpu_pod("worker", namespace))
    eventually(lambda: running(cluster, "worker", namespace))
    # What the node controller writes about every pod of a node whose heartbeats stay away.
    silent = {"status": {"conditions": [{"type": "Ready", "status": "False", "reason": "NodeNotReady"}]}}
    cluster.kubectl(
        *("patch", "pod", "worker", "-n", namespace, "--subresource=status", "-p", json.dumps(silent)),
    )

    def ready() -> bool:
        conditions = {
            c["type"]: c["status"] for c in cluster.get("pod", "worker", "-n", namespace)["status"]["conditions"]
        }
        return conditions["Ready"] == conditions["PodScheduled"] == "True"

    eventually(ready)


def test_a_pod_without_the_toleration_stays_off_the_gpu_nodes(cluster: ClusterClient, namespace: str) -> None:
    pod = gpu_pod("stranger", namespace)
    del pod["spec"]["tolerations"]
    cluster.apply(pod)

    def refused() -> bool:
        conditions = cluster.get("pod", "stranger", "-n", namespace)["status"].get("conditions", [])
        return any(c["type"] == "PodScheduled" and c.get("reason") == "Unschedulable" for c in conditions)

    eventually(refused)


def test_more_gpus_than_a_node_has_are_not_given(cluster: ClusterClient, namespace: str) -> None:
    cluster.apply(gpu_pod("greedy", namespace, gpus=9))

    def message() -> str:
        conditions = cluster.get("pod", "greedy", "-n", namespace)["status"].get("conditions", [])
        return " ".join(c.get("message", "") for c in conditions)

    assert "Insufficient nvidia.com/gpu" in eventually(message)


def test_rbac_refuses_a_service_account_without_rights(cluster: ClusterClient, namespace: str) -> None:
    token = cluster.kubectl("create", "token", "default", "-n", namespace).strip()
    connection = connect(cluster)
    headers = {"Authorization": f"Bearer {token}"}
    connection.request("GET", f"/api/v1/namespaces/{namespace}/secrets", headers=headers)
    response = connection.getresponse()
    assert response.status == 403
    assert f"system:serviceaccount:{namespace}:default" in json.loads(response.read())["message"]
    connection.request("GET", "/api/v1/nodes")
    assert connection.getresponse().status == 401, "nobody gets in without credentials"


def test_a_client_with_another_authority_does_not_trust_the_server(cluster: ClusterClient) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        connect(cluster, trust=ssl.create_default_context()).request("GET", "/")


def connect(cluster: ClusterClient, trust: ssl.SSLContext | None = None) -> http.client.HTTPSConnection:
    """Open a connection without credentials; by default it trusts the cluster's authority and nothing else."""
    entry = yaml.safe_load(cluster.kubeconfig.read_text())["clusters"][0]["cluster"]
    authority = base64.b64decode(entry["certificate-authority-data"]).decode()
    context = trust or ssl.create_default_context(cadata=authority)
    return http.client.HTTPSConnection(str(urlsplit(entry["server"]).netloc), context=context, timeout=10)


# ---- clusters of a test's own


@pytest.fixture
def own() -> Iterator[Cluster]:
    """A control plane with KWOK that the test may harm."""
    with Cluster.up(ClusterSpec(name=f"own-{os.getpid()}", kwok_nodes=SAMPLE_KWOK_NODES)) as cluster:
        yield cluster


def test_an_api_server_that_was_away_comes_back_with_its_data_at_the_same_address(own: Cluster) -> None:
    own.kubectl("create", "configmap", "kept", "--from-literal=key=value", "-n", "default")
    own.stop_part("apiserver")
    host = urlsplit(own.server)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((str(host.hostname), int(host.port or 0)), timeout=2)
    with pytest.raises(LocalClusterError, match="refused"):
        own.kubectl("get", "nodes")
    own.start_part("apiserver")
    assert own.get("configmap", "kept", "-n", "default")["data"] == {"key": "value"}
    own.apply(gpu_pod("after", "default"))
    eventually(lambda: running(own, "after", "default"))


def test_down_leaves_no_process_no_address_and_no_folder() -> None:
    cluster = Cluster.up(ClusterSpec(name=f"gone-{os.getpid()}", kwok_nodes=SAMPLE_KWOK_NODES))
    home, taken = cluster.state.home, cluster.state.network
    assert len(list(process.marked(home))) == 5
    if taken.routed:
        assert taken.kwok_cidr in network.ip("route", "show", "table", "local")
    cluster.down()
    assert not list(process.marked(home))
    assert not home.exists()
    if network.can_route():
        assert taken.kwok_cidr not in network.ip("route", "show", "table", "local")
        assert f"{taken.bridge}:" not in network.ip("link", "show")


def test_a_cluster_whose_starter_was_killed_is_cleaned_by_the_next_up() -> None:
    name = f"crash-{os.getpid()}"
    script = (
        "import time; from tools.localcluster import Cluster, ClusterSpec;"
        f"c = Cluster.up(ClusterSpec(name={name!r})); print('up', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        assert starter.stdout.readline() == "up\n"
        starter.send_signal(signal.SIGKILL)
    left_over = set(process.marked(paths.cluster_dir(name)))
    assert len(left_over) == 4, "the parts outlive whoever started them"
    with Cluster.up(ClusterSpec(name=name)) as again:
        assert not any(old.alive() for old in left_over)
        assert again.get("nodes")["items"] == []


def test_a_part_that_dies_during_up_is_reported_with_its_log_and_nothing_stays(tmp_path: Path) -> None:
    broken = tmp_path / "assets"
    broken.mkdir()
    (broken / "etcd").write_text("#!/bin/sh\necho the disk is full >&2\nexit 3\n")
    (broken / "etcd").chmod(0o755)
    name = f"broken-{os.getpid()}"
    command = [sys.executable, "-m", "tools.localcluster", "up", "--name", name]
    environment = {**os.environ, "KUBEBUILDER_ASSETS": str(broken)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "etcd ended" in done.stderr
    assert "the disk is full" in done.stderr
    assert not list(process.marked(paths.cluster_dir(name)))


def test_two_clusters_run_side_by_side_with_their_own_addresses(own: Cluster) -> None:
    with Cluster.up(ClusterSpec(name=f"beside-{os.getpid()}")) as beside:
        assert beside.server != own.server
        ranges = [ipaddress.ip_network(c.kwok_cidr) for c in (own, beside)]
        assert not ranges[0].overlaps(ranges[1])
        beside.kubectl("create", "namespace", "only-here")
        assert "only-here" not in own.kubectl("get", "namespaces")


def test_a_second_up_of_a_running_cluster_is_refused(own: Cluster) -> None:
    with pytest.raises(LocalClusterError, match="is up already"):
        Cluster.up(ClusterSpec(name=own.name))
    assert own.part_alive("apiserver")


def test_without_rights_everything_stays_on_loopback_addresses() -> None:
    name = f"rootless-{os.getpid()}"
    command = [sys.executable, "-m", "tools.localcluster", "up", "--name", name, "--kwok"]
    if os.geteuid() == 0:
        command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *command]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with Cluster.attach(name) as cluster:
        assert urlsplit(cluster.server).hostname == "127.0.0.1"
        cluster.apply(gpu_pod("worker", "default"))
        address = eventually(lambda: running(cluster, "worker", "default"))["status"]["podIP"]
        assert ipaddress.ip_address(address).is_loopback
        socket.create_server((address, 0)).close()


def test_prometheus_scrapes_the_address_of_an_annotated_kwok_pod() -> None:
    spec = ClusterSpec(name=f"scraped-{os.getpid()}", kwok_nodes=SAMPLE_KWOK_NODES, prometheus=True)
    with Cluster.up(spec) as cluster:
        cluster.kubectl("create", "namespace", "scraped")
        pod = gpu_pod("worker", "scraped")
        pod["metadata"]["annotations"] = {"prometheus.io/scrape": "true", "prometheus.io/port": "9400"}
        eventually(lambda: cluster.kubectl("get", "serviceaccount", "-n", "scraped", "-o", "name"))
        cluster.apply(pod)
        address = eventually(lambda: running(cluster, "worker", "scraped"))["status"]["podIP"]
        with socket.create_server((address, 9400)) as server:
            # Every scrape: what the second one misses is stale, and a slow machine may look only then.
            threading.Thread(target=answer_always, args=(server, b"watts 7\n"), daemon=True).start()
            query = f"{cluster.prometheus_url}/api/v1/query?query=watts"

            def found() -> Any:
                with urllib.request.urlopen(query, timeout=5) as answer:  # noqa: S310 - our own URL
                    return json.load(answer)["data"]["result"]

            (series,) = eventually(found)
    assert series["value"][1] == "7"
    assert (series["metric"]["namespace"], series["metric"]["pod"]) == ("scraped", "worker")


def test_a_reused_pid_is_not_mistaken_for_the_part_that_had_it() -> None:
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        now = process.Running.of(sleeper.pid)
        assert now is not None
        earlier = process.Running(now.pid, now.started - 1)
        process.stop([earlier])
        assert now.alive()
        sleeper.kill()
