"""The chart's node agent on a real node: pods and boards as the real kubelet tells them, limits set and given back."""

from __future__ import annotations

import base64
import functools
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from lowbeam.api.wire import BoardReading, LimitReport, NodeTelemetry
from tests.stubs.nvml.build import build_stub
from tools.localcluster import Cluster, build
from tools.localcluster.hostpython import host_python

ROOT = Path(__file__).resolve().parents[2]
HOLDER = "import os, time; print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True); time.sleep(600)"

pytestmark = pytest.mark.node


def eventually(condition: Callable[[], Any], *, timeout_s: float = 60.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, "condition did not hold in time"
        time.sleep(0.1)
    return value


class NodeAgent:
    """The chart's DaemonSet and Secret, with this checkout's Python and the NVML stub in place of the image."""

    def __init__(self, cluster: Cluster, namespace: str, folder: Path) -> None:
        self._cluster, self._namespace, self.state = cluster, namespace, folder / "state"
        values = folder / "values.yaml"
        values.write_text(
            json.dumps(
                {
                    "agent": {
                        "enabled": True,
                        "powerLimits": {"enabled": True, "stateFolder": str(self.state)},
                        "nodeSelector": {"nvidia.com/gpu.present": None, "lowbeam.dev/real-node": "true"},
                    }
                }
            )
        )
        chart = str(ROOT / "charts" / "lowbeam")
        command = [str(build.binary("helm")), "template", "lowbeam", chart, "-n", namespace, "-f", str(values)]
        rendered = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        objects = [
            it for it in yaml.safe_load_all(rendered) if it and it["metadata"]["name"].startswith("lowbeam-agent")
        ]
        self._secret, self._daemons = sorted(objects, key=lambda it: str(it["kind"]), reverse=True)
        self._token = base64.b64decode(self._secret["data"]["token"]).decode()
        stub = build_stub(folder / "nvml")
        host, pod = host_python(ROOT, stub), self._daemons["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        container |= {"image": host.image, "imagePullPolicy": "Never", "command": [host.python, "-m", "lowbeam_agent"]}
        container["volumeMounts"] += host.mounts
        pod["volumes"] += host.volumes
        container["env"] += [
            {"name": "LD_LIBRARY_PATH", "value": str(stub)},
            {"name": "NVML_STUB_BOARDS", "value": "8"},
            {"name": "NVML_STUB_SHORT_UUIDS", "value": "1"},
            {"name": "NVML_STUB_LIMITS_FILE", "value": "/state/driver"},
        ]

    def start(self) -> None:
        self._cluster.apply(self._secret, self._daemons)
        self._cluster.kubectl("rollout", "status", "daemonset/lowbeam-agent", "-n", self._namespace, "--timeout=60s")
        pods = self._cluster.get("pods", "-n", self._namespace, "-l", "app.kubernetes.io/component=agent")["items"]
        self._url = f"http://{pods[0]['status']['podIP']}:9466"

    def stop(self) -> None:
        self._cluster.kubectl(
            "delete", "daemonset/lowbeam-agent", "-n", self._namespace, "--cascade=foreground", "--ignore-not-found"
        )

    def get(self, route: str) -> bytes:
        return httpx.get(f"{self._url}{route}").raise_for_status().content

    def boards(self) -> dict[str, BoardReading]:
        return {board.uuid: board for board in NodeTelemetry.model_validate_json(self.get("/telemetry")).devices}

    def held_by(self, namespace: str, pod: str) -> set[str]:
        wanted = (namespace, pod, "main")
        return {
            uuid
            for uuid, board in self.boards().items()
            if any((it.namespace, it.pod, it.container) == wanted for it in board.holders or ())
        }

    def limit(self, uuid: str, watts: float) -> LimitReport:
        answer = httpx.put(
            f"{self._url}/limits",
            json={"generation": 1, "limits": [{"uuid": uuid, "watts": watts}]},
            headers={"Authorization": f"Bearer {self._token}"},
        )
        return LimitReport.model_validate_json(answer.raise_for_status().content)


@pytest.fixture
def agent(node_cluster: Cluster, node_namespace: str, tmp_path: Path) -> Iterator[NodeAgent]:
    made = NodeAgent(node_cluster, node_namespace, tmp_path)
    made.start()
    yield made
    made.stop()


def holder(namespace: str) -> dict[str, Any]:
    host = host_python()
    container = {
        "name": "main",
        "image": host.image,
        "imagePullPolicy": "Never",
        "command": [host.python, "-u", "-c", HOLDER],
        "volumeMounts": host.mounts,
        "resources": {"limits": {"nvidia.com/gpu": 3}},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "holder", "namespace": namespace},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "nodeSelector": {"lowbeam.dev/real-node": "true"},
            "containers": [container],
            "volumes": host.volumes,
        },
    }


def test_the_kubelet_says_who_holds_which_board_and_limits_end_with_the_agent(
    node_cluster: Cluster, node_namespace: str, agent: NodeAgent
) -> None:
    eventually(lambda: all(board.holders is not None for board in agent.boards().values()))
    assert len(agent.boards()) == 8
    node_cluster.apply(holder(node_namespace))
    held = eventually(functools.partial(agent.held_by, node_namespace, "holder"))
    node_cluster.kubectl("wait", "--for=condition=Ready", "pod/holder", "-n", node_namespace, "--timeout=60s")
    said = eventually(lambda: node_cluster.kubectl("logs", "holder", "-n", node_namespace))
    assert held == {f"GPU-{number}" for number in said.strip().split(",")}
    series = f'namespace="{node_namespace}",pod="holder"'
    assert agent.get("/metrics").decode().count(series) == 3

    (mine, *_) = sorted(held)
    (state,) = agent.limit(mine, 50).limits
    assert (state.enforced_watts, state.found_watts, state.problem) == (50, 72, None)
    eventually(lambda: agent.boards()[mine].power_limit_watts == 50)
    assert "50000" in (agent.state / "driver").read_text()

    node_cluster.kubectl("delete", "pod", "holder", "-n", node_namespace, "--wait=false")
    eventually(lambda: agent.held_by(node_namespace, "holder") == set())
    assert all(board.holders is not None for board in agent.boards().values()), "held by nobody is not unknown"

    agent.stop()
    assert (agent.state / "driver").read_text().split() == ["72000"] * 8
