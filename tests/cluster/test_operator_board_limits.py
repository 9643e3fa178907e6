"""Node agents and power limits of boards on the real control plane: the chart's DaemonSet on KWOK nodes, whose agents
the emulator plays, and a real operator that hears them and sets their limits."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from lowbeam.api.wire import LimitOrigin, LimitReport, NodeTelemetry
from tests.operator_harness import ANSWER_SECONDS, BULK, Stage, condition, power_cap, staged, workload
from tools.localcluster import build
from tools.localcluster.client import ClusterClient

CHART = Path(__file__).parents[2] / "charts" / "lowbeam"
NOISE = 0.05
"""Of the watts of several workers that were not asked at one moment."""
VLLM = {
    **BULK,
    "load": {"requestsPerMinute": 60, "inputTokens": 300, "outputTokens": 500},
    "model": {"pinned": "qwen3-4b-instruct-2507"},
    "placement": {"acceleratorClasses": ["h100"]},
    "engine": "VLLM",
    "pod": {"image": "example/vllm:1"},
}
FULL = {
    "task": "text-generation",
    "load": {"requestsPerMinute": 3000, "inputTokens": 300, "outputTokens": 500},
    "latency": {"timeToFirstTokenMilliseconds": 3000, "interTokenMilliseconds": 100},
    "model": {"pinned": "qwen3-8b"},
    "placement": {"acceleratorClasses": ["h100"]},
}
"""Five full boards of about 550 W. Under a limit of 490 W they serve all but some requests in a hundred."""


class Agents:
    """The chart's DaemonSet and its Secret, in the namespace of the operator."""

    def __init__(self, cluster: ClusterClient, folder: Path) -> None:
        self._cluster = cluster
        self.token_file = folder / "agent-token"
        values = folder / "values.yaml"
        values.write_text(json.dumps({"agent": {"enabled": True, "powerLimits": {"enabled": True}}}))
        command = [str(build.binary("helm")), "template", "lowbeam", str(CHART), "-f", str(values)]
        rendered = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        self._objects = [
            it for it in yaml.safe_load_all(rendered) if it and it["metadata"]["name"].startswith("lowbeam-agent")
        ]
        (secret,) = (it for it in self._objects if it["kind"] == "Secret")
        self._token = base64.b64decode(secret["data"]["token"]).decode()
        self.token_file.write_text(self._token)

    def start(self, namespace: str) -> None:
        self.namespace = namespace
        for made in self._objects:
            made["metadata"]["namespace"] = namespace
            self._cluster.kubectl("apply", "-f", "-", stdin=json.dumps(made))
        self._cluster.kubectl("rollout", "status", "daemonset/lowbeam-agent", "-n", namespace, "--timeout=120s")

    def pods(self) -> dict[str, dict[str, Any]]:
        """By node."""
        selector = "app.kubernetes.io/component=agent"
        found = json.loads(self._cluster.kubectl("get", "pods", "-n", self.namespace, "-l", selector, "-o", "json"))
        return {pod["spec"]["nodeName"]: pod for pod in found["items"]}

    def telemetry(self, node: str) -> NodeTelemetry:
        return NodeTelemetry.model_validate_json(self._get(node, "telemetry"))

    def limits(self, node: str) -> LimitReport:
        return LimitReport.model_validate_json(self._get(node, "limits"))

    def _get(self, node: str, route: str) -> bytes:
        url = f"http://{self.pods()[node]['status']['podIP']}:9466/{route}"
        headers = {"Authorization": f"Bearer {self._token}"}
        answer = httpx.get(url, headers=headers, trust_env=False, timeout=ANSWER_SECONDS)
        return answer.raise_for_status().content


@pytest.fixture(scope="module")
def agents(cluster: ClusterClient, tmp_path_factory: pytest.TempPathFactory) -> Agents:
    return Agents(cluster, tmp_path_factory.mktemp("agents"))


@pytest.fixture(scope="module")
def stage(cluster: ClusterClient, agents: Agents, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """An agent on every node, and an operator with their token."""
    with staged(cluster, tmp_path_factory.mktemp("limits"), agents.token_file) as made:
        agents.start(made.lease_namespace)
        made.start_operator()
        yield made


@pytest.fixture
def team(stage: Stage, namespace: str) -> Iterator[str]:
    """A namespace whose workloads are gone before the next test."""
    yield namespace
    stage.cluster.kubectl("delete", "pcap", namespace, "--ignore-not-found", "--wait=false")
    stage.cluster.kubectl("delete", "iw", "--all", "-n", namespace)
    stage.eventually("no pods", lambda: not stage.pods(namespace))


def test_the_watts_of_another_engine_come_from_the_agent_of_its_node(stage: Stage, agents: Agents, team: str) -> None:
    stage.apply(workload(team, "chat", VLLM))
    stage.says(lambda: stage.iw(team, "chat"), "EnergyMeasured", "True", "Measured")

    def told() -> float:
        watts: float = stage.iw(team, "chat")["status"]["energy"].get("measuredWatts", 0)
        return watts

    stage.eventually("the watts that are drawn", lambda: told() == pytest.approx(stage.watts(team), rel=NOISE))

    pod, *_ = stage.pods(team, "chat")
    heard = agents.telemetry(pod["spec"]["nodeName"])
    assert heard.limits_allowed
    holders = [(it.namespace, it.pod, it.container) for board in heard.devices for it in board.holders or ()]
    name = pod["metadata"]["name"]
    assert (team, name, pod["spec"]["containers"][0]["name"]) in holders


def test_a_cut_lowers_the_power_limits_of_boards_and_gives_them_back(stage: Stage, agents: Agents, team: str) -> None:
    stage.apply(power_cap(team, 9000, namespaces=[team]), workload(team, "chat", FULL))
    stage.ready(team, "chat")

    def selected() -> dict[str, Any]:
        found: dict[str, Any] = stage.iw(team, "chat").get("status", {}).get("selected", {})
        return found

    def at_the_batch_limit() -> bool:
        return set(stage.batch_limits(team).values()) == {selected()["batchLimit"]}

    stage.eventually("every worker is at its batch limit", at_the_batch_limit)
    assert "boardLimitWatts" not in selected()
    usual = dict(selected())
    boards = usual["acceleratorsPerReplica"] * usual["replicas"]
    stage.eventually("full boards", lambda: stage.watts(team) > 500 * boards)

    # 1. Cut: the plan names a limit, the boards get it, and the workers draw no more.
    stage.patch("pcap", team, {"watts": 2700})
    limit = stage.eventually("a limit is selected", lambda: selected().get("boardLimitWatts"))
    assert {name: value for name, value in selected().items() if name != "boardLimitWatts"} == usual
    stage.eventually("every board has it", lambda: set(stage.board_limits(team).values()) == {limit})
    stage.eventually("watts are below", lambda: 0 < stage.watts(team) <= limit * boards)
    stage.says(lambda: stage.own("powercaps", team), "WithinCap", "True", "WithinCap")
    status = stage.iw(team, "chat")["status"]
    assert status["dimming"]["lever"] == "PowerLimit"
    assert (status["energy"]["basis"], set(status["energy"]["stars"])) == ("Modelled", {"*"})
    nodes = {pod["spec"]["nodeName"] for pod in stage.pods(team, "chat")}
    held = [board for node in nodes for board in agents.telemetry(node).devices if board.holders]
    assert {(it.power_limit_watts, it.limit_origin) for it in held} == {(limit, LimitOrigin.AGENT)}

    # 2. Leases are renewed, also by a successor: longer than one lasts, the limits stay, and nothing is decided anew.
    decided = stage.iw(team, "chat")["status"]["history"][0]["decisionId"]
    stage.restart()
    stage.stays("limited", lambda: set(stage.board_limits(team).values()) == {limit}, 35)
    history = stage.iw(team, "chat")["status"]["history"]
    assert history[0]["decisionId"] == decided, f"{history}\n{stage.operator.tail()}"

    # 3. Back: the boards get what they had.
    stage.patch("pcap", team, {"watts": 9000})
    stage.eventually("no limit is selected", lambda: "boardLimitWatts" not in selected())
    stage.eventually("every board has its own", lambda: set(stage.board_limits(team).values()) == {None})
    assert all(state.watts is None for node in nodes for state in agents.limits(node).limits)
    assert condition(stage.iw(team, "chat"), "Dimmed")["status"] == "False"


def test_a_cap_is_kept_by_other_means_when_agents_only_say_that_they_set_limits(
    stage: Stage, agents: Agents, team: str
) -> None:
    stage.apply(power_cap(team, 9000, namespaces=[team]), workload(team, "chat", FULL))
    stage.ready(team, "chat")
    stage.eventually("watts above the cut", lambda: stage.watts(team) > 2700)
    names = [pod["metadata"]["name"] for pod in agents.pods().values()]
    try:
        for name in names:
            stage.set_faults(agents.namespace, name, "IgnoreControl")
        stage.patch("pcap", team, {"watts": 2700})
        stage.eventually("under the cap", lambda: 0 < stage.watts(team) <= 2700 * 0.95, 30)
        assert set(stage.board_limits(team).values()) == {None}, "no board has a limit"
        stage.stays("under the cap", lambda: stage.watts(team) <= 2700 * 0.95, 10)
        assert stage.iw(team, "chat")["status"]["energy"]["committedWatts"] <= 2700 * 0.95
    finally:
        for name in names:
            stage.set_faults(agents.namespace, name)
