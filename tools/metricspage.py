"""The page of the operator's metrics, from the same objects that count them.

Decides the layout only; `tools/generate.py` writes the file.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.metrics import MetricWrapperBase

from lowbeam.runtime import metrics
from lowbeam.runtime.object_metrics import ObjectMetrics
from lowbeam.runtime.world import Objects

_HEAD = """\
<!-- Generated from operator/lowbeam/runtime/metrics.py and object_metrics.py. Do not edit. -->

# Metrics of the operator

Served on port 9400 under `/metrics` (`--metrics-port`). The chart makes a Service for it, and with
`metrics.podMonitor.enabled` PodMonitors for the operator and for the pods of workloads; [alerts](alerts.md) and a
Grafana dashboard (`metrics.dashboard.enabled`, or import `charts/lowbeam/files/dashboard.json`) go with them. Without
the Prometheus operator, scrape the operator with `honor_labels: true`, for `namespace` is that of the workload, and
give the workers' targets the labels `namespace`, `pod` and `lowbeam_dev_workload`. A counter and a histogram begin
anew with each process; series of a cap or a workload end with it. What `reason` says: [reasons.md](reasons.md). Watts
of each pod are in the [worker's](../worker.md) own metrics, those of each board in the [node
agent's](../node-agent.md).

| metric | type | labels | meaning |
|---|---|---|---|
"""


def render_metrics() -> str:
    """The page: one row per metric, in the order of the module."""
    return _HEAD + "".join(
        f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in labels)} | {text} |\n"
        for name, kind, labels, text in _rows()
    )


def _rows() -> Iterator[tuple[str, str, tuple[str, ...], str]]:
    for it in vars(metrics).values():
        if isinstance(it, MetricWrapperBase):
            for family in it.describe():
                yield _shown(family.name, family.type), family.type, tuple(it._labelnames), family.documentation
    for collector in (metrics.ApiCalls({}), ObjectMetrics(Objects)):
        for family in collector.collect():
            yield _shown(family.name, family.type), family.type, tuple(family._labelnames), family.documentation


def _shown(name: str, kind: str) -> str:
    """As a query has to spell it."""
    return f"{name}_total" if kind == "counter" else name
