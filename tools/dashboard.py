"""The Grafana dashboard that the chart ships, built with Grafana's own types so that it is what Grafana reads.

Decides what is shown: watts under caps, what each workload takes, its workers, the operator itself. `tools/generate.py`
writes the file. Queries take the greatest over the operator's replicas, for each of them tells what it sees.
"""

from __future__ import annotations

from itertools import count
from pathlib import Path
from string import ascii_uppercase
from typing import Final, TypeVar

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.common import StackingMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

DASHBOARD = Path(__file__).resolve().parents[1] / "charts" / "lowbeam" / "files" / "dashboard.json"
_SOURCE: Final = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
_CAPS: Final = '{cap=~"$cap"}'
_CHOSEN: Final = '{namespace=~"$namespace", workload=~"$workload"}'
_PODS: Final = 'namespace=~"$namespace", lowbeam_dev_workload=~"$workload"'
"""Labels that the chart's PodMonitor gives to the series of workers."""
_RATE: Final = "[$__rate_interval]"

Panel = timeseries.Panel | stat.Panel | table.Panel
_Panel = TypeVar("_Panel", timeseries.Panel, stat.Panel, table.Panel)
Query = tuple[str, str]
"""(expression, legend)."""


def render_dashboard() -> str:
    """The dashboard as JSON, as Grafana imports it."""
    made = (
        dashboard.Dashboard("Lowbeam")
        .uid("lowbeam")
        .description("Power caps, energy and decisions of the Lowbeam operator")
        .tags(["lowbeam", "energy"])
        .refresh("30s")
        .time("now-3h", "now")
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(_variable("cap", "Cap", "lowbeam_cap_usable_watts"))
        .with_variable(_variable("namespace", "Namespace", "lowbeam_workload_condition").all_value(".*"))
        .with_variable(
            _variable("workload", "Workload", 'lowbeam_workload_condition{namespace=~"$namespace"}').all_value(".*")
        )
    )
    rows = {"Power": _power(), "Workloads": _workloads(), "Workers": _workers(), "Operator": _operator()}
    number = count(1)
    for title, panels in rows.items():
        made = made.with_row(dashboard.Row(title).id(next(number)))
        for panel in panels:
            made = made.with_panel(panel.id(next(number)))
    return JSONEncoder(sort_keys=True, indent=2).encode(made.build()) + "\n"


def _power() -> list[Panel]:
    return [
        _stat(
            "Drawn",
            "watt",
            "By the chosen workloads",
            f"sum(max by (namespace, workload) (lowbeam_workload_measured_watts{_CHOSEN}))",
        ),
        _stat(
            "Fullest cap",
            "percentunit",
            "Drawn of what the chosen cap with the least room lets accelerators draw",
            f"max(max by (cap) (lowbeam_cap_measured_watts{_CAPS}) / max by (cap) (lowbeam_cap_usable_watts{_CAPS}))",
        ),
        _stat(
            "Dimmed workloads",
            "none",
            "Workloads that a cap gives less than they would have without it",
            f"sum(max by (namespace, workload) (lowbeam_workload_dimmed{_CHOSEN}))",
        ),
        _stat(
            "Boards with a fresh reading",
            "percentunit",
            "Of the chosen cap that knows least; a board without one counts as drawing all that it can",
            f"min(max by (cap) (lowbeam_cap_coverage_ratio{_CAPS}))",
        ),
        _series(
            "Watts under cap $cap",
            "watt",
            "Usable: what accelerators may draw. Committed: what they could draw at most with what runs. Measured: "
            "what they draw, those without a fresh reading at their worst case.",
            ('max(lowbeam_cap_usable_watts{cap="$cap"})', "usable"),
            ('max(lowbeam_cap_committed_watts{cap="$cap"})', "committed"),
            ('max(lowbeam_cap_measured_watts{cap="$cap"})', "measured"),
        )
        .repeat("cap")
        .max_per_row(2)
        .override_by_name(
            "usable",
            [
                _property("custom.lineStyle", {"fill": "dash", "dash": [10, 10]}),
                _property("custom.fillOpacity", 0),
                _property("color", {"mode": "fixed", "fixedColor": "red"}),
            ],
        ),
    ]


def _workloads() -> list[Panel]:
    of_each = "max by (namespace, workload) "
    return [
        _table(
            "Workloads",
            "What each is sized for, and what it takes. Joules of a request and stars are expected of what was chosen.",
            {
                "Requests/s": (f"{of_each}(lowbeam_workload_demand_requests_per_second{_CHOSEN})", "reqps"),
                "J/request": (f"{of_each}(lowbeam_workload_joules_per_request{_CHOSEN})", "joule"),
                "Stars": (f"{of_each}(lowbeam_workload_stars{_CHOSEN})", "none"),
                "Drawn": (f"{of_each}(lowbeam_workload_measured_watts{_CHOSEN})", "watt"),
                "At most": (f"{of_each}(lowbeam_workload_committed_watts{_CHOSEN})", "watt"),
                "Dimmed": (f"{of_each}(lowbeam_workload_dimmed{_CHOSEN})", "bool_yes_no"),
            },
        ),
        _series(
            "Watts by workload",
            "watt",
            "The twenty that draw most",
            (f"topk(20, {of_each}(lowbeam_workload_measured_watts{_CHOSEN}))", "{{namespace}}/{{workload}}"),
            stacked=True,
        ),
        _series(
            "Decisions",
            "none",
            "Over five minutes, by reason (docs/reference/reasons.md)",
            ("sum by (reason) (increase(lowbeam_decisions_total[5m]))", "{{reason}}"),
            stacked=True,
        ),
    ]


def _workers() -> list[Panel]:
    by_workload = "sum by (namespace, lowbeam_dev_workload) "
    of_workload = "{{namespace}}/{{lowbeam_dev_workload}}"
    answered = f"{by_workload}(rate(lowbeam_worker_request_seconds_count{{{_PODS}}}{_RATE}))"
    return [
        _series(
            "Joules per request, as charged",
            "joule",
            "What responses state, by the workers' meters; nothing where there is no meter",
            (
                f"{by_workload}(rate(lowbeam_worker_energy_charged_joules_total{{{_PODS}}}{_RATE})) / ({answered} > 0)",
                of_workload,
            ),
        ),
        _series(
            "What watts are for",
            "watt",
            "Of the chosen workloads' boards: answering, waiting, loading, changing",
            (f"sum by (phase) (rate(lowbeam_worker_energy_joules_total{{{_PODS}}}{_RATE}))", "{{phase}}"),
            stacked=True,
        ),
        _series("Answers", "reqps", "Requests answered", (answered, of_workload)),
        _series(
            "Refused requests",
            "reqps",
            "Answered with an error",
            (f"{by_workload}(rate(lowbeam_worker_requests_refused_total{{{_PODS}}}{_RATE}))", of_workload),
            stacked=True,
        ),
        _series(
            "Seconds to an answer",
            "s",
            "From arrival to the last byte: 99 of 100 requests take less",
            (
                "histogram_quantile(0.99, sum by (le, namespace, lowbeam_dev_workload) "
                f"(rate(lowbeam_worker_request_seconds_bucket{{{_PODS}}}{_RATE})))",
                of_workload,
            ),
        ),
        _series(
            "Requests inside",
            "none",
            "In the engines, and waiting for them",
            (f"sum(vllm:num_requests_running{{{_PODS}}})", "running"),
            (f"sum(vllm:num_requests_waiting{{{_PODS}}})", "waiting"),
        ),
    ]


def _operator() -> list[Panel]:
    return [
        _series(
            "Seconds of its loops",
            "s",
            "99 of 100 take less: a plan, a look at the caps, and how late the event loop wakes",
            *(
                (f"histogram_quantile(0.99, sum by (le) (rate({name}_bucket{_RATE})))", legend)
                for name, legend in (
                    ("lowbeam_planner_cycle_seconds", "plan"),
                    ("lowbeam_guard_tick_seconds", "guard"),
                    ("lowbeam_event_loop_lag_seconds", "late"),
                )
            ),
        ),
        _series(
            "Calls to the API server",
            "reqps",
            "By verb",
            (f"sum by (verb) (rate(lowbeam_api_calls_total{_RATE}))", "{{verb}}"),
            stacked=True,
        ),
        _series(
            "Leaders", "none", "Replicas that hold the Lease: one, but for a moment", ("sum(lowbeam_leader)", "leaders")
        ),
        _series(
            "Objects that are not in the catalogue",
            "none",
            "Their condition Ready says why",
            ('max by (kind) (lowbeam_catalogue_objects{ready="False"})', "{{kind}}"),
        ),
    ]


def _variable(name: str, label: str, metric: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(_SOURCE)
        .query(f"label_values({metric}, {name})")
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .include_all(True)
        .multi(True)
        .current(models.VariableOption(text="All", value="$__all"))
    )


def _stat(title: str, unit: str, text: str, expression: str) -> stat.Panel:
    return _placed(stat.Panel(), title, unit, text, width=6, height=4).with_target(_query("A", expression, title))


def _series(title: str, unit: str, text: str, *queries: Query, stacked: bool = False) -> timeseries.Panel:
    panel = _placed(timeseries.Panel(), title, unit, text, width=12, height=8).min(0).fill_opacity(10)
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL)).fill_opacity(40)
    for letter, query in zip(ascii_uppercase, queries, strict=False):
        panel = panel.with_target(_query(letter, *query))
    return panel


def _table(title: str, text: str, columns: dict[str, tuple[str, str]]) -> table.Panel:
    """A row per workload; `columns`: title -> (expression, unit)."""
    panel, names = _placed(table.Panel(), title, "none", text, width=24, height=9), {}
    for letter, (column, (expression, unit)) in zip(ascii_uppercase, columns.items(), strict=False):
        names[f"Value #{letter}"] = column
        panel = panel.with_target(_query(letter, expression, column).format(PromQueryFormat.TABLE).instant())
        panel = panel.override_by_name(column, [_property("unit", unit)])
    tidy = {"excludeByName": {"Time": True}, "renameByName": names}
    for step, options in (("merge", {}), ("organize", tidy)):
        panel = panel.with_transformation(models.DataTransformerConfig(step, options=options))
    return panel


def _placed(panel: _Panel, title: str, unit: str, text: str, *, width: int, height: int) -> _Panel:
    return panel.title(title).description(text).unit(unit).datasource(_SOURCE).span(width).height(height)


def _query(letter: str, expression: str, legend: str) -> prometheus.Dataquery:
    return prometheus.Dataquery().ref_id(letter).expr(expression).legend_format(legend)


def _property(name: str, value: object) -> models.DynamicConfigValue:
    return models.DynamicConfigValue(name, value)
