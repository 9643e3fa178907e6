"""Prometheus answers over real HTTP: watts with their true age, or no data; never 0 for unknown."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from lowbeam.api.wire import MeterScope
from lowbeam.telemetry import (
    PrometheusSource,
    PrometheusUnavailable,
    Sample,
    SampleError,
    SampleProblem,
    WorkerEndpoint,
    prometheus_source,
)
from lowbeam.telemetry.fallback import PrometheusFallback
from tests.fakes.clock import VirtualClock

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
POD = ("team-a", "vllm-0")
PODS = {POD: "uid-0", ("team-a", "vllm-1"): "uid-1"}


class Prometheus:
    """Answers power and request counters, with their scrape times."""

    def __init__(self) -> None:
        self.power: list[tuple[dict[str, str], str]] = []
        self.age_seconds = 3.0
        self.load: list[tuple[dict[str, str], str]] = []
        self.raw: web.Response | None = None
        self.hang: asyncio.Event | None = None
        self.ready = 200
        self.logins: set[str] = set()
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.logins.add(request.headers.get("Authorization", ""))
        if request.path == "/-/ready":
            return web.Response(status=self.ready)
        if self.hang is not None:
            await self.hang.wait()
        if self.raw is not None:
            return web.Response(status=self.raw.status, body=self.raw.body)
        query, stamp = request.query["query"], NOW.timestamp()
        series = self.load if "__name__" in query else self.power
        if query.startswith("timestamp("):
            stamped = [it for it in series if it[0].get("__name__", "") not in GAUGES]
            series = [(without_name(labels), str(stamp - self.age_seconds)) for labels, _ in stamped]
        result = [{"metric": labels, "value": [stamp, value]} for labels, value in series]
        body = {"status": "success", "data": {"resultType": "vector", "result": result}}
        return web.Response(text=json.dumps(body), content_type="application/json")


GAUGES = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:prompt_tokens_total")


def without_name(labels: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in labels.items() if key != "__name__"}


def board(uuid: str, pod: str = "vllm-0", **labels: str) -> dict[str, str]:
    exporter = {"namespace": "gpu-operator", "pod": "dcgm-exporter-x"}
    return {**exporter, "UUID": uuid, "exported_namespace": "team-a", "exported_pod": pod, **labels}


@pytest.fixture
async def prometheus() -> AsyncIterator[Prometheus]:
    prometheus = Prometheus()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", prometheus.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    prometheus.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield prometheus
    await runner.cleanup()


@pytest.fixture
async def source(prometheus: Prometheus) -> AsyncIterator[PrometheusSource]:
    clock = VirtualClock(NOW)
    async with PrometheusSource(prometheus.url + "/", monotonic_ms=clock.monotonic_ms, now=clock.now) as source:
        yield source


async def test_boards_are_added_per_pod_and_aged_by_their_scrape(
    source: PrometheusSource, prometheus: Prometheus
) -> None:
    prometheus.power = [(board("a"), "300.5"), (board("b"), "200"), (board("c", pod="other"), "99")]
    samples = await source.pod_power(PODS)
    assert set(samples) == {"uid-0"}
    sample = samples["uid-0"]
    assert isinstance(sample, Sample)
    assert sample.milliwatts == 500_500
    assert sample.age_ms(sample.received_at_ms) == 3000
    assert sample.scope is MeterScope.DEVICE


async def test_no_series_is_no_data_and_not_zero_watts(source: PrometheusSource) -> None:
    assert await source.pod_power(PODS) == {}
    assert await source.pod_load(PODS) == {}


async def test_mig_instances_of_one_board_count_it_once_and_are_labelled_shares(
    source: PrometheusSource, prometheus: Prometheus
) -> None:
    prometheus.power = [
        (board("a", GPU_I_ID="1"), "400"),
        (board("a", GPU_I_ID="2"), "400"),
        (board("a", pod="vllm-1", GPU_I_ID="3"), "400"),
    ]
    samples = await source.pod_power(PODS)
    assert [(s.milliwatts, s.scope) for s in samples.values() if isinstance(s, Sample)] == [
        (200_000, MeterScope.SHARED),
        (200_000, MeterScope.SHARED),
    ]


async def test_an_idle_instance_that_only_names_the_exporter_takes_no_share(
    source: PrometheusSource, prometheus: Prometheus
) -> None:
    idle = {"namespace": "gpu-operator", "pod": "dcgm-exporter-x", "UUID": "a", "GPU_I_ID": "2"}
    prometheus.power = [(board("a", GPU_I_ID="1"), "400"), (idle, "400")]
    sample = (await source.pod_power(PODS))["uid-0"]
    assert isinstance(sample, Sample)
    assert sample.milliwatts == 400_000


async def test_an_exporter_that_knows_no_pod_takes_no_share_of_what_another_one_tells(
    source: PrometheusSource, prometheus: Prometheus
) -> None:
    # The exporter's scrape honours its labels; our agent was given no pod for the board, so its own pod is named.
    told = {"__name__": "DCGM_FI_DEV_POWER_USAGE", "UUID": "a", "namespace": "team-a", "pod": "vllm-0"}
    ours = {"__name__": "lowbeam_agent_device_power_watts", "UUID": "a", "namespace": "lowbeam", "pod": "agent-x"}
    prometheus.power = [({**told, "instance": "10.0.0.1:9400"}, "400"), ({**ours, "instance": "10.0.0.2:9466"}, "395")]
    sample = (await source.pod_power(PODS))["uid-0"]
    assert isinstance(sample, Sample)
    assert (sample.milliwatts, sample.scope) == (400_000, MeterScope.DEVICE)


async def test_a_board_below_zero_is_not_set_off_against_the_others_of_its_pod(
    source: PrometheusSource, prometheus: Prometheus
) -> None:
    prometheus.power = [(board("a"), "-300"), (board("b"), "500")]
    error = (await source.pod_power(PODS))["uid-0"]
    assert isinstance(error, SampleError)
    assert "board a is -300" in error.message


async def test_a_scrape_from_the_future_has_no_age_and_is_no_reading(
    source: PrometheusSource, prometheus: Prometheus
) -> None:
    prometheus.power, prometheus.age_seconds = [(board("a"), "300")], -600
    error = (await source.pod_power(PODS))["uid-0"]
    assert isinstance(error, SampleError)
    assert error.problem is SampleProblem.CLOCK_AHEAD
    assert "NTP" in error.message
    prometheus.age_seconds = -1
    assert isinstance((await source.pod_power(PODS))["uid-0"], Sample), "clocks differ a little"


@pytest.mark.parametrize("value", ["412000", "NaN", "+Inf"])
async def test_a_wrong_unit_or_no_number_is_an_error_for_its_pod_only(
    source: PrometheusSource, prometheus: Prometheus, value: str
) -> None:
    prometheus.power = [(board("a"), value), (board("b", pod="vllm-1"), "300")]
    samples = await source.pod_power(PODS)
    error = samples["uid-0"]
    assert isinstance(error, SampleError)
    assert "board a" in error.message
    assert "unit" in error.message
    assert isinstance(samples["uid-1"], Sample)


async def test_labels_of_a_scrape_that_honours_them_are_understood(
    source: PrometheusSource, prometheus: Prometheus
) -> None:
    prometheus.power = [({"UUID": "a", "namespace": "team-a", "pod": "vllm-0"}, "300")]
    assert set(await source.pod_power(PODS)) == {"uid-0"}


@pytest.mark.parametrize(
    "raw",
    [
        web.Response(status=200, body=b"<html>login</html>"),
        web.Response(status=200, body=b'{"status":"success"}'),
        web.Response(status=200, body=b'{"data":{"result":[{"metric":{}}]}}'),
        web.Response(status=200, body=b'{"data":{"result":{"a":1}}}'),
        web.Response(status=400, body=b'{"error":"parse error"}'),
        web.Response(status=503, body=b""),
    ],
    ids=["html", "no data", "no value", "not a vector", "refused", "unavailable"],
)
async def test_an_answer_in_another_language_is_unavailable_and_says_where(
    source: PrometheusSource, prometheus: Prometheus, raw: web.Response
) -> None:
    prometheus.raw = raw
    with pytest.raises(PrometheusUnavailable, match=prometheus.url):
        await source.pod_power(PODS)


async def test_request_counters_are_added_per_pod_with_the_age_of_their_scrape(
    source: PrometheusSource, prometheus: Prometheus
) -> None:
    first = {"namespace": "team-a", "pod": "vllm-0"}
    prometheus.age_seconds = 12.0
    prometheus.load = [
        ({"__name__": "vllm:request_success_total", **first, "finished_reason": "stop"}, "250"),
        ({"__name__": "vllm:request_success_total", **first, "finished_reason": "length"}, "50"),
        ({"__name__": "vllm:num_requests_running", **first}, "7"),
        ({"__name__": "vllm:num_requests_waiting", **first}, "2"),
        ({"__name__": "vllm:prompt_tokens_total", **first}, "90000"),
        ({"__name__": "vllm:request_success_total", "namespace": "team-a", "pod": "vllm-1"}, "NaN"),
        ({"__name__": "vllm:request_success_total"}, "7"),
    ]
    (load,) = (await source.pod_load(PODS)).items()
    uid, it = load
    assert uid == PODS[POD]
    counts = it.counts
    assert (counts.completed, counts.running, counts.waiting, counts.accepted) == (300, 7, 2, 309)
    assert (counts.input_tokens, counts.output_tokens) == (90_000, None)
    assert it.at_ms == source._monotonic_ms() - 12_000


async def test_a_pod_that_two_jobs_scrape_is_counted_once(source: PrometheusSource, prometheus: Prometheus) -> None:
    """Were they added, a job that comes or goes would be a jump of all that was ever counted."""
    one = {"namespace": "team-a", "pod": "vllm-0", "job": "monitoring/lowbeam", "instance": "10.0.0.1:8000"}
    two = {**one, "job": "kubernetes-pods"}
    first, second = (
        [
            ({"__name__": "vllm:request_success_total", **target, "finished_reason": "stop"}, "250"),
            ({"__name__": "vllm:request_success_total", **target, "finished_reason": "length"}, "50"),
            ({"__name__": "vllm:num_requests_running", **target}, "7"),
        ]
        for target in (one, two)
    )
    for series in first, second, first + second:
        prometheus.load = series
        counts = (await source.pod_load(PODS))[PODS[POD]].counts
        assert (counts.completed, counts.accepted) == (300, 307)


async def test_an_engine_without_counters_has_no_load_and_not_zero(
    source: PrometheusSource, prometheus: Prometheus
) -> None:
    prometheus.load = [({"__name__": "vllm:num_requests_running", "namespace": "team-a", "pod": "vllm-0"}, "7")]
    assert await source.pod_load(PODS) == {}


async def test_a_hanging_prometheus_ties_up_two_threads_and_then_fails_at_once(
    source: PrometheusSource, prometheus: Prometheus
) -> None:
    prometheus.hang = asyncio.Event()
    stuck = [asyncio.create_task(source.pod_load(PODS)) for _ in range(prometheus_source.THREADS)]
    await asyncio.sleep(0)
    with pytest.raises(PrometheusUnavailable, match="earlier queries have not come back"):
        await source.pod_load(PODS)
    assert not any(query.done() for query in stuck), "it did not wait for them, nor for their time-out"
    prometheus.hang.set()
    await asyncio.gather(*stuck)
    assert await source.pod_load(PODS) == {}, "and works again afterwards"


async def test_a_slow_prometheus_runs_into_our_own_time_out(
    prometheus: Prometheus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prometheus_source, "TIMEOUT_SECONDS", 0.2)
    clock = VirtualClock(NOW)
    prometheus.hang = asyncio.Event()
    async with PrometheusSource(prometheus.url, monotonic_ms=clock.monotonic_ms, now=clock.now) as source:
        with pytest.raises(PrometheusUnavailable):
            await source.pod_load(PODS)
    prometheus.hang.set()


async def test_ready_is_asked_where_prometheus_answers_it(source: PrometheusSource, prometheus: Prometheus) -> None:
    assert await source.ready()
    prometheus.ready = 503
    assert not await source.ready()


async def test_nobody_there_is_not_ready_and_unavailable() -> None:
    clock = VirtualClock(NOW)
    async with PrometheusSource("http://127.0.0.1:1", monotonic_ms=clock.monotonic_ms, now=clock.now) as source:
        assert not await source.ready()
        with pytest.raises(PrometheusUnavailable):
            await source.pod_power(PODS)


# ---- user and password in the URL


async def test_user_and_password_of_the_url_are_used(prometheus: Prometheus) -> None:
    prometheus.power = [(board("a"), "300")]
    clock, url = VirtualClock(NOW), prometheus.url.replace("//", "//reader:s3c%2Fr%C3%A9t@")
    async with PrometheusSource(url, monotonic_ms=clock.monotonic_ms, now=clock.now) as source:
        assert set(await source.pod_power(PODS)) == {"uid-0"}
        assert await source.ready()
    assert prometheus.logins == {"Basic " + base64.b64encode("reader:s3c/rét".encode()).decode()}


@pytest.mark.parametrize(
    "url",
    [
        "http://reader:s3cret@127.0.0.1:1",
        "http://reader:s3cret@no-such-host.invalid:9090/prometheus/",
        "http://reader:s3cret@[::1]:1",
        "http://reader:s3cret@[::1",
        "http://reader:s3cret@host:port",
        "http://reader:12/s3cret@127.0.0.1:1",
        "http://reader:s3cret#@127.0.0.1:1",
        "http://reader:s3 cret@127.0.0.1:1",
        "http://reader:s3cret",
        "reader:s3cret@127.0.0.1:1",
        "ftp://reader:s3cret@127.0.0.1:1",
    ],
)
async def test_neither_error_nor_log_shows_the_password_of_the_url(url: str, caplog: pytest.LogCaptureFixture) -> None:
    clock = VirtualClock(NOW)
    workers: Any = SilentWorkers()

    async def end(_seconds: float) -> None:
        raise asyncio.CancelledError

    caplog.set_level(logging.DEBUG)
    async with PrometheusSource(url, monotonic_ms=clock.monotonic_ms, now=clock.now) as source:
        with pytest.raises(PrometheusUnavailable) as raised:
            await source.pod_power(PODS)
        telemetry = PrometheusFallback(workers, source, monotonic_ms=clock.monotonic_ms, sleep=end)
        telemetry.set_endpoints([WorkerEndpoint("uid-0", *POD, "http://10.0.0.1:9465")])
        with capture_logs() as logged, pytest.raises(asyncio.CancelledError):
            await telemetry._ask_prometheus()
        assert not await source.ready()
    assert [it["event"] for it in logged] == ["no readings from Prometheus"]
    shown = f"{raised.value} {source.url} {logged} {caplog.text}"
    assert not [secret for secret in ("reader", "s3", "cret") if secret in shown], shown


@pytest.mark.parametrize("raw", [web.Response(status=401, body=b"no"), web.Response(body=b"<html>")])
async def test_an_answer_that_is_refused_names_the_address_without_the_password(
    prometheus: Prometheus, raw: web.Response
) -> None:
    prometheus.raw = raw
    clock, url = VirtualClock(NOW), prometheus.url.replace("//", "//reader:s3cret@")
    async with PrometheusSource(url, monotonic_ms=clock.monotonic_ms, now=clock.now) as source:
        with pytest.raises(PrometheusUnavailable, match=prometheus.url) as raised:
            await source.pod_power(PODS)
    assert "s3cret" not in str(raised.value)


class SilentWorkers:
    """Workers of which none answers."""

    def set_endpoints(self, endpoints: Iterable[WorkerEndpoint]) -> None:
        pass

    def samples(self) -> Mapping[str, Sample]:
        return {}
