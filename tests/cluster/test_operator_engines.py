"""A workload on an engine that is not ours: its pods, its own metrics, and what the status makes of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from lowbeam.api.wire import SERVING_PORT
from tests.operator_harness import BULK, Stage, condition, staged, workload
from tools.localcluster.client import ClusterClient

ROOT = Path(__file__).parents[2]
RECORDED = ROOT / "tests" / "unit" / "engines" / "sglang.txt"
EXAMPLE = ROOT / "docs" / "examples" / "vllm-on-a-gpu-pool.yaml"
WINDOW_SECONDS = 2
SPEC = {
    **BULK,
    "load": {"requestsPerMinute": 60, "inputTokens": 300, "outputTokens": 500},
    "model": {"pinned": "qwen3-4b-instruct-2507"},
    "placement": {"acceleratorClasses": ["h100"]},
    "engine": "SGLang",
}


class Metrics(ThreadingHTTPServer):
    """Replays a recorded exposition with ten requests more every second."""

    def __init__(self, address: str) -> None:
        super().__init__((address, SERVING_PORT), Handler)
        self.began = time.monotonic()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def text(self) -> str:
        done = round(10 * (time.monotonic() - self.began))
        requests = f'sglang:num_requests_total{{model_name="facebook/opt-125m",tp_rank="0"}} {done}'
        lines = RECORDED.read_text().splitlines()
        return "\n".join(requests if it.startswith("sglang:num_requests_total") else it for it in lines) + "\n"


class Handler(BaseHTTPRequestHandler):
    server: Metrics

    def do_GET(self) -> None:
        body = self.server.text().encode() if self.path == "/metrics" else b""
        self.send_response(200 if body else 404)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def stage(cluster: ClusterClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """An operator that looks at load in short windows."""
    with staged(cluster, tmp_path_factory.mktemp("engines")) as made, pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOWBEAM_DEMAND_WINDOW_SECONDS", str(WINDOW_SECONDS))
        made.start_operator()
        yield made


class Engines:
    """Plays the engine in every pod of one workload, also in those that another plan starts."""

    def __init__(self, stage: Stage, namespace: str) -> None:
        self.stage, self.namespace = stage, namespace
        self.servers: dict[str, Metrics] = {}

    def iw(self) -> dict[str, Any]:
        """The workload, after every pod has its engine."""
        for pod in self.stage.pods(self.namespace, "chat"):
            address = pod["status"].get("podIP")
            if address and address not in self.servers:
                self.servers[address] = Metrics(address)
        return self.stage.iw(self.namespace, "chat")

    def containers(self) -> list[dict[str, Any]]:
        found = self.stage.deployments(self.namespace, "chat")
        return [it["spec"]["template"]["spec"]["containers"][0] for it in found]

    def images(self) -> set[str]:
        return {it["image"] for it in self.containers()}

    def close(self) -> None:
        for server in self.servers.values():
            server.shutdown()
            server.server_close()
        self.stage.cluster.kubectl("delete", "iw", "--all", "-n", self.namespace)


@pytest.fixture
def engines(stage: Stage, namespace: str) -> Iterator[Engines]:
    made = Engines(stage, namespace)
    yield made
    made.close()


def test_an_engine_is_rendered_scraped_and_charged_at_its_worst_case(stage: Stage, engines: Engines) -> None:
    stage.apply(workload(engines.namespace, "chat", SPEC))

    # 1. What was decided is in the pods: image, flags, the batch limit that the status tells.
    def selected() -> dict[str, Any] | None:
        found: dict[str, Any] | None = engines.iw().get("status", {}).get("selected")
        return found

    def as_selected() -> bool:
        chosen, containers = selected(), engines.containers()
        return chosen is not None and len(containers) == 1 and chosen["batchLimit"] == batch_limit(containers[0])

    first = stage.eventually("selected", selected)
    assert first["engine"] == "SGLang"
    # The status may tell of a decision while its Deployment is on the way.
    assert stage.eventually("a Deployment", engines.images) == {"lmsysorg/sglang:v0.5.23"}

    # 2. It counts its requests, and nobody meters it: the load is observed, the cap counts the worst case.
    stage.says(engines.iw, "LoadObserved", "True", "Observed")
    stage.eventually("pods with the selected batch limit, after the load was another one", as_selected)

    def unmetered() -> bool:
        row = condition(engines.iw(), "EnergyMeasured")
        return row.get("status") == "False" and "SGLang exports no watts" in row["message"]

    stage.eventually("EnergyMeasured says why not, and what to do", unmetered)
    energy = engines.iw()["status"]["energy"]
    assert "measuredWatts" not in energy
    assert energy["committedWatts"] > 0

    # 3. What another engine cannot serve says so and who could; what runs stays as it is.
    stage.patch("iw", "chat", {"engine": "TEI", "pod": {"image": "example/tei:1"}}, engines.namespace)
    row = stage.says(engines.iw, "ModelSelected", "False", "NoOption")
    assert "spec.engine" in row["message"]
    before = engines.containers()  # not earlier: a plan for the observed load may still have changed the batch limit
    assert engines.images() == {"lmsysorg/sglang:v0.5.23"}
    stage.stays("the pods of the engine before", lambda: engines.containers() == before, 5)

    # 4. An engine that can takes its place.
    stage.patch("iw", "chat", {"engine": "VLLM", "pod": {"image": "example/vllm:1"}}, engines.namespace)

    def replaced() -> bool:
        return engines.images() == {"example/vllm:1"} and "SGLang" not in str(selected())

    stage.eventually("vLLM in place of SGLang", replaced)
    assert engines.containers()[0]["command"] == ["vllm", "serve"]


def batch_limit(container: dict[str, Any]) -> int:
    args: list[str] = container["args"]
    return int(args[args.index("--max-running-requests") + 1])


def test_the_example_of_the_documentation_runs_vllm_in_its_pool(stage: Stage, namespace: str) -> None:
    text = (
        EXAMPLE.read_text()
        .replace("assistants", namespace)
        .replace("lowbeam.dev/pool: gpus", "lowbeam.dev/pool: pool-a")
    )
    cap, chat = [it for it in yaml.safe_load_all(text) if it["kind"] != "Namespace"]
    with stage.caps(cap):
        stage.apply(chat)
        pods = stage.eventually(
            "all pods on a node",
            lambda: [p for p in stage.pods(namespace, "chat") if p["spec"].get("nodeName")],
        )
        nodes = stage.cluster.kubectl("get", "nodes", "-l", "lowbeam.dev/pool=pool-a", "-o", "name")
        assert {f"node/{pod['spec']['nodeName']}" for pod in pods} <= set(nodes.split())
        container = pods[0]["spec"]["containers"][0]
        assert container["command"] == ["vllm", "serve"]
        assert [it["value"] for it in container["env"] if it["name"] == "HF_HUB_OFFLINE"] == ["0"]
        stage.ready(namespace, "chat")
    stage.cluster.kubectl("delete", "iw", "--all", "-n", namespace)
