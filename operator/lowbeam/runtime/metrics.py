"""Prometheus metrics of the operator. Names carry the unit; reasons are the constants of api/v1alpha1/reasons.

Workloads and caps are labels: a few series each. Per-pod watts stay on the workers' own /metrics.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REGISTRY = CollectorRegistry()

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

cap_usable_watts = Gauge(
    "lowbeam_cap_usable_watts", "Watts that a cap lets accelerators draw", ["cap"], registry=REGISTRY
)
cap_measured_watts = Gauge(
    "lowbeam_cap_measured_watts",
    "Watts drawn under a cap; stale readings at their worst case",
    ["cap"],
    registry=REGISTRY,
)
cap_committed_watts = Gauge(
    "lowbeam_cap_committed_watts", "Watts that could be drawn at most under a cap", ["cap"], registry=REGISTRY
)
cap_coverage_ratio = Gauge(
    "lowbeam_cap_coverage_ratio", "Share of accelerators with a fresh reading", ["cap"], registry=REGISTRY
)
workload_committed_watts = Gauge(
    "lowbeam_workload_committed_watts",
    "Watts that a workload could draw at most",
    ["namespace", "workload"],
    registry=REGISTRY,
)
workload_measured_watts = Gauge(
    "lowbeam_workload_measured_watts", "Watts that a workload draws", ["namespace", "workload"], registry=REGISTRY
)
workload_dimmed = Gauge(
    "lowbeam_workload_dimmed", "1 while a cap dims the workload", ["namespace", "workload"], registry=REGISTRY
)
decisions = Counter("lowbeam_decisions", "Decisions written, by reason", ["reason"], registry=REGISTRY)
api_writes = Gauge(
    "lowbeam_api_writes_total", "Writes to the API server since start", ["verb", "resource"], registry=REGISTRY
)
planner_seconds = Histogram(
    "lowbeam_planner_cycle_seconds",
    "Duration of a planner cycle, snapshot to moves",
    buckets=_SECONDS,
    registry=REGISTRY,
)
guard_seconds = Histogram("lowbeam_guard_tick_seconds", "Duration of a guard tick", buckets=_SECONDS, registry=REGISTRY)
telemetry_errors = Counter("lowbeam_telemetry_errors", "Readings refused, by reason", ["reason"], registry=REGISTRY)
leader = Gauge("lowbeam_leader", "1 while this process holds the Lease", registry=REGISTRY)
