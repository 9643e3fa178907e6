"""What `lowbeam top` shows: caps as bars, workloads by watts, and nothing that nobody measured."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.text import Text

from lowbeam.cli.top.rows import CapRow, cap_data, cap_rows, workload_data, workload_rows
from lowbeam.cli.top.table import Column, cells, cut, plain, table
from lowbeam.cli.top.view import ASCII_SIGNS, Frame, Picture, ago, bar, lines

NOW = datetime(2026, 11, 22, 17, 42, 10, tzinfo=UTC)


def condition(kind: str, status: str, reason: str = "Reason", message: str = "") -> dict[str, str]:
    return {"type": kind, "status": status, "reason": reason, "message": message}


def cap(name: str, watts: int, usable: int, measured: int, committed: int, **told: Any) -> dict[str, Any]:
    spec = {"watts": watts, "mode": told.pop("mode", "Enforce"), "parent": told.pop("parent", None)}
    status = {
        "observedGeneration": 1,
        "effectiveWatts": watts,
        "limitedBy": name,
        "usableWatts": usable,
        "measuredWatts": measured,
        "committedWatts": committed,
        "state": "WithinCap",
        **told,
    }
    return {"metadata": {"name": name, "generation": 1}, "spec": spec, "status": status}


def workload(name: str, watts: int | None = None, namespace: str = "support", **status: Any) -> dict[str, Any]:
    energy = {**({} if watts is None else {"measuredWatts": watts}), **status.pop("energy", {})}
    mode = status.pop("mode", "Enforce")
    body = {"energy": energy, **status} if energy or status else {}
    return {"metadata": {"namespace": namespace, "name": name}, "spec": {"mode": mode}, "status": body}


CAPS = [
    cap("research", 3000, 2850, 400, 700, parent="cluster", mode="Observe"),
    cap("cluster", 12000, 11400, 9800, 11100),
    cap(
        "evening",
        9000,
        8550,
        8700,
        8500,
        parent="cluster",
        state="Shedding",
        conditions=[condition("Shedding", "True", "HardShed", 'PowerCap "evening": 8700 W; 650 W must go.')],
    ),
]
WORKLOADS = [
    workload(
        "triage",
        34,
        selected={"model": "distilbert-sst2", "precision": "int8", "replicas": 2},
        readyReplicas=2,
        energy={"joulesPerRequest": "0.412", "stars": "*****", "basis": "Modelled", "committedWatts": 140},
        history=[
            {"time": "2026-11-22T17:36:58Z", "action": "Selected", "message": "distilbert-sst2 int8, l4, 2 replicas"}
        ],
    ),
    workload(
        "assistant",
        1840,
        selected={"model": "qwen3-8b", "precision": "bf16", "replicas": 3},
        readyReplicas=3,
        energy={"joulesPerRequest": "47.1", "stars": "****", "basis": "Published", "committedWatts": 2100},
        dimming={"lever": "Batch", "powerCap": "evening"},
        history=[{"time": "2026-11-22T17:41:58Z", "action": "Dimmed", "message": '"evening": batch 64 -> 24'}],
    ),
    workload(
        "exams",
        namespace="research",
        conditions=[condition("Stalled", "True", "UnknownTask", 'no facts about "text-classificaton"')],
    ),
]
EIGHTY = """\
3 workloads: 1.87 kW (2 of 3 measured), 1 dimmed, 1 in trouble; a…  17:42:10 UTC

POWERCAP                        MEASURED  COMMITTED   USABLE      CAP  STATE
cluster     [█████████████▒▒│]   9.80 kW    11.1 kW  11.4 kW  12.0 kW  WithinCap
  evening   [███████████████!]   8.70 kW    8.50 kW  8.55 kW  9.00 kW  Shedding
  8700 W; 650 W must go
  research  [██▒▒···········│]     400 W      700 W  2.85 kW  3.00 kW  WithinCap
  observes only: dims nothing

WORKLOAD             WATTS   J/REQ  STARS  DIMMED  LAST DECISION
support/assistant  1.84 kW    47.1  ****   Batch   12s Dimmed: "evening": batch…
support/triage        34 W  ~0.412  *****          5m Selected: distilbert-sst2…
research/exams           -       -  -              UnknownTask: no facts about …

█ measured  ▒ committed  │ usable (! passed)  ] cap   ~ modelled
"""
FORTY = """\
3 workloads: 1.87 kW (2 o…  17:42:10 UTC

POWERCAP             MEASURED  STATE
cluster   [██████│]   9.80 kW  WithinCap
evening   [██████!]   8.70 kW  Shedding
  8700 W; 650 W must go
research  [█▒····│]     400 W  WithinCap
  observes only: dims nothing

WORKLOAD           WATTS   J/REQ  DIMMED
support…sistant  1.84 kW    47.1  Batch
support/triage      34 W  ~0.412
research/exams         -       -

█ measured  ▒ committed  │ usable (! pa…
"""


def picture(caps: list[dict[str, Any]] = CAPS, workloads: list[dict[str, Any]] = WORKLOADS, **told: Any) -> Picture:
    return Picture(cap_rows(caps), workload_rows(workloads), told.pop("namespace", None), **told)


def drawn(shown: Picture, width: int = 80, **frame: Any) -> list[str]:
    return [line.plain for line in lines(shown, Frame(NOW, width, **frame))]


def row(**told: Any) -> CapRow:
    (plain_row,) = cap_rows([cap("c", 1000, 950, 0, 0)])
    return replace(plain_row, **told)


def test_eighty_columns() -> None:
    assert "\n".join([*drawn(picture()), ""]) == EIGHTY


def test_forty_columns_keep_what_matters_most() -> None:
    assert "\n".join([*drawn(picture(), 40), ""]) == FORTY


def test_wide_windows_add_pods_model_and_committed_watts() -> None:
    text = "\n".join(drawn(picture(), 200))
    assert "READY    WATTS  COMMITTED   J/REQ  STARS  DIMMED  MODEL                 LAST DECISION" in text
    assert "3/3  1.84 kW    2.10 kW    47.1  ****   Batch   qwen3-8b bf16         12s Dimmed" in text
    assert "1 in trouble; all namespaces   " in text.splitlines()[0]
    assert len(text.splitlines()[0]) == 200


def test_without_unicode_the_signs_are_plain_letters() -> None:
    text = "\n".join(drawn(picture(), unicode=False))
    assert text.isascii()
    assert "[#############==|]" in text
    assert "# measured  = committed  | usable" in text


def test_a_window_that_is_too_low_counts_what_it_leaves_out() -> None:
    many = [workload(f"w{number:03}", number) for number in range(100)]
    shown = drawn(picture(workloads=many), height=20, keys="q: quit")
    assert len(shown) == 20
    assert "... and 93 more workloads not shown" in shown
    assert [line.split()[0] for line in shown if line.startswith("support/")] == [
        f"support/w{number:03}" for number in range(99, 92, -1)
    ]
    assert shown[-1].startswith("q: quit")


def test_caps_that_act_stay_where_not_all_fit() -> None:
    shown = drawn(picture(), height=14)
    assert [line.split()[0] for line in shown if "[" in line] == ["cluster", "evening", "research"]
    shown = drawn(picture(), height=12)
    assert [line.split()[0] for line in shown if "[" in line] == ["evening"]
    assert "... and 2 more caps" in shown
    assert "... 3 caps not shown: the window is too low" in drawn(picture(), height=9)


def test_a_limit_is_counted_too() -> None:
    assert "... and 2 more workloads not shown" in drawn(picture(), limit=1)
    assert "3 workloads not shown" in drawn(picture(), limit=0)


def test_what_nobody_measured_is_a_dash_and_never_a_figure() -> None:
    planned = workload("new", energy={"committedWatts": 300, "joulesPerRequest": "9.1"})
    (shown,) = [line for line in drawn(picture(workloads=[planned])) if line.startswith("support/new")]
    assert shown.split()[:5] == ["support/new", "-", "-", "300", "W"], "pods, measured, committed"
    assert drawn(picture(workloads=[planned]))[0].startswith("1 workload; all namespaces")
    assert workload_data(workload_rows([planned])[0])["measuredWatts"] is None


def test_a_workload_that_only_wants_advice_has_no_pods() -> None:
    advised = workload("idea", mode="Advise", selected={"replicas": 3})
    assert "advice" in drawn(picture(workloads=[advised]), 120)[-3]
    assert workload_data(workload_rows([advised])[0])["enforced"] is False


@pytest.mark.parametrize("sort", ["watts", "joules", "name"])
def test_what_is_unknown_comes_last(sort: str) -> None:
    order = {"watts": ["assistant", "triage", "exams"], "joules": ["assistant", "triage", "exams"]}
    assert [it.name for it in workload_rows(WORKLOADS, sort)] == order.get(sort, ["exams", "assistant", "triage"])


def test_an_object_that_no_operator_looked_at_says_so() -> None:
    shown = drawn(picture([{"metadata": {"name": "new"}, "spec": {"watts": 500}}], [workload("new")]))
    assert sum("no status yet: no operator" in line for line in shown) == 2
    assert "500 W" in shown[3]


def test_a_cap_whose_spec_was_changed_says_that_the_figures_are_from_before() -> None:
    changed = cap("c", 100, 95, 1, 2)
    changed["metadata"]["generation"] = 2
    assert "  changed, and the operator has not answered yet" in drawn(picture([changed]))


def test_a_cap_below_another_says_what_is_in_force() -> None:
    below = cap("c", 900, 760, 1, 2, effectiveWatts=800, limitedBy="site")
    assert '  800 W of its 900 W are in force, by "site"' in drawn(picture([below]))
    assert cap_rows([below])[0].cap_watts == 800


@pytest.mark.parametrize(
    ("state", "kind", "message"),
    [
        ("Blind", "TelemetryHealthy", "20 % of the accelerators have a fresh reading"),
        ("Infeasible", "Satisfiable", "its 2 workloads need at least 935 W"),
        ("OverCap", "WithinCap", "1000 W of 950 W usable; shed if that lasts"),
    ],
)
def test_a_cap_in_trouble_says_which(state: str, kind: str, message: str) -> None:
    rows = picture([cap("c", 1000, 950, 1000, 1000, state=state, conditions=[condition(kind, "False", "R", message)])])
    shown = drawn(rows)
    assert shown[3].endswith(state)
    assert shown[4].strip() == message
    (line,) = [it for it in lines(rows, Frame(NOW, 80)) if it.plain.endswith(state)]
    assert any("bold" in str(span.style) for span in line.spans), "and in a colour"


def test_parents_come_before_their_children_and_circles_are_not_lost() -> None:
    rows = cap_rows([cap(n, 1, 1, 0, 0, parent=p) for n, p in (("b", "a"), ("a", None), ("x", "y"), ("y", "x"))])
    assert [it.name for it in rows] == ["a", "b", "x", "y"]


def test_warnings_and_missing_rights_stand_where_they_are_seen_first() -> None:
    shown = drawn(picture([], warning="no news since 17:40:00 UTC", caps_problem="not readable for you"))
    assert shown[1] == "! no news since 17:40:00 UTC"
    assert shown[3] == "caps: not readable for you"


def test_an_empty_namespace_says_how_to_see_the_others() -> None:
    shown = drawn(picture([], [], namespace="default"))
    assert "no PowerCap: nothing limits the watts" in shown
    assert "no InferenceWorkload in namespace default; -A shows all namespaces" in shown


def test_a_bar_shows_usable_as_passed_only_when_it_is() -> None:
    assert bar(row(measured_watts=400, committed_watts=700), 12, ASCII_SIGNS) == "[####===..|]"
    assert bar(row(measured_watts=949, committed_watts=949), 12, ASCII_SIGNS) == "[#########|]"
    assert bar(row(measured_watts=951, committed_watts=951), 12, ASCII_SIGNS) == "[#########!]"
    assert bar(row(measured_watts=1, committed_watts=0), 12, ASCII_SIGNS) == "[#........|]"


def test_a_bar_beyond_its_cap_shows_where_the_cap_ends() -> None:
    assert bar(row(measured_watts=500, committed_watts=2000), 22, ASCII_SIGNS) == "[#####====|]========= "
    assert bar(row(measured_watts=2000, committed_watts=2000), 22, ASCII_SIGNS) == "[#########!]######### "


def test_a_bar_of_a_cap_without_figures_is_empty() -> None:
    assert bar(row(usable_watts=None, measured_watts=None, committed_watts=None), 8, ASCII_SIGNS) == "[      ]"


def test_wide_letters_take_two_cells_and_columns_stay_in_line() -> None:
    wide = workload(
        "assistant", 1840, history=[{"action": "Dimmed", "message": "夜間の上限" * 9}], dimming={"lever": "節電"}
    )
    shown = drawn(picture(workloads=[wide, *WORKLOADS]))
    assert all(cells(line) <= 80 for line in shown)
    decisions = [line.index("Dimmed:") for line in shown if "Dimmed:" in line]
    assert [cells(line[:at]) for line, at in zip([it for it in shown if "Dimmed:" in it], decisions, strict=True)]


def test_texts_of_others_cannot_move_the_cursor_or_write_a_second_line() -> None:
    evil = workload("a", 1, history=[{"action": "Dimmed", "message": "x\x1b[2J\x1b]0;title\x07y\nz\u202eabc"}])
    (shown,) = [line for line in drawn(picture(workloads=[evil]), 120) if line.startswith("support/a")]
    assert shown.endswith("Dimmed: x [2J ]0;title y z abc")


def test_names_are_cut_in_the_middle_and_sentences_at_the_end() -> None:
    assert cut("support/assistant", 11, middle=True) == "suppo…stant"
    assert cut("support/assistant", 11) == "support/as…"
    assert [cells(cut("夜間の上限", width)) for width in range(12)] == [0, 1, 1, 3, 3, 5, 5, 7, 7, 9, 10, 10]
    assert plain("a\t b\u200d…", unicode=False) == "a b ~"


def test_a_figure_is_never_cut_but_left_out() -> None:
    columns = [Column("A", [Text("name")], least=2), Column("WATTS", [Text("1000000.0 kW")], rank=1, right=True)]
    assert [line.plain for line in table(columns, 16)] == ["A" + " " * 10 + "WATTS", "n…  1000000.0 kW"]
    assert [line.plain for line in table(columns, 15)] == ["A", "name"]


def test_ages_are_said_as_kubectl_says_them() -> None:
    assert [ago(it) for it in (-3, 0, 119.9, 120, 7199, 7200, 172_800)] == [
        "0s",
        "0s",
        "119s",
        "2m",
        "119m",
        "2h",
        "2d",
    ]


def test_times_that_no_clock_gives_are_left_out() -> None:
    odd = workload("a", 1, history=[{"time": "0001-01-01T00:00:00+14:00", "action": "Selected", "message": "x"}])
    assert workload_data(workload_rows([odd])[0])["decisionTime"] is None
    late = Frame(NOW + timedelta(days=3), 120)
    assert any("2d Dimmed" in line.plain or "3d Dimmed" in line.plain for line in lines(picture(), late))


def test_the_data_has_the_status_own_figures() -> None:
    data = workload_data(workload_rows(WORKLOADS)[1])
    assert (data["millijoulesPerRequest"], data["stars"], data["basis"]) == (412, 5, "Modelled")
    assert cap_data(cap_rows(CAPS)[0])["measuredWatts"] == 9800
