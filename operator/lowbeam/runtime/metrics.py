"""Prometheus metrics of the operator. Names carry the unit; reasons are the constants of api/v1alpha1/reasons.

Workloads and caps are labels: a few series each. Per-pod watts stay on the workers' own /metrics.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

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
cap_enforced = Gauge(
    "lowbeam_cap_enforced", "1 while a cap is kept, 0 while it only observes or is refused", ["cap"], registry=REGISTRY
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
workload_demand = Gauge(
    "lowbeam_workload_demand_requests_per_second",
    "Load that a workload is sized for, declared or observed",
    ["namespace", "workload"],
    registry=REGISTRY,
)
decisions = Counter("lowbeam_decisions", "Decisions written, by reason", ["reason"], registry=REGISTRY)
planner_seconds = Histogram(
    "lowbeam_planner_cycle_seconds",
    "Duration of a planner cycle, snapshot to moves",
    buckets=_SECONDS,
    registry=REGISTRY,
)
plans = Counter(
    "lowbeam_plans",
    "Plans made; proven = no better one is possible, else a limit of the search ended it",
    ["proven"],
    registry=REGISTRY,
)
passes_given_up = Counter(
    "lowbeam_planner_passes_given_up",
    "Passes of the optimiser that a limit ended or left out, so that a better plan may have been missed",
    registry=REGISTRY,
)
leader = Gauge("lowbeam_leader", "1 while this process holds the Lease", registry=REGISTRY)
unlimited_nodes = Gauge(
    "lowbeam_nodes_without_their_power_limits",
    "Nodes whose boards do not have the power limits that were decided; the log says why",
    registry=REGISTRY,
)
other_operators = Gauge(
    "lowbeam_other_operators",
    "Operators that hold a Lease of this name in other namespaces, as last seen by a leader or a process that waits",
    registry=REGISTRY,
)
guard_seconds = Histogram("lowbeam_guard_tick_seconds", "Duration of a guard tick", buckets=_SECONDS, registry=REGISTRY)
loop_lag_seconds = Histogram(
    "lowbeam_event_loop_lag_seconds",
    "How much later than asked the event loop wakes, four times a second",
    buckets=_SECONDS,
    registry=REGISTRY,
)

OF_CAPS = (cap_usable_watts, cap_measured_watts, cap_committed_watts, cap_coverage_ratio, cap_enforced)
OF_WORKLOADS = (workload_committed_watts, workload_measured_watts, workload_dimmed, workload_demand)


class ApiCalls(Collector):
    """Calls to the API server, from the transport's own count at the moment of the scrape."""

    def __init__(self, calls: Mapping[tuple[str, str], int]) -> None:
        self._calls = calls

    def collect(self) -> Iterable[CounterMetricFamily]:
        """One series per verb and resource."""
        family = CounterMetricFamily(
            "lowbeam_api_calls", "Calls to the API server since start", labels=["verb", "resource"]
        )
        for labels, count in sorted(self._calls.items()):
            family.add_metric(labels, count)
        return [family]
