"""Node agents over real HTTP, and what they say of pods that have no meter of their own."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web

from lowbeam.api.wire import (
    BoardReading,
    DeviceHolder,
    LimitChange,
    LimitOrigin,
    LimitReport,
    LimitWish,
    MeterMethod,
    MeterScope,
    NodeTelemetry,
)
from lowbeam.power.trust import LATE_MS, STALE_MS
from lowbeam.telemetry import (
    AgentEndpoint,
    AgentFallback,
    AgentPoller,
    LimitRefusal,
    Sample,
    SampleError,
    SampleProblem,
    SampleSource,
    WorkerEndpoint,
)
from tests.fakes.clock import VirtualClock

START = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
CHANGE = LimitChange(generation=7, limits=(LimitWish(uuid="GPU-0", watts=490, safe_watts=490),))


def board(number: int, watts: float | None = 300, *pods: str, **told: Any) -> BoardReading:
    holders = tuple(DeviceHolder(namespace="team", pod=pod, container="worker") for pod in pods)
    return BoardReading(uuid=f"GPU-{number}", watts=watts, joules_total=1000.0 + number, holders=holders, **told)


class Agent:
    """An agent that says whatever it is told to say."""

    def __init__(self) -> None:
        self.telemetry = NodeTelemetry(node="n1", sampled_at_seconds=START.timestamp() - 0.5, devices=(board(0),))
        self.body: Any = None
        self.status = 200
        self.asked: list[tuple[str, str | None, Any]] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        content = await request.read()
        self.asked.append((request.method, request.headers.get("Authorization"), json.loads(content or "null")))
        body = self.telemetry.model_dump(mode="json", by_alias=True) if self.body is None else self.body
        return web.json_response(body, status=self.status)

    def endpoint(self, **told: str) -> AgentEndpoint:
        return replace(AgentEndpoint("a", "lowbeam-system", "agent-x", "n1", self.url), **told)


@pytest.fixture
async def agent() -> AsyncIterator[Agent]:
    agent, app = Agent(), web.Application()
    app.router.add_route("*", "/{path:telemetry|limits}", agent.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    agent.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield agent
    await runner.cleanup()


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(START)


@pytest.fixture
async def poller(clock: VirtualClock) -> AsyncIterator[AgentPoller]:
    async with AgentPoller(
        monotonic_ms=clock.monotonic_ms, now=clock.now, token=lambda: "let-me-in", sleep=clock.sleep
    ) as poller:
        yield poller


async def asked(poller: AgentPoller, agent: Agent, **endpoint: str) -> SampleError | None:
    poller.set_endpoints([agent.endpoint(**endpoint)])
    await poller.poll_now()
    return poller.errors().get("a")


async def test_a_reading_has_the_age_that_it_had_when_it_arrived(poller: AgentPoller, agent: Agent) -> None:
    assert await asked(poller, agent) is None
    reading = poller.answers()["a"]
    assert (reading.telemetry, reading.age_ms(reading.received_at_ms)) == (agent.telemetry, 500)


@pytest.mark.parametrize(
    ("told", "problem", "says"),
    [
        ({"node": "n2"}, SampleProblem.OTHER_POD, "the agent of node n2 answers"),
        ({"sampled_at_seconds": START.timestamp() + 60}, SampleProblem.CLOCK_AHEAD, "check NTP on its node"),
    ],
)
async def test_an_answer_of_another_node_or_from_the_future_is_none(
    poller: AgentPoller, agent: Agent, told: dict[str, Any], problem: SampleProblem, says: str
) -> None:
    assert await asked(poller, agent) is None
    agent.telemetry = agent.telemetry.model_copy(update=told)
    error = await asked(poller, agent)
    assert error is not None
    assert (error.problem, error.source) == (problem, SampleSource.AGENT)
    assert error.message.startswith(f"agent lowbeam-system/agent-x of node n1 at {agent.url}: ")
    assert says in error.message
    assert poller.answers() == {}, "nor is what it said before"


@pytest.mark.parametrize(
    ("body", "status", "problem"),
    [({"node": "n1"}, 200, SampleProblem.BAD_SCHEMA), ({"error": "no"}, 500, SampleProblem.REFUSED)],
)
async def test_what_is_no_telemetry_is_an_error(
    poller: AgentPoller, agent: Agent, body: object, status: int, problem: SampleProblem
) -> None:
    agent.body, agent.status = body, status
    error = await asked(poller, agent)
    assert error is not None
    assert error.problem is problem


@pytest.mark.parametrize("status", [200, 503])
async def test_limits_are_put_with_the_token_and_boards_that_do_not_obey_are_reported(
    poller: AgentPoller, agent: Agent, status: int
) -> None:
    state = {"uuid": "GPU-0", "watts": 490, "enforcedWatts": 700, "foundWatts": 700, "leaseEndsInSeconds": 30}
    agent.body, agent.status = {"generation": 7, "limits": [{**state, "problem": "the board enforces 700 W"}]}, status
    answer = await poller.set_limits(agent.endpoint(), CHANGE)
    assert isinstance(answer, LimitReport)
    assert [it.problem for it in answer.limits] == ["the board enforces 700 W"]
    wish = {"uuid": "GPU-0", "watts": 490.0, "safeWatts": 490.0}
    assert agent.asked == [("PUT", "Bearer let-me-in", {"generation": 7, "leaseSeconds": 30.0, "limits": [wish]})]


@pytest.mark.parametrize(
    ("body", "status", "generation"),
    [
        ({"error": "generation 7 is not newer than 9", "generation": 9}, 409, 9),
        ({"error": "power limits are off on this node", "generation": 0}, 403, 0),
        ("<html>", 502, None),
    ],
)
async def test_a_refusal_says_why_and_what_is_in_force(
    poller: AgentPoller, agent: Agent, body: Any, status: int, generation: int | None
) -> None:
    agent.body, agent.status = body, status
    answer = await poller.set_limits(agent.endpoint(), CHANGE)
    assert isinstance(answer, LimitRefusal)
    assert answer.generation == generation
    assert (body["error"] if generation is not None else "HTTP 502") in answer.message
    gone = await poller.set_limits(agent.endpoint(url="http://127.0.0.1:1"), CHANGE)
    assert isinstance(gone, LimitRefusal)
    assert "Cannot connect" in gone.message


class Workers:
    """What the replicas themselves say."""

    def __init__(self) -> None:
        self.said: dict[str, Sample] = {}
        self.failed: dict[str, SampleError] = {}
        self.endpoints: list[WorkerEndpoint] = []

    def set_endpoints(self, endpoints: Any) -> None:
        self.endpoints = list(endpoints)

    def samples(self) -> Mapping[str, Sample]:
        return self.said

    def errors(self) -> Mapping[str, SampleError]:
        return self.failed


def own(source: SampleSource, milliwatts: int | None, at_ms: int) -> Sample:
    return Sample(
        pod_uid="u",
        source=source,
        sampled_at_ms=at_ms,
        received_at_ms=at_ms,
        milliwatts=milliwatts,
        method=MeterMethod.UNAVAILABLE if milliwatts is None else MeterMethod.NVML,
        scope=MeterScope.NONE if milliwatts is None else MeterScope.DEVICE,
        requests_running=3,
    )


class Scene:
    """One pod `w-0`, its own word, and the agent of its node."""

    def __init__(self, poller: AgentPoller, agent: Agent, clock: VirtualClock) -> None:
        self.poller, self.agent, self.clock = poller, agent, clock
        self.workers = Workers()
        self.both = AgentFallback(self.workers, poller, monotonic_ms=clock.monotonic_ms)  # type: ignore[arg-type]
        self.both.set_endpoints([WorkerEndpoint("u", "team", "w-0", "http://unused", node="n1")])

    async def sample(self, *boards: BoardReading) -> Sample | None:
        self.agent.telemetry = NodeTelemetry(
            node="n1", sampled_at_seconds=self.clock.now().timestamp(), devices=tuple(boards)
        )
        assert await asked(self.poller, self.agent) is None
        return self.both.samples().get("u")


@pytest.fixture
def scene(poller: AgentPoller, agent: Agent, clock: VirtualClock) -> Scene:
    return Scene(poller, agent, clock)


async def test_another_engine_gets_the_watts_of_its_boards_and_keeps_its_counts(scene: Scene) -> None:
    scene.workers.said["u"] = own(SampleSource.ENGINE, None, scene.clock.monotonic_ms())
    found = await scene.sample(board(0, 300, "w-0"), board(1, 250.5, "w-0"), board(2, 600, "x"), board(3, 90))
    assert found is not None
    assert (found.milliwatts, found.source, found.method) == (550_500, SampleSource.AGENT, MeterMethod.NVML)
    assert (found.scope, found.requests_running) == (MeterScope.DEVICE, 3)
    assert {device.uuid for device in found.devices} == {"GPU-0", "GPU-1"}
    assert scene.workers.endpoints == [WorkerEndpoint("u", "team", "w-0", "http://unused", node="n1")]


async def test_a_worker_without_a_meter_gets_them_too_and_one_with_a_meter_keeps_its_own(scene: Scene) -> None:
    now_ms = scene.clock.monotonic_ms()
    scene.workers.said["u"] = own(SampleSource.WORKER, None, now_ms)
    found = await scene.sample(board(0, 300, "w-0"))
    assert found is not None
    assert (found.milliwatts, found.requests_running) == (300_000, 3)
    scene.workers.said["u"] = mine = own(SampleSource.WORKER, 290_000, now_ms)
    assert await scene.sample(board(0, 300, "w-0")) == mine


async def test_a_silent_pod_is_read_by_its_node_and_is_no_error_then(scene: Scene) -> None:
    scene.workers.said["u"] = own(SampleSource.WORKER, 290_000, scene.clock.monotonic_ms())
    await scene.clock.advance((LATE_MS + 1000) / 1000)
    now_ms = scene.clock.monotonic_ms()
    scene.workers.failed["u"] = SampleError("u", SampleSource.WORKER, now_ms, SampleProblem.TIMEOUT, "no answer")
    assert scene.both.errors() == scene.workers.failed
    found = await scene.sample(board(0, 300, "w-0"))
    assert found is not None
    assert (found.milliwatts, found.sampled_at_ms, found.source) == (300_000, now_ms, SampleSource.AGENT)
    assert scene.both.errors() == {}
    del scene.workers.said["u"]
    assert scene.both.samples()["u"].milliwatts == 300_000, "also where it never said a word"
    await scene.clock.advance((LATE_MS + 1000) / 1000)
    assert scene.both.errors() == scene.workers.failed, "nobody hears it any longer"


async def test_a_board_of_several_pods_is_an_estimate_in_equal_shares(scene: Scene) -> None:
    found = await scene.sample(board(0, 300, "w-0", "w-0", "x"), board(1, 100, "w-0"))
    assert found is not None
    assert (found.milliwatts, found.scope, found.joules_total) == (250_000, MeterScope.SHARED, None)


async def test_a_board_without_watts_makes_the_pods_unknown_and_not_less(scene: Scene) -> None:
    found = await scene.sample(board(0, 300, "w-0"), board(1, None, "w-0"))
    assert found is not None
    assert (found.milliwatts, found.method) == (None, MeterMethod.UNAVAILABLE)


LIMITED = {"power_limit_watts": 490.0, "limit_origin": LimitOrigin.AGENT}


@pytest.mark.parametrize(
    ("boards", "limit"),
    [
        ([board(0, 300, "w-0", **LIMITED), board(1, 300, "w-0", **LIMITED)], (980_000, 2)),
        ([board(0, 300, "w-0", **LIMITED), board(1, 300, "w-0", power_limit_watts=490.0)], (490_000, 1)),
        ([board(0, 300, "w-0", **{**LIMITED, "limit_origin": LimitOrigin.OTHER})], (0, 0)),
        ([board(0, 300, "w-0", **{**LIMITED, "power_limit_watts": None})], (0, 0)),
        ([board(0, 300, "w-0", "x", **LIMITED)], (0, 0)),
    ],
)
async def test_the_boards_of_a_pod_are_counted_that_the_agent_has_limited_and_that_are_its_own(
    scene: Scene, boards: list[BoardReading], limit: tuple[int, int]
) -> None:
    scene.workers.said["u"] = own(SampleSource.WORKER, 290_000, scene.clock.monotonic_ms())
    found = await scene.sample(*boards)
    assert found is not None
    assert (found.limit_milliwatts, found.limited_boards, found.milliwatts) == (*limit, 290_000)


async def test_an_agent_that_is_not_heard_any_longer_limits_nothing(scene: Scene) -> None:
    assert await scene.sample(board(0, 300, "w-0", **LIMITED)) is not None
    await scene.clock.advance((STALE_MS + 1000) / 1000)
    assert scene.both.samples()["u"].limited_boards == 0


async def test_what_an_agent_says_of_pods_of_another_node_does_not_count(scene: Scene) -> None:
    scene.both.set_endpoints([WorkerEndpoint("u", "team", "w-0", "http://unused", node="n2")])
    assert await scene.sample(board(0, 300, "w-0", **LIMITED)) is None


async def test_a_board_without_watts_leaves_an_engine_to_whoever_knows_them(scene: Scene) -> None:
    scene.workers.said["u"] = mine = own(SampleSource.ENGINE, None, scene.clock.monotonic_ms())
    assert await scene.sample(board(0, None, "w-0")) == mine, "Prometheus is asked about engines"


async def test_a_reading_that_no_board_can_have_is_refused(poller: AgentPoller, agent: Agent) -> None:
    mad = {"uuid": "GPU-0", "watts": 1e308, "holders": []}
    agent.body = {"node": "n1", "sampledAtSeconds": START.timestamp(), "devices": [mad]}
    error = await asked(poller, agent)
    assert error is not None
    assert error.problem is SampleProblem.BAD_SCHEMA
    assert "devices.0.watts" in error.message
