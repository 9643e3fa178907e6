"""The operator's side of power limits with a real `lowbeam-agent`, on boards of the NVML stub."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lowbeam.planning.committed import Target
from lowbeam.render import Placement
from lowbeam.runtime.board_limits import BoardLimits
from lowbeam.runtime.clock import SystemClock
from lowbeam.runtime.fleet import Fleet
from lowbeam.runtime.settings import OperatorSettings
from lowbeam.runtime.world import Objects, Parser, build_world
from lowbeam.telemetry import AgentEndpoint, AgentPoller
from tests.fakes.power_fleet import option
from tests.raw_objects import iw, node, replica
from tests.worker.test_node_agent import UUIDS, Agent
from tests.worker.test_node_agent_pods import FakeKubelet

KEY = ("team", "w")
LIMITED = replace(option(), board_limit_watts=50)
TOKEN = "let-me-in"


@pytest.fixture
def kubelet(tmp_path: Path) -> Iterator[FakeKubelet]:
    made = FakeKubelet(tmp_path / "kubelet.sock")
    made.pods = {("team", "w-1", "worker"): [UUIDS[0]]}
    made.start()
    yield made
    made.stop()


@pytest.fixture
def token(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    return file


@pytest.fixture
def agent(nvml_stub: Path, tmp_path: Path, kubelet: FakeKubelet, token: Path) -> Iterator[Agent]:
    flags = ("--kubelet-socket", str(kubelet.socket), "--limit-token-file", str(token), "--state-folder")
    with Agent(nvml_stub, tmp_path, *flags, str(tmp_path / "state")) as agent:
        yield agent


class Operator:
    """As much of the operator as it takes: one workload with one pod, on the agent's node."""

    def __init__(self, agents: AgentPoller) -> None:
        clock = SystemClock()
        self.agents, self.fleet = agents, Fleet()
        self.limits = BoardLimits(agents, clock, allowed=True, tick_seconds=2)
        world = build_world(Objects(workloads=(iw("w"),), nodes=(node("gpu-1"),)), datetime.now(UTC), Parser())
        pod = replica(node="gpu-1", placement_digest=Placement.of(LIMITED).digest("w"))
        self.world = replace(world, replicas={KEY: [pod]})

    async def round(self) -> None:
        await self.agents.poll_now()
        await asyncio.gather(*self.limits.start(self.world, self.fleet, lambda _: True))

    async def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline
            await self.round()
            await asyncio.sleep(0.1)


@pytest.fixture
async def operator(agent: Agent, token: Path) -> AsyncIterator[Operator]:
    clock, settings = SystemClock(), OperatorSettings("tests", agent_token_file=str(token))
    async with AgentPoller(monotonic_ms=clock.monotonic_ms, now=clock.now, token=settings.agent_token) as agents:
        agents.set_endpoints([AgentEndpoint("a", "lowbeam-system", "agent-x", "gpu-1", agent.url)])
        yield Operator(agents)


async def test_a_decided_limit_reaches_the_driver_and_ends_with_the_pod(
    operator: Operator, agent: Agent, kubelet: FakeKubelet
) -> None:
    await operator.until(lambda: operator.limits.nodes() == {"gpu-1": 2})
    await operator.round()
    assert agent.watts() == [72, 72], "nothing is decided"

    operator.fleet.of(KEY).target = Target(LIMITED)
    await operator.until(lambda: agent.watts() == [50, 72])
    assert operator.limits.problem("gpu-1") == ""

    operator.fleet.of(KEY).target = Target(replace(LIMITED, board_limit_watts=60))
    await operator.until(lambda: agent.watts() == [60, 72])

    kubelet.pods = {}
    operator.world = replace(operator.world, replicas={})
    await operator.until(lambda: agent.watts() == [72, 72])


async def test_the_token_of_somebody_else_sets_nothing_and_is_told(
    operator: Operator, agent: Agent, token: Path
) -> None:
    await operator.until(lambda: operator.limits.nodes() == {"gpu-1": 2})
    operator.agents._token = lambda: "guessed"
    operator.fleet.of(KEY).target = Target(LIMITED)
    await operator.until(lambda: operator.limits.problem("gpu-1") != "")
    assert "a valid bearer token is needed" in operator.limits.problem("gpu-1")
    assert agent.watts() == [72, 72]

    operator.agents._token = lambda: TOKEN
    await operator.until(lambda: agent.watts() == [50, 72])
    assert operator.limits.problem("gpu-1") == ""
