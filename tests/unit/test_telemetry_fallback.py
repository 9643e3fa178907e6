"""Whose reading counts when a worker and Prometheus both say something."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from lowbeam.api.wire import DeviceReading, MeterMethod, MeterScope, RunningProfile
from lowbeam.power.trust import LATE_MS
from lowbeam.telemetry import PodLoad, Sample, SampleError, SampleProblem, SampleSource, WorkerEndpoint
from lowbeam.telemetry.engine_metrics import EngineCounts
from lowbeam.telemetry.fallback import PrometheusFallback


def sample(uid: str, source: SampleSource, milliwatts: int) -> Sample:
    return Sample(uid, source, 0, 0, milliwatts, MeterMethod.NVML, MeterScope.DEVICE)


class Workers:
    def __init__(self, samples: dict[str, Sample], errors: dict[str, SampleError]) -> None:
        self._samples, self._errors = samples, errors

    def set_endpoints(self, endpoints: Iterable[WorkerEndpoint]) -> None:
        self.endpoints = list(endpoints)

    def samples(self) -> Mapping[str, Sample]:
        return self._samples

    def errors(self) -> Mapping[str, SampleError]:
        return self._errors

    async def change_profile(self, endpoint: WorkerEndpoint, change: Any) -> Any:
        raise AssertionError("not asked for here")

    async def run(self) -> None:
        raise AssertionError("not run here")


class Prometheus:
    def __init__(self, power: dict[str, Sample | SampleError], load: dict[str, PodLoad] | None = None) -> None:
        self._power, self._load = power, load or {}
        self.asked: list[Mapping[tuple[str, str], str]] = []

    async def pod_power(self, pods: Mapping[tuple[str, str], str]) -> dict[str, Sample | SampleError]:
        self.asked.append(pods)
        return {uid: self._power[uid] for uid in pods.values() if uid in self._power}

    async def pod_load(self, pods: Mapping[tuple[str, str], str]) -> dict[str, PodLoad]:
        return {uid: self._load[uid] for uid in pods.values() if uid in self._load}


ENDPOINTS = [WorkerEndpoint(uid, "team-a", f"pod-{uid}", "http://10.0.0.1:9465") for uid in ("native", "vllm", "lost")]


async def test_prometheus_is_asked_only_about_pods_whose_own_port_is_silent() -> None:
    unreachable = SampleError("vllm", SampleSource.WORKER, 0, SampleProblem.UNREACHABLE, "no port")
    lost = SampleError("lost", SampleSource.WORKER, 0, SampleProblem.UNREACHABLE, "no port")
    workers = Workers({"native": sample("native", SampleSource.WORKER, 100)}, {"vllm": unreachable, "lost": lost})
    power = {uid: sample(uid, SampleSource.PROMETHEUS, 300) for uid in ("native", "vllm")}
    prometheus: Any = Prometheus(dict(power))
    telemetry = PrometheusFallback(workers, prometheus, monotonic_ms=lambda: 0)
    telemetry.set_endpoints(ENDPOINTS)

    await telemetry.ask_once()

    assert prometheus.asked == [{("team-a", "pod-vllm"): "vllm", ("team-a", "pod-lost"): "lost"}]
    assert {uid: s.milliwatts for uid, s in telemetry.samples().items()} == {"native": 100, "vllm": 300}
    assert set(telemetry.errors()) == {"lost"}


async def test_a_pod_that_is_gone_is_forgotten() -> None:
    prometheus: Any = Prometheus({"vllm": sample("vllm", SampleSource.PROMETHEUS, 300)})
    telemetry = PrometheusFallback(Workers({}, {}), prometheus, monotonic_ms=lambda: 0)
    telemetry.set_endpoints(ENDPOINTS)
    await telemetry.ask_once()

    telemetry.set_endpoints([])

    assert telemetry.samples() == {}


async def test_counters_of_an_engine_come_with_its_watts_or_without_a_meter() -> None:
    load = PodLoad(70, EngineCounts(completed=90, running=8, waiting=2, input_tokens=900))
    power = {"vllm": sample("vllm", SampleSource.PROMETHEUS, 300)}
    prometheus: Any = Prometheus(dict(power), {"vllm": load, "lost": load})
    telemetry = PrometheusFallback(Workers({}, {}), prometheus, monotonic_ms=lambda: 0)
    telemetry.set_endpoints(ENDPOINTS)
    await telemetry.ask_once()

    both, unmetered = telemetry.samples()["vllm"], telemetry.samples()["lost"]
    assert (both.milliwatts, both.sampled_at_ms, both.counted_at_ms) == (300, 0, 70)
    assert (both.requests_received_total, both.requests_completed_total, both.input_tokens_total) == (100, 90, 900)
    assert (unmetered.milliwatts, unmetered.method) == (None, MeterMethod.UNAVAILABLE)
    assert unmetered.requests_received_total == 100


async def test_a_wrong_meter_stays_wrong_whatever_the_engine_counts() -> None:
    wrong = SampleError("vllm", SampleSource.PROMETHEUS, 0, SampleProblem.BAD_SCHEMA, "milliwatts")
    prometheus: Any = Prometheus({"vllm": wrong}, {"vllm": PodLoad(70, EngineCounts(completed=90))})
    telemetry = PrometheusFallback(Workers({}, {}), prometheus, monotonic_ms=lambda: 0)
    telemetry.set_endpoints(ENDPOINTS)
    await telemetry.ask_once()
    assert "vllm" not in telemetry.samples()
    assert telemetry.errors()["vllm"] is wrong


async def test_a_worker_that_went_silent_is_asked_about_once_it_is_late() -> None:
    profile = RunningProfile(model="m", precision="bf16", batch_limit=4)
    once = replace(sample("native", SampleSource.WORKER, 100), profile=profile, joules_total=9.0, requests_running=3)
    workers, now_ms = Workers({"native": once}, {}), 0
    power: dict[str, Sample | SampleError] = {}
    prometheus: Any = Prometheus(power)
    telemetry = PrometheusFallback(workers, prometheus, monotonic_ms=lambda: now_ms)
    telemetry.set_endpoints(ENDPOINTS[:1])

    now_ms = LATE_MS
    await telemetry.ask_once()
    assert prometheus.asked == []

    now_ms = LATE_MS + 1
    power["native"] = replace(sample("native", SampleSource.PROMETHEUS, 300), sampled_at_ms=-1)
    await telemetry.ask_once()
    assert telemetry.samples()["native"] is once, "an older scrape says less"

    power["native"] = replace(sample("native", SampleSource.PROMETHEUS, 300), sampled_at_ms=4_000, received_at_ms=5)
    await telemetry.ask_once()
    newer = telemetry.samples()["native"]
    assert (newer.source, newer.milliwatts, newer.sampled_at_ms) == (SampleSource.PROMETHEUS, 300, 4_000)
    assert newer.profile is profile, "nothing but the worker changes it"
    assert newer.received_at_ms == once.received_at_ms, "a change of it is not tried anew with every scrape"
    assert (newer.joules_total, newer.requests_running) == (None, None), "what was counted then says nothing about now"

    back = workers._samples["native"] = replace(once, sampled_at_ms=now_ms)
    assert telemetry.samples()["native"] is back, "at once, before Prometheus is asked again"


async def test_a_worker_that_lost_its_meter_still_counts_its_requests_itself() -> None:
    lost = replace(sample("native", SampleSource.WORKER, 100), method=MeterMethod.UNAVAILABLE, requests_running=3)
    lost = replace(lost, sampled_at_ms=20_000, counted_at_ms=59_000, requests_received_total=7)
    scraped = sample("native", SampleSource.PROMETHEUS, 300)
    prometheus: Any = Prometheus({"native": replace(scraped, sampled_at_ms=59_500)})
    telemetry = PrometheusFallback(Workers({"native": lost}, {}), prometheus, monotonic_ms=lambda: 60_000)
    telemetry.set_endpoints(ENDPOINTS[:1])
    await telemetry.ask_once()
    read = telemetry.samples()["native"]
    assert (read.milliwatts, read.sampled_at_ms, read.method) == (300, 59_500, MeterMethod.NVML)
    assert (read.requests_received_total, read.requests_running, read.counted_at_ms) == (7, 3, 59_000)
    assert (read.source, read.counted_by) == (SampleSource.PROMETHEUS, SampleSource.WORKER)


async def test_boards_that_were_measured_come_along_with_an_engines_counters() -> None:
    """Fewer than its pod holds are no reading (`test_runtime_meters.py`)."""
    boards = (DeviceReading(uuid="a", watts=300),)
    own = replace(sample("vllm", SampleSource.ENGINE, 0), milliwatts=None, counted_at_ms=20)
    power = replace(sample("vllm", SampleSource.PROMETHEUS, 300), devices=boards)
    prometheus: Any = Prometheus({"vllm": power})
    telemetry = PrometheusFallback(Workers({"vllm": own}, {}), prometheus, monotonic_ms=lambda: 60)
    telemetry.set_endpoints(ENDPOINTS)
    await telemetry.ask_once()
    assert telemetry.samples()["vllm"].devices == boards


async def test_the_last_word_of_a_silent_worker_stands_where_prometheus_has_only_a_wrong_one() -> None:
    once = sample("native", SampleSource.WORKER, 100)
    wrong = SampleError("native", SampleSource.PROMETHEUS, 0, SampleProblem.BAD_SCHEMA, "milliwatts")
    prometheus: Any = Prometheus({"native": wrong})
    telemetry = PrometheusFallback(Workers({"native": once}, {}), prometheus, monotonic_ms=lambda: 60_000)
    telemetry.set_endpoints(ENDPOINTS[:1])
    await telemetry.ask_once()
    assert telemetry.samples() == {"native": once}


@pytest.mark.parametrize(("scraped_at_ms", "received", "counted_at_ms"), [(50_000, 100, 50_000), (10, 7, 20)])
async def test_of_a_silent_engine_the_newer_counters_count(
    scraped_at_ms: int, received: int, counted_at_ms: int
) -> None:
    own = replace(sample("vllm", SampleSource.ENGINE, 0), milliwatts=None, sampled_at_ms=20, counted_at_ms=20)
    own = replace(own, requests_received_total=7)
    power = replace(sample("vllm", SampleSource.PROMETHEUS, 300), sampled_at_ms=55_000)
    prometheus: Any = Prometheus({"vllm": power}, {"vllm": PodLoad(scraped_at_ms, EngineCounts(completed=100))})
    telemetry = PrometheusFallback(Workers({"vllm": own}, {}), prometheus, monotonic_ms=lambda: 60_000)
    telemetry.set_endpoints(ENDPOINTS)
    await telemetry.ask_once()
    read = telemetry.samples()["vllm"]
    assert (read.milliwatts, read.sampled_at_ms) == (300, 55_000)
    assert (read.requests_received_total, read.counted_at_ms) == (received, counted_at_ms)
    assert (read.source, read.counted_by) == (SampleSource.PROMETHEUS, SampleSource.ENGINE)
