"""Polling workers over real HTTP: a bad answer is an error with a reason, never a number."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web

from lowbeam.api.wire import MeterMethod, MeterScope, ProfileChange, ProfileChangeResult
from lowbeam.telemetry import (
    Sample,
    SampleError,
    SampleProblem,
    SampleSource,
    WorkerEndpoint,
    WorkerPoller,
    pod_http,
    polling,
)
from tests.fakes.clock import VirtualClock, settle

START = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def telemetry(**changes: Any) -> dict[str, Any]:
    return {
        "pod": "w-0",
        "namespace": "team-a",
        "state": "ready",
        "profile": {"model": "m", "precision": "fp16", "batchLimit": 8, "generation": 3},
        "method": "nvml",
        "scope": "device",
        "sampledAtSeconds": START.timestamp() - 0.5,
        "watts": 412.3456,
        "energyJoules": {"counter": 1000.5},
        "requestsRunning": 4,
        "requestsReceivedTotal": 77,
        **changes,
    }


class Worker:
    """A control port that answers whatever it is told to."""

    def __init__(self) -> None:
        self.body: Any = telemetry()
        self.status = 200
        self.handler: Handler | None = None
        self.requests: list[tuple[str, str, str | None, Any]] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        content = await request.read()
        self.requests.append((request.method, request.path, request.headers.get("Authorization"), content))
        if self.handler is not None:
            return await self.handler(request)
        text = self.body if isinstance(self.body, str) else json.dumps(self.body)
        return web.Response(status=self.status, text=text, content_type="application/json")

    def endpoint(self, uid: str = "u", pod: str = "w-0", token: str | None = None) -> WorkerEndpoint:
        return WorkerEndpoint(uid, "team-a", pod, self.url, token)


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    worker = Worker()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", worker.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    worker.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield worker
    await runner.cleanup()


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(START)


@pytest.fixture
async def poller(clock: VirtualClock) -> AsyncIterator[WorkerPoller]:
    async with WorkerPoller(monotonic_ms=clock.monotonic_ms, now=clock.now, sleep=clock.sleep) as poller:
        yield poller


async def poll(poller: WorkerPoller, worker: Worker) -> Sample | SampleError:
    poller.set_endpoints([worker.endpoint()])
    await poller.poll_now()
    return poller.errors().get("u") or poller.samples()["u"]


async def test_a_sample_carries_watts_load_profile_and_the_age_of_the_reading(
    poller: WorkerPoller, worker: Worker, clock: VirtualClock
) -> None:
    sample = await poll(poller, worker)
    assert isinstance(sample, Sample)
    assert sample.milliwatts == 412_346
    assert sample.method is MeterMethod.NVML
    assert (sample.requests_running, sample.requests_received_total) == (4, 77)
    assert sample.profile is not None
    assert sample.profile.batch_limit == 8
    assert sample.age_ms(clock.monotonic_ms()) == 500
    await clock.advance(10)
    assert sample.age_ms(clock.monotonic_ms()) == 10_500


async def test_requests_are_counted_as_the_worker_answers_however_old_its_meters_last_reading_is(
    poller: WorkerPoller, worker: Worker, clock: VirtualClock
) -> None:
    worker.body = telemetry(sampledAtSeconds=START.timestamp() - 90, method="unavailable")
    sample = await poll(poller, worker)
    assert isinstance(sample, Sample)
    assert (sample.age_ms(clock.monotonic_ms()), sample.counted_at_ms) == (90_000, clock.monotonic_ms())


async def test_a_worker_without_a_meter_has_no_watts_rather_than_zero(poller: WorkerPoller, worker: Worker) -> None:
    worker.body = telemetry(method="unavailable", scope="none", watts=None, energyJoules=None)
    sample = await poll(poller, worker)
    assert isinstance(sample, Sample)
    assert (sample.milliwatts, sample.joules_total, sample.method) == (None, None, MeterMethod.UNAVAILABLE)


@pytest.mark.parametrize(
    ("body", "problem", "says"),
    [
        ("{not json", SampleProblem.BAD_SCHEMA, "JSON"),
        ({}, SampleProblem.BAD_SCHEMA, "field pod"),
        (telemetry(watts="much"), SampleProblem.BAD_SCHEMA, "field watts"),
        ('{"watts": NaN}', SampleProblem.BAD_SCHEMA, "field"),
        (telemetry(sampledAtSeconds=0), SampleProblem.BAD_SCHEMA, "sampledAtSeconds"),
        (telemetry(sampledAtSeconds=1e308), SampleProblem.BAD_SCHEMA, "sampledAtSeconds"),
        (telemetry(watts=1e308), SampleProblem.BAD_SCHEMA, "field watts"),
        (telemetry(requestsReceivedTotal=2**63), SampleProblem.BAD_SCHEMA, "requestsReceivedTotal"),
        (telemetry(outputTokensTotal=2**63), SampleProblem.BAD_SCHEMA, "outputTokensTotal"),
        (telemetry(requestsWaiting=2**63), SampleProblem.BAD_SCHEMA, "requestsWaiting"),
        (telemetry(pod="w-9"), SampleProblem.OTHER_POD, "team-a/w-9 answers"),
        (telemetry(namespace="team-b"), SampleProblem.OTHER_POD, "team-b/w-0 answers"),
        (telemetry(sampledAtSeconds=START.timestamp() + 60), SampleProblem.CLOCK_AHEAD, "check NTP"),
        ("[" + " " * 300_000 + "]", SampleProblem.TOO_LARGE, "bytes"),
    ],
)
async def test_a_wrong_answer_is_an_error_that_says_what_is_wrong(
    poller: WorkerPoller, worker: Worker, body: Any, problem: SampleProblem, says: str
) -> None:
    worker.body = body
    error = await poll(poller, worker)
    assert isinstance(error, SampleError)
    assert error.problem is problem
    assert says in error.message
    assert "team-a/w-0" in error.message
    assert poller.samples() == {}
    assert poller.errors_total == {problem: 1}


@pytest.mark.parametrize(
    ("status", "problem"),
    [(401, SampleProblem.UNAUTHORIZED), (404, SampleProblem.REFUSED), (302, SampleProblem.REFUSED)],
)
async def test_another_status_than_200_is_an_error(
    poller: WorkerPoller, worker: Worker, status: int, problem: SampleProblem
) -> None:
    worker.status = status
    error = await poll(poller, worker)
    assert isinstance(error, SampleError)
    assert error.problem is problem


async def test_a_silent_worker_costs_its_time_out_and_delays_nobody(
    poller: WorkerPoller, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Enough for the quick one on a machine whose CPUs are taken; twenty of them, one after the other, are 40 s.
    monkeypatch.setattr(pod_http, "READ_TIMEOUT_SECONDS", 2.0)

    async def hang_for_some(request: web.Request) -> web.StreamResponse:
        if request.path.startswith("/slow"):
            await asyncio.Event().wait()
        return web.json_response(telemetry())

    worker.handler = hang_for_some
    slow = [WorkerEndpoint(f"slow{n}", "team-a", "w-0", f"{worker.url}/slow", None) for n in range(20)]
    poller.set_endpoints([*slow, worker.endpoint("quick")])
    started = asyncio.get_running_loop().time()
    await poller.poll_now()
    assert asyncio.get_running_loop().time() - started < 20
    assert set(poller.samples()) == {"quick"}
    assert {error.problem for error in poller.errors().values()} == {SampleProblem.TIMEOUT}


async def test_nobody_listening_is_unreachable_and_keeps_the_last_good_sample(
    poller: WorkerPoller, worker: Worker, clock: VirtualClock
) -> None:
    good = await poll(poller, worker)

    async def drop(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    worker.handler = drop
    await poller.poll_now()
    assert poller.errors()["u"].problem is SampleProblem.UNREACHABLE
    assert poller.samples()["u"] == good, "its age says how far it can be trusted"
    worker.handler = None
    await poller.poll_now()
    assert poller.errors() == {}


async def test_an_answer_that_cannot_be_right_takes_the_last_good_sample_along(
    poller: WorkerPoller, worker: Worker
) -> None:
    await poll(poller, worker)
    worker.body = telemetry(pod="w-9")
    await poller.poll_now()
    assert poller.samples() == {}


async def test_a_pod_that_is_gone_is_forgotten_even_while_its_answer_is_on_the_way(
    poller: WorkerPoller, worker: Worker
) -> None:
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_: web.Request) -> web.StreamResponse:
        arrived.set()
        await go_on.wait()
        return web.json_response(telemetry())

    worker.handler = slow
    poller.set_endpoints([worker.endpoint()])
    polling = asyncio.create_task(poller.poll_now())
    await arrived.wait()
    poller.set_endpoints([])
    go_on.set()
    await asyncio.gather(polling, return_exceptions=True)
    assert poller.samples() == {}
    assert poller.errors() == {}


async def test_each_worker_is_asked_once_per_period_and_not_all_together(clock: VirtualClock) -> None:
    asked: list[tuple[int, str]] = []

    class Client:
        async def read(self, endpoint: WorkerEndpoint) -> SampleError:
            asked.append((clock.monotonic_ms(), endpoint.pod_uid))
            return SampleError(endpoint.pod_uid, SampleSource.WORKER, 0, SampleProblem.REFUSED, "")

    poller = WorkerPoller(monotonic_ms=clock.monotonic_ms, now=clock.now, sleep=clock.sleep)
    poller._client = Client()  # type: ignore[assignment]
    poller.set_endpoints(WorkerEndpoint(f"uid-{n}", "a", "w", "http://x") for n in range(100))
    task = asyncio.create_task(poller.run())
    await clock.advance(20)
    for uid in {uid for _, uid in asked}:
        moments = [moment for moment, who in asked if who == uid]
        assert 9 <= len(moments) <= 11
        assert all(1900 <= after - before <= 2100 for before, after in itertools.pairwise(moments))
    moments_of_all = [moment for moment, _ in asked]
    assert max(moments_of_all.count(moment) for moment in set(moments_of_all)) <= 20
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await settle()


class Cut:
    """Workers behind a network of which a part is cut off: nobody there answers within the time-out."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock, self.cut, self.asked = clock, set[str](), dict[str, list[int]]()

    async def read(self, endpoint: WorkerEndpoint) -> Sample | SampleError:
        uid = endpoint.pod_uid
        self.asked.setdefault(uid, []).append(self.clock.monotonic_ms())
        if uid not in self.cut:
            now_ms = self.clock.monotonic_ms()
            return Sample(uid, SampleSource.WORKER, now_ms, now_ms, 1, MeterMethod.NVML, MeterScope.DEVICE)
        await self.clock.sleep(pod_http.READ_TIMEOUT_SECONDS)
        return SampleError(uid, SampleSource.WORKER, self.clock.monotonic_ms(), SampleProblem.TIMEOUT, "no answer")


@pytest.fixture
async def network(clock: VirtualClock, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[WorkerPoller, Cut]]:
    monkeypatch.setattr(polling, "CONCURRENCY", 6)
    monkeypatch.setattr(polling, "RETRY_PLACES", 2)
    cut = Cut(clock)
    poller = WorkerPoller(monotonic_ms=clock.monotonic_ms, now=clock.now, sleep=clock.sleep)
    poller._client = cut  # type: ignore[assignment]
    poller.set_endpoints(WorkerEndpoint(f"uid-{n}", "a", "w", "http://x") for n in range(24))
    task = asyncio.create_task(poller.run())
    yield poller, cut
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_many_dead_workers_make_no_reading_of_a_living_one_late(
    network: tuple[WorkerPoller, Cut], clock: VirtualClock
) -> None:
    poller, network_cut = network
    await clock.advance(4)
    network_cut.cut = {f"uid-{n}" for n in range(18)}
    oldest_ms = 0
    for _ in range(60):
        await clock.advance(1)
        now_ms = clock.monotonic_ms()
        ages = [it.age_ms(now_ms) for uid, it in poller.samples().items() if uid not in network_cut.cut]
        oldest_ms = max(oldest_ms, *ages)
        assert len(ages) == 6
    assert oldest_ms <= 5_000 + 1_500, "places of the living are held by each dead one for a time-out, once"
    assert max(ages) <= 2_200


async def test_a_worker_that_times_out_is_asked_ever_more_seldom_and_is_back_in_its_rhythm_at_once(
    network: tuple[WorkerPoller, Cut], clock: VirtualClock
) -> None:
    poller, network_cut = network
    network_cut.cut = {"uid-0"}
    await clock.advance(90)
    asked = network_cut.asked["uid-0"]
    gaps = [after - before for before, after in itertools.pairwise(asked)]
    assert gaps == sorted(gaps)
    assert (min(gaps), max(gaps)) == (pytest.approx(2_000, abs=2_000), pytest.approx(10_000, abs=200))
    network_cut.cut = set()
    await clock.advance(12)
    first = len(asked)
    await clock.advance(10)
    assert len(asked) - first == pytest.approx(5, abs=1)
    assert "uid-0" in poller.samples()
    assert "uid-0" not in poller.errors()


async def test_a_profile_change_is_sent_with_its_token_and_its_result_comes_back(
    poller: WorkerPoller, worker: Worker
) -> None:
    profile = {"model": "m", "precision": "fp16", "batchLimit": 16, "generation": 4}
    worker.body = {"profile": profile, "changed": True, "seconds": 0.2, "joules": None}
    result = await poller.change_profile(worker.endpoint(token="secret"), ProfileChange(generation=4, batch_limit=16))
    assert isinstance(result, ProfileChangeResult)
    assert result.profile.batch_limit == 16
    [(method, path, authorization, body)] = worker.requests
    assert (method, path, authorization) == ("PATCH", "/control/profile", "Bearer secret")
    assert json.loads(body) == {"generation": 4, "batchLimit": 16}


async def test_a_refused_profile_change_is_a_value_with_the_workers_words(poller: WorkerPoller, worker: Worker) -> None:
    worker.status, worker.body = 409, {"error": "generation 3 is older than 5"}
    result = await poller.change_profile(worker.endpoint(), ProfileChange(generation=3, batch_limit=16))
    assert isinstance(result, SampleError)
    assert "HTTP 409 generation 3 is older than 5" in result.message


async def test_a_refusal_of_brackets_in_brackets_is_a_value_too(poller: WorkerPoller, worker: Worker) -> None:
    worker.status, worker.body = 500, "[" * 200_000
    result = await poller.change_profile(worker.endpoint(), ProfileChange(generation=3, batch_limit=16))
    assert isinstance(result, SampleError)
    assert "HTTP 500 [[[" in result.message
