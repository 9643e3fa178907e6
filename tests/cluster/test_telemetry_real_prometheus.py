"""The Prometheus source against a real Prometheus, which scrapes an exporter that speaks as dcgm-exporter does."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from lowbeam.telemetry import PrometheusSource, PrometheusUnavailable, Sample
from tests.ports import free_port
from tools.localcluster import build

PODS = {
    ("team-a", "vllm-0"): "uid-0",
    ("team-b", "tei-0"): "uid-1",
    ("team-b", "new-0"): "uid-2",
    ("team-c", "sglang-0"): "uid-3",
}


class Exporter:
    """Metrics of two boards; goes silent on demand."""

    def __init__(self) -> None:
        self.requests = 0
        self.silent = False
        self.port = 0

    async def metrics(self, _: web.Request) -> web.Response:
        if self.silent:
            return web.Response(status=500)
        self.requests += 10
        labels = 'UUID="GPU-{0}",gpu="{0}",namespace="{1}",pod="{2}",container="main"'
        lines = [
            "# TYPE DCGM_FI_DEV_POWER_USAGE gauge",
            "DCGM_FI_DEV_POWER_USAGE{" + labels.format(0, "team-a", "vllm-0") + "} 312.25",
            "DCGM_FI_DEV_POWER_USAGE{" + labels.format(1, "team-a", "vllm-0") + "} 300",
            "DCGM_FI_DEV_POWER_USAGE{" + labels.format(2, "team-b", "tei-0") + "} 71.5",
            'DCGM_FI_DEV_POWER_USAGE{UUID="GPU-3",gpu="3"} 60',
            "# TYPE lowbeam_agent_device_power_watts gauge",
            "lowbeam_agent_device_power_watts{" + labels.format(2, "team-b", "tei-0") + "} 71.0",
            "lowbeam_agent_device_power_watts{" + labels.format(4, "team-c", "sglang-0") + "} 150",
            "# TYPE vllm:request_success_total counter",
            f'vllm:request_success_total{{namespace="team-a",pod="vllm-0",finished_reason="stop"}} {self.requests}',
        ]
        return web.Response(text="\n".join(lines) + "\n", content_type="text/plain")


async def until(ask: Callable[[], Awaitable[Any]], seconds: float = 30) -> Any:
    """The first answer of `ask` that is not empty."""
    async with asyncio.timeout(seconds):
        while not (answer := await ask()):  # noqa: ASYNC110  # the answer is in another process
            await asyncio.sleep(0.2)
    return answer


@pytest.fixture
async def exporter() -> AsyncIterator[Exporter]:
    exporter = Exporter()
    app = web.Application()
    app.router.add_get("/metrics", exporter.metrics)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    exporter.port = runner.addresses[0][1]
    yield exporter
    await runner.cleanup()


@pytest.fixture
async def url(exporter: Exporter, tmp_path: Path) -> AsyncIterator[str]:
    binary = await asyncio.to_thread(build.binary, "prometheus")
    # The exporter's own pod, as service discovery adds it: its metrics' labels become exported_namespace, exported_pod.
    target = {
        "targets": [f"127.0.0.1:{exporter.port}"],
        "labels": {"namespace": "gpu-operator", "pod": "dcgm-exporter-x"},
    }
    scrape = {"job_name": "dcgm", "scrape_interval": "1s", "scrape_timeout": "1s", "static_configs": [target]}
    config = tmp_path / "prometheus.yaml"
    config.write_text(yaml.safe_dump({"scrape_configs": [scrape]}))
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        binary,
        f"--config.file={config}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        stdout=subprocess.DEVNULL,
        stderr=(tmp_path / "log").open("w"),
    )
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    await asyncio.wait_for(process.wait(), 60)


async def test_watts_counters_and_age_are_those_of_the_exporter(exporter: Exporter, url: str) -> None:
    async with PrometheusSource(
        url, monotonic_ms=lambda: time.monotonic_ns() // 1_000_000, now=lambda: datetime.now(UTC)
    ) as source:
        await until(source.ready)
        samples = await until(lambda: source.pod_power(PODS))
        load = await until(lambda: source.pod_load(PODS))
        assert set(samples) == {"uid-0", "uid-1", "uid-3"}, "a pod without a board in the metrics has no sample"
        watts = {uid: sample.milliwatts for uid, sample in samples.items() if isinstance(sample, Sample)}
        # The board of uid-1 is told by the exporter and by our agent, and counts once.
        assert watts == {"uid-0": 612_250, "uid-1": 71_500, "uid-3": 150_000}
        assert set(load) == {"uid-0"}
        assert load["uid-0"].counts.completed % 10 == 0  # a counter as it was scraped, 10 more each time
        assert 0 < load["uid-0"].counts.completed <= exporter.requests
        assert 0 <= time.monotonic_ns() // 1_000_000 - load["uid-0"].at_ms < 5000

        async def fresh() -> bool:  # a scrape that came too late is no data, and the next one is fresh again
            sample = (await source.pod_power(PODS)).get("uid-1")
            return isinstance(sample, Sample) and sample.age_ms(sample.received_at_ms) < 2500

        await until(fresh)


async def test_a_query_that_prometheus_refuses_says_so(url: str) -> None:
    async with PrometheusSource(
        url,
        monotonic_ms=lambda: 0,
        now=lambda: datetime.now(UTC),
        power_metrics=("sum by (",),
    ) as source:
        await until(source.ready)
        with pytest.raises(PrometheusUnavailable, match="parse error"):
            await source.pod_power(PODS)


async def test_a_board_whose_exporter_stopped_is_no_data_and_not_its_last_value(exporter: Exporter, url: str) -> None:
    async with PrometheusSource(
        url, monotonic_ms=lambda: time.monotonic_ns() // 1_000_000, now=lambda: datetime.now(UTC)
    ) as source:
        await until(source.ready)
        await until(lambda: source.pod_power(PODS))
        exporter.silent = True

        async def gone() -> bool:
            return not await source.pod_power(PODS)

        await until(gone)
