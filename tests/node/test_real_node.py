"""A real node of tools/localcluster runs real containers: logs, DNS, ClusterIPs, fake GPUs, and no leftovers."""

from __future__ import annotations

import functools
import ipaddress
import os
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tools.localcluster import Cluster, ClusterSpec, LocalClusterError, network, process
from tools.localcluster.hostpython import host_python
from tools.localcluster.images import build_image

pytestmark = pytest.mark.node


def eventually(condition: Callable[[], Any], *, timeout_s: float = 60.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, "condition did not hold in time"
        time.sleep(0.1)
    return value


def skip_without_rights() -> None:
    try:
        network.require_node_rights()
    except LocalClusterError as error:
        pytest.skip(str(error))


def python_pod(name: str, namespace: str, code: str, *, gpus: int = 0, port: int | None = None) -> dict[str, Any]:
    """A pod that runs this environment's Python out of mounted host folders."""
    host = host_python()
    container: dict[str, Any] = {
        "name": "main",
        "image": host.image,
        "imagePullPolicy": "Never",
        "command": [host.python, "-u", "-c", code],
        "volumeMounts": host.mounts,
        "resources": {"limits": {"nvidia.com/gpu": gpus}} if gpus else {},
    }
    if port:
        container["readinessProbe"] = {"tcpSocket": {"port": port}, "periodSeconds": 1}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "nodeSelector": {"lowbeam.dev/real-node": "true"},
            "containers": [container],
            "volumes": host.volumes,
        },
    }


def output(cluster: Cluster, namespace: str, name: str) -> str:
    """Wait for the pod's end and return its log."""

    def phase() -> str | None:
        status = cluster.get("pod", name, "-n", namespace)["status"]
        return status["phase"] if status["phase"] in ("Succeeded", "Failed") else None

    ended = eventually(phase)
    log = cluster.kubectl("logs", name, "-n", namespace)
    assert ended == "Succeeded", log
    return log


def test_a_pod_runs_and_its_log_can_be_read(node_cluster: Cluster, node_namespace: str) -> None:
    node_cluster.apply(python_pod("hello", node_namespace, "import os; print('hello from', os.getpid())"))
    assert output(node_cluster, node_namespace, "hello") == "hello from 1\n"


def test_a_pod_can_use_the_packages_of_this_environment(node_cluster: Cluster, node_namespace: str) -> None:
    node_cluster.apply(python_pod("packages", node_namespace, "import numpy, yaml; print(numpy.arange(3).sum())"))
    assert output(node_cluster, node_namespace, "packages") == "3\n"


def test_gpus_are_allocatable_and_two_pods_get_different_ones(node_cluster: Cluster, node_namespace: str) -> None:
    node = node_cluster.get("node", "node-1")
    assert node["status"]["allocatable"]["nvidia.com/gpu"] == "8"
    code = "import os, time; print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True); time.sleep(600)"
    for name in ("first", "second"):
        node_cluster.apply(python_pod(name, node_namespace, code, gpus=4))
    given = []
    for name in ("first", "second"):
        log = eventually(functools.partial(_log, node_cluster, node_namespace, name))
        given.append(set(log.strip().split(",")))
    assert [len(one) for one in given] == [4, 4]
    assert not given[0] & given[1]


def _log(cluster: Cluster, namespace: str, name: str) -> str:
    started = cluster.get("pod", name, "-n", namespace)["status"]["phase"] == "Running"
    return cluster.kubectl("logs", name, "-n", namespace) if started else ""


def test_a_service_is_found_by_dns_and_answers_on_its_cluster_ip(node_cluster: Cluster, node_namespace: str) -> None:
    serve = (
        "import http.server as h\n"
        "class H(h.BaseHTTPRequestHandler):\n"
        " def do_GET(self):\n"
        "  self.send_response(200); self.end_headers(); self.wfile.write(b'served')\n"
        "h.HTTPServer(('', 8000), H).serve_forever()"
    )
    node_cluster.apply(
        python_pod("web", node_namespace, serve, port=8000),
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "web", "namespace": node_namespace},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8000}]},
        },
    )
    node_cluster.kubectl("wait", "--for=condition=Ready", "pod/web", "-n", node_namespace, "--timeout=60s")
    ask = (
        "import time, urllib.request\n"
        "for attempt in range(200):\n"
        " try:\n"
        "  print(urllib.request.urlopen('http://web', timeout=2).read().decode()); break\n"
        " except OSError as error: print(error); time.sleep(0.2)\n"
    )
    node_cluster.apply(python_pod("asker", node_namespace, ask))
    assert output(node_cluster, node_namespace, "asker").endswith("served\n")
    address = node_cluster.get("service", "web", "-n", node_namespace)["spec"]["clusterIP"]
    with urllib.request.urlopen(f"http://{address}", timeout=5) as answer:
        assert answer.read() == b"served", "ClusterIPs answer from the machine itself too"


def test_a_pod_reaches_the_api_server_with_its_service_account(node_cluster: Cluster, node_namespace: str) -> None:
    ask = (
        "import ssl, urllib.request, urllib.error\n"
        "d = '/var/run/secrets/kubernetes.io/serviceaccount/'\n"
        "r = urllib.request.Request('https://kubernetes.default.svc/api/v1/nodes',"
        " headers={'Authorization': 'Bearer ' + open(d + 'token').read()})\n"
        "try: urllib.request.urlopen(r, context=ssl.create_default_context(cafile=d + 'ca.crt'), timeout=10)\n"
        "except urllib.error.HTTPError as error: print(error.code)\n"
    )
    node_cluster.apply(python_pod("client", node_namespace, ask))
    assert output(node_cluster, node_namespace, "client") == "403\n"


def test_a_real_pod_reaches_the_address_of_a_kwok_pod(node_cluster: Cluster, node_namespace: str) -> None:
    fake = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "fake", "namespace": node_namespace},
        "spec": {
            "nodeName": "h100-1",
            "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "main", "image": "localhost/none:1"}],
        },
    }
    node_cluster.apply(fake)
    address = eventually(lambda: node_cluster.get("pod", "fake", "-n", node_namespace)["status"].get("podIP"))
    assert ipaddress.ip_address(address) in ipaddress.ip_network(node_cluster.kwok_cidr)
    with socket.create_server((address, 9000)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"emulated")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        ask = f"import socket; print(socket.create_connection(({address!r}, 9000), timeout=10).recv(99).decode())"
        node_cluster.apply(python_pod("asker", node_namespace, ask))
        assert output(node_cluster, node_namespace, "asker") == "emulated\n"


def test_an_image_built_from_a_dockerfile_runs_as_its_own_user(
    node_cluster: Cluster, node_namespace: str, tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text(
        'ARG BASE\nFROM ${BASE}\nCOPY app.py /app.py\nUSER 65532:65532\nENTRYPOINT ["python3", "-u", "/app.py"]\n'
    )
    (tmp_path / "app.py").write_text("import os, sys; print(os.getuid(), *sys.version_info[:2])")
    node_cluster.load_image(build_image(tmp_path / "Dockerfile", tmp_path, "localhost/lowbeam-test:1"))
    pod = python_pod("built", node_namespace, "")
    container = pod["spec"]["containers"][0]
    container.update({"image": "localhost/lowbeam-test:1", "volumeMounts": []})
    container["securityContext"] = {"runAsNonRoot": True, "readOnlyRootFilesystem": True}
    del container["command"]
    node_cluster.apply(pod)
    assert output(node_cluster, node_namespace, "built") == "65532 3 11\n"


def test_a_memory_limit_is_enforced(node_cluster: Cluster, node_namespace: str) -> None:
    pod = python_pod("hungry", node_namespace, "x = bytearray(200 << 20); print(len(x))")
    pod["spec"]["containers"][0]["resources"] = {"limits": {"memory": "50Mi"}}
    node_cluster.apply(pod)

    def reason() -> str | None:
        statuses = node_cluster.get("pod", "hungry", "-n", node_namespace)["status"].get("containerStatuses") or [{}]
        found: str | None = statuses[0].get("state", {}).get("terminated", {}).get("reason")
        return found

    assert eventually(reason) == "OOMKilled"


def test_a_pod_moves_to_the_second_node_when_the_first_is_drained() -> None:
    skip_without_rights()
    with Cluster.up(ClusterSpec(name=f"pair-{os.getpid()}", nodes=2)) as cluster:
        cluster.kubectl("cordon", "node-2")
        pod = python_pod(
            "web", "default", "import http.server as h; h.test(h.SimpleHTTPRequestHandler, port=8000)", port=8000
        )
        spec = {**pod["spec"], "restartPolicy": "Always"}
        labels = pod["metadata"]["labels"]
        cluster.apply(
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": "web", "namespace": "default"},
                "spec": {
                    "replicas": 1,
                    "selector": {"matchLabels": labels},
                    "template": {"metadata": {"labels": labels}, "spec": spec},
                },
            }
        )
        cluster.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
        cluster.kubectl("uncordon", "node-2")
        cluster.kubectl("drain", "node-1", "--ignore-daemonsets", "--force", "--timeout=60s", timeout_s=90)
        cluster.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
        (moved,) = [
            p for p in cluster.get("pods", "-l", "app=web")["items"] if "deletionTimestamp" not in p["metadata"]
        ]
        assert moved["spec"]["nodeName"] == "node-2"
        address = moved["status"]["podIP"]
        with urllib.request.urlopen(f"http://{address}:8000/", timeout=5) as answer:
            assert answer.status == 200, "pods of every node answer from the machine itself"


def test_down_takes_everything_of_one_cluster_and_nothing_of_another(
    node_cluster: Cluster, node_namespace: str
) -> None:
    cluster = Cluster.up(ClusterSpec(name=f"node-gone-{os.getpid()}", nodes=1))
    state = cluster.state
    before = Path("/proc/sys/kernel/panic").read_text()
    assert state.cgroups
    assert (
        list(Path("/sys/fs/cgroup").glob(f"*/{state.cgroups[0]}"))
        or Path(f"/sys/fs/cgroup/{state.cgroups[0]}").exists()
    )
    assert before.strip() == "10", "the kubelet sets kernel.panic, which is why it is recorded and restored"
    cluster.down()
    assert not list(process.marked(state.home))
    assert not list(Path("/sys/fs/cgroup").rglob(state.cgroups[0]))
    assert str(state.home) not in Path("/proc/mounts").read_text()
    assert f"{state.network.bridge}:" not in network.ip("link", "show")
    assert not state.home.exists()
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=False).stdout
    assert "kube-proxy" not in tables
    node_cluster.apply(python_pod("neighbour", node_namespace, "print('still here')"))
    assert output(node_cluster, node_namespace, "neighbour") == "still here\n"
