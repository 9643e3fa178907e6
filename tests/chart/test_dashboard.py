"""The dashboard shows something: each of its queries finds series in a real Prometheus, scraped as the chart has it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from lowbeam.runtime import metrics
from lowbeam.runtime.object_metrics import ObjectMetrics
from lowbeam.runtime.world import Objects
from tests.chart.chart_tools import Render
from tests.ports import free_port
from tests.worker.test_metrics_exposition import shown
from tools.dashboard import DASHBOARD
from tools.localcluster import build
from tools.localcluster.client import ClusterClient

ON = {"metrics.podMonitor.enabled": True, "metrics.dashboard.enabled": True}
MADE: dict[str, Any] = json.loads(DASHBOARD.read_text())
PANELS = [panel for panel in MADE["panels"] if panel["type"] != "row"]
CHOICES = {"$__rate_interval": "5s", "$cap": "row", "$namespace": ".*", "$workload": ".*"}
CONDITIONS = [{"type": "Ready", "status": "True"}]
WORKLOAD = {
    "metadata": {"namespace": "shop", "name": "chat"},
    "status": {"conditions": CONDITIONS, "energy": {"joulesPerRequest": "61.25", "stars": "****"}},
}


@pytest.fixture
def led() -> Iterator[None]:
    """What an operator that leads has counted; taken away again, for its registry is everybody's."""
    gauges = [(gauge, ("row",)) for gauge in metrics.OF_CAPS]
    gauges += [(gauge, ("shop", "chat")) for gauge in metrics.OF_WORKLOADS]
    for gauge, labels in gauges:
        gauge.labels(*labels).set(7)
    metrics.decisions.labels("Dimmed").inc()
    yield
    for gauge, labels in gauges:
        gauge.remove(*labels)
    metrics.decisions.remove("Dimmed")


@pytest.fixture
async def scraped(led: None, render: Render, tmp_path: Path) -> AsyncIterator[str]:
    """URL of a Prometheus with the targets that the Prometheus operator makes of our PodMonitors."""
    told, worker = CollectorRegistry(), shown()
    told.register(ObjectMetrics(lambda: Objects(workloads=(WORKLOAD,))))
    told.register(metrics.ApiCalls({("GET", "pods"): 3}))

    async def of_operator(_: web.Request) -> web.Response:
        body = generate_latest(metrics.REGISTRY) + generate_latest(told)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def of_worker(_: web.Request) -> web.Response:
        worker.completed("tiny", 40, 20, 1.5, 5.0, finished_reason="length")
        body, content_type = worker.exposition()
        return web.Response(body=body, headers={"Content-Type": content_type})

    app = web.Application()
    app.add_routes([web.get("/lowbeam", of_operator), web.get("/lowbeam-workers", of_worker)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port, at = free_port(), f"127.0.0.1:{runner.addresses[0][1]}"
    places = {
        "lowbeam": {"namespace": "lowbeam-system", "pod": "lowbeam-0"},
        "lowbeam-workers": {"namespace": "shop", "pod": "chat-0", "lowbeam_dev_workload": "chat"},
    }
    monitors = {it["metadata"]["name"]: it["spec"] for it in render(**ON) if it["kind"] == "PodMonitor"}
    jobs = [
        {
            "job_name": name,
            "metrics_path": f"/{name}",
            "honor_labels": monitors[name]["podMetricsEndpoints"][0].get("honorLabels", False),
            "static_configs": [{"targets": [at], "labels": labels}],
        }
        for name, labels in places.items()
    ]
    config = tmp_path / "prometheus.yaml"
    config.write_text(
        yaml.safe_dump({"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": jobs})
    )
    process = await asyncio.create_subprocess_exec(
        build.binary("prometheus"),
        f"--config.file={config}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        stderr=(tmp_path / "log").open("w"),
    )
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    await asyncio.wait_for(process.wait(), 60)
    await runner.cleanup()


async def test_every_query_finds_series_and_tells_the_workload_by_its_own_namespace(scraped: str) -> None:
    queries = {target["expr"] for panel in PANELS for target in panel["targets"]}
    found: dict[str, list[dict[str, Any]]] = {}
    async with httpx.AsyncClient(base_url=scraped) as prometheus, asyncio.timeout(60):
        while missing := queries - found.keys():
            await asyncio.sleep(0.5)
            for query in missing:
                try:
                    answer = await prometheus.get("/api/v1/query", params={"query": filled(query)})
                except httpx.TransportError:
                    continue  # it starts
                if answer.status_code != 503:
                    assert answer.status_code == 200, answer.text
                    if series := answer.json()["data"]["result"]:
                        found[query] = series
    of_workloads = [it["metric"] for series in found.values() for it in series if "namespace" in it["metric"]]
    assert of_workloads
    assert {it["namespace"] for it in of_workloads} == {"shop"}


@pytest.mark.parametrize("variable", MADE["templating"]["list"][1:], ids=lambda it: it["name"])
async def test_every_choice_is_filled_from_a_series(scraped: str, variable: dict[str, Any]) -> None:
    (series, label) = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]).groups()  # type: ignore[union-attr]
    async with httpx.AsyncClient(base_url=scraped) as prometheus, asyncio.timeout(60):
        while True:
            await asyncio.sleep(0.5)
            try:
                answer = await prometheus.get(f"/api/v1/label/{label}/values", params={"match[]": filled(series)})
            except httpx.TransportError:
                continue
            if answer.status_code == 200 and answer.json()["data"]:
                break
    assert answer.json()["data"] == [{"cap": "row", "namespace": "shop", "workload": "chat"}[label]]


def test_every_panel_has_a_place_and_a_name_of_its_own() -> None:
    ids = [panel["id"] for panel in MADE["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in MADE["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    for panel in PANELS:
        letters = [target["refId"] for target in panel["targets"]]
        assert all(letters), panel["title"]
        assert len(set(letters)) == len(letters), panel["title"]
        assert panel["description"], panel["title"]


def test_the_api_server_takes_the_dashboard_as_it_was_made(
    render: Render, cluster: ClusterClient, tmp_path: Path
) -> None:
    (made,) = [it for it in render(**ON) if it["kind"] == "ConfigMap" and it["metadata"]["name"] == "lowbeam-dashboard"]
    assert made["metadata"]["labels"]["grafana_dashboard"] == "1"
    file = tmp_path / "dashboard.yaml"
    file.write_text(yaml.safe_dump({**made, "metadata": {**made["metadata"], "namespace": "default"}}))
    cluster.kubectl("apply", "--server-side", "--validate=strict", "-f", str(file))
    kept = yaml.safe_load(cluster.kubectl("get", "configmap", "lowbeam-dashboard", "-n", "default", "-o", "yaml"))
    assert json.loads(kept["data"]["lowbeam.json"]) == MADE
    cluster.kubectl("delete", "configmap", "lowbeam-dashboard", "-n", "default")


def filled(query: str) -> str:
    """As Grafana asks it, everything chosen."""
    for name, value in CHOICES.items():
        query = query.replace(name, value)
    return query
