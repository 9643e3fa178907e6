"""The alerts fire on what they are for, ask for metrics that exist, and fit the Prometheus operator's kinds."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from lowbeam.render import labels
from tests.chart.chart_tools import Render
from tools.alertspage import RULES
from tools.localcluster import build
from tools.localcluster.client import ClusterClient

ROOT = Path(__file__).parents[2]
CASES = Path(__file__).with_name("alerts_test.yaml")
ON = {
    "metrics.podMonitor.enabled": True,
    "metrics.prometheusRule.enabled": True,
    "metrics.prometheusRule.runbookUrl": "https://wiki.example/alerts",
    "agent.enabled": True,
}
TELL = (
    ROOT / "docs" / "reference" / "metrics.md",
    ROOT / "workloads" / "lowbeam_worker" / "metrics.py",
    ROOT / "workloads" / "lowbeam_agent" / "metrics.py",
)


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def promtool(*args: str) -> None:
    done = subprocess.run([build.binary("promtool"), *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_reads_the_rules() -> None:
    promtool("check", "rules", "--lint-fatal", str(RULES))


def test_every_alert_fires_on_its_trouble_and_on_nothing_else(tmp_path: Path) -> None:
    alerts = yaml.safe_load(RULES.read_text())
    for group in alerts["groups"]:
        for rule in group["rules"]:
            del rule["annotations"]["description"]
    (tmp_path / "alerts.yaml").write_text(yaml.safe_dump(alerts))
    promtool("test", "rules", str(shutil.copy(CASES, tmp_path)))
    tests = yaml.safe_load(CASES.read_text())["tests"]
    fires = {it["alertname"] for test in tests for it in test["alert_rule_test"] if "exp_alerts" in it}
    assert fires == {rule["alert"] for rule in rules()}


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alert_asks_for_metrics_that_are_served(rule: dict[str, Any]) -> None:
    served = " ".join(path.read_text() for path in TELL)
    for name in re.findall(r"\blowbeam_\w+", rule["expr"]):
        base = name.removesuffix("_bucket").removesuffix("_total")  # the worker's counters are written without it
        assert re.search(rf"[`\"]{base}(_total)?[`\"]", served), name


def test_the_pods_of_workloads_are_what_their_monitor_selects(render: Render) -> None:
    (monitor,) = [
        it for it in render(**ON) if it["kind"] == "PodMonitor" and it["metadata"]["name"].endswith("workers")
    ]
    terms = [f"{key}={value}" for key, value in monitor["spec"]["selector"]["matchLabels"].items()]
    terms += [term["key"] for term in monitor["spec"]["selector"]["matchExpressions"] if term["operator"] == "Exists"]
    assert ",".join(terms) == labels.WORKER_SELECTOR
    assert monitor["spec"]["podTargetLabels"] == [labels.WORKLOAD]
    assert [it["port"] for it in monitor["spec"]["podMetricsEndpoints"]] == [labels.SERVING_PORT_NAME]


def test_the_prometheus_operators_kinds_take_what_the_chart_makes(
    render: Render, cluster: ClusterClient, tmp_path: Path
) -> None:
    kinds = [it for it in yaml.safe_load_all(build.asset("monitoring").read_text()) if it]
    names = [f"crd/{it['metadata']['name']}" for it in kinds]
    ours = [it for it in render(**ON) if it["apiVersion"].startswith("monitoring.coreos.com/")]
    assert sorted((it["kind"], it["metadata"]["name"]) for it in ours) == [
        ("PodMonitor", "lowbeam"),
        ("PodMonitor", "lowbeam-agent"),
        ("PodMonitor", "lowbeam-workers"),
        ("PrometheusRule", "lowbeam"),
    ]
    file = tmp_path / "monitoring.yaml"
    file.write_text(yaml.safe_dump_all({**it, "metadata": {**it["metadata"], "namespace": "default"}} for it in ours))
    cluster.kubectl("apply", "--server-side", "-f", str(build.asset("monitoring")))
    try:
        cluster.kubectl("wait", "--for=condition=Established", "--timeout=60s", *names)
        cluster.kubectl("apply", "--server-side", "--validate=strict", "-f", str(file))
        (rule,) = yaml.safe_load(cluster.kubectl("get", "prometheusrules", "-n", "default", "-o", "yaml"))["items"]
        page = {it["alert"]: it["annotations"].pop("runbook_url") for g in rule["spec"]["groups"] for it in g["rules"]}
        assert rule["spec"] == yaml.safe_load(RULES.read_text())
        assert page == {name: f"https://wiki.example/alerts#{name.lower()}" for name in page}
    finally:
        cluster.kubectl("delete", "--wait=false", *names)
