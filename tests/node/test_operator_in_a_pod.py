"""The chart as a platform engineer uses it: helm install, and the operator works from its pod on a real node."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.localcluster import Cluster
from tools.localcluster.appimage import build_project_image
from tools.localcluster.process import wait_until

ROOT = Path(__file__).resolve().parents[2]
NAMESPACE = "lowbeam-system"
WORKLOAD = {
    "apiVersion": "lowbeam.dev/v1alpha1",
    "kind": "InferenceWorkload",
    "metadata": {"name": "triage", "namespace": "default"},
    "spec": {
        "task": "text-classification",
        "load": {"requestsPerMinute": 600, "inputTokens": 128, "outputTokens": 1},
        "placement": {"acceleratorClasses": ["l4"]},
    },
}

pytestmark = [pytest.mark.node, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def installed(node_cluster: Cluster) -> Iterator[Cluster]:
    image = "localhost/lowbeam-operator:test"
    dockerfile = ROOT / "workloads" / "images" / "Dockerfile.operator"
    node_cluster.load_image(build_project_image(ROOT, dockerfile, image, "operator"))
    helm(
        node_cluster,
        *("install", "lowbeam", str(ROOT / "charts" / "lowbeam"), "--namespace", NAMESPACE, "--create-namespace"),
        *("--set", "image.repository=localhost/lowbeam-operator,image.tag=test,image.pullPolicy=Never"),
        *("--wait", "--timeout", "3m"),
    )
    yield node_cluster
    helm(node_cluster, "uninstall", "lowbeam", "--namespace", NAMESPACE)


def helm(cluster: Cluster, *arguments: str) -> str:
    command = [str(cluster.binary("helm")), *arguments]
    done = subprocess.run(command, env=cluster.environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_operator_is_ready_without_rights_it_does_not_need(installed: Cluster) -> None:
    pods = installed.get("pods", "-n", NAMESPACE)["items"]
    assert len(pods) == 1
    spec = pods[0]["spec"]
    container = spec["containers"][0]["securityContext"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["readOnlyRootFilesystem"] is True
    assert container["capabilities"] == {"drop": ["ALL"]}
    account = f"system:serviceaccount:{NAMESPACE}:{spec['serviceAccountName']}"
    allowed = installed.kubectl("auth", "can-i", "--list", f"--as={account}", "-n", "default")
    assert "secrets" not in allowed


def test_it_runs_a_workload_from_its_pod_and_keeps_user_objects_when_uninstalled(installed: Cluster) -> None:
    installed.apply(WORKLOAD)

    def selected() -> bool:
        status = installed.get("iw", "triage", "-n", "default").get("status", {})
        return status.get("selected", {}).get("acceleratorClass") == "l4" and status.get("readyReplicas", 0) >= 1

    wait_until("triage to have a ready replica", selected, timeout_s=90)
    log = installed.kubectl("logs", "-n", NAMESPACE, "deploy/lowbeam")
    levels = {json.loads(line)["level"] for line in log.splitlines() if line.startswith("{")}
    assert "error" not in levels, log
    helm(installed, "upgrade", "lowbeam", str(ROOT / "charts" / "lowbeam"), "-n", NAMESPACE, "--reuse-values", "--wait")
    assert installed.get("iw", "triage", "-n", "default")["metadata"]["name"] == "triage"
