"""Explanations fit a terminal, say what was asked, chosen and lost, and carry the same facts as the data."""

from __future__ import annotations

import json

from lowbeam.planning import Plan, Snapshot, plan
from lowbeam.planning.explain import WIDTH, cap_table, explain_lines, plan_data, plan_table
from tests.builders import cap, catalogue_of, model, snapshot, stock, workload

SMALL = model("a-rather-small-distilled-classifier").quality("80").on("gpu", (1, 60, 10, 100), (8, 100, 40, 180))
LARGE = model("a-large-classifier").quality("95").on("gpu", (1, 300, 5, 200), (8, 500, 20, 400))
TEAM = [
    workload("triage").rate(30).floor("90").priority(100),
    workload("a-workload-with-a-remarkably-long-name").in_namespace("a-long-namespace").rate(2),
    workload("impossible").floor("99"),
]


def made(watts: int = 1200) -> tuple[Snapshot, Plan]:
    shot = snapshot(TEAM, catalogue_of(SMALL, LARGE), stock(gpu=16), cap("cluster", watts))
    return shot, plan(shot)


def test_nothing_is_wider_than_a_terminal() -> None:
    shot, answer = made()
    lines = [*plan_table(answer), *cap_table(answer, shot.caps)]
    for state in shot.workloads:
        choice = answer.choice(*state.requirements.key)
        assert choice is not None
        lines += explain_lines(state.requirements, choice)
    assert max(len(line) for line in lines) <= WIDTH
    assert all(line == line.rstrip() for line in lines)


def test_an_explanation_says_what_was_asked_chosen_and_lost_and_what_would_save() -> None:
    shot, answer = made(5000)
    choice = answer.choice("team", "triage")
    assert choice is not None
    text = " ".join(line.lstrip() for line in explain_lines(shot.workloads[0].requirements, choice))
    for part in (
        "bench >= 90",
        "1000 ms end to end",
        "30 req/s",
        "chosen   a-large-classifier",
        "lost",
        "saves",
        "floor",
    ):
        assert part in text


def test_a_dimmed_workload_shows_what_it_would_run_and_which_cap_stands_between() -> None:
    shot, answer = made()
    choice = answer.choice("team", "triage")
    assert choice is not None
    text = " ".join(line.strip() for line in explain_lines(shot.workloads[0].requirements, choice))
    assert 'PowerCap "cluster" does not allow it' in text


def test_a_workload_that_cannot_run_lists_what_was_rejected() -> None:
    shot, answer = made()
    choice = answer.choice("team", "impossible")
    assert choice is not None
    text = "\n".join(explain_lines(shot.workloads[2].requirements, choice))
    assert "NoModelMeetsFloor" in text
    assert "rejected" in text
    assert "80 < 99" in text


def test_the_caps_are_listed_with_their_room_and_price() -> None:
    shot, answer = made()
    header, row, *rest = cap_table(answer, shot.caps)
    assert header.split()[:3] == ["CAP", "USABLE", "COMMITTED"]
    assert row.startswith("cluster")
    assert rest == []
    hopeless_shot, hopeless = made(10)
    assert "unsatisfiable" in cap_table(hopeless, hopeless_shot.caps)[1]
    assert any("Raise spec.watts" in line for line in cap_table(hopeless, hopeless_shot.caps))


def test_the_data_is_json_with_the_same_decisions() -> None:
    _, answer = made()
    data = json.loads(json.dumps(plan_data(answer)))
    assert [w["name"] for w in data["workloads"]] == [c.name for c in answer.choices]
    assert data["workloads"][0]["option"]["model"] == "a-rather-small-distilled-classifier"
    assert data["caps"]["cluster"]["committedMilliwatts"] == answer.cap_milliwatts["cluster"]
