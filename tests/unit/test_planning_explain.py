"""Explanations fit a terminal, say what was asked, chosen and lost, and carry the same facts as the data."""

from __future__ import annotations

import json
from decimal import Decimal

from lowbeam.planning import Plan, Snapshot, plan
from lowbeam.planning.explain import (
    WIDTH,
    cap_table,
    cost_table,
    explain_lines,
    plan_data,
    plan_table,
    trouble_lines,
)
from lowbeam.sizing import Requirements
from lowbeam.sizing.cost import Prices
from tests.builders import cap, catalogue_of, model, snapshot, stock, workload

SMALL = model("a-rather-small-distilled-classifier").quality("80").on("gpu", (1, 60, 10, 100), (8, 100, 40, 180))
LARGE = model("a-large-classifier").quality("95").on("gpu", (1, 300, 5, 200), (8, 500, 20, 400))
PRICES = Prices({"gpu": Decimal("2.5")})
TEAM = [
    workload("triage").rate(30).floor("90").priority(100),
    workload("a-workload-with-a-remarkably-long-name").in_namespace("a-long-namespace").rate(2),
    workload("impossible").floor("99"),
]


def made(watts: int = 800) -> tuple[Snapshot, Plan]:
    shot = snapshot(TEAM, catalogue_of(SMALL, LARGE), stock(gpu=16), cap("cluster", watts))
    return shot, plan(shot)


def asked(shot: Snapshot) -> dict[tuple[str, str], Requirements]:
    return {state.requirements.key: state.requirements for state in shot.workloads}


def test_nothing_is_wider_than_a_terminal() -> None:
    shot, answer = made()
    lines = [*plan_table(answer, asked(shot)), *trouble_lines(answer), *cap_table(answer, shot.caps)]
    lines += cost_table(answer, asked(shot), PRICES)
    for state in shot.workloads:
        choice = answer.choice(*state.requirements.key)
        assert choice is not None
        lines += explain_lines(state.requirements, choice, PRICES)
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
    assert 'what it would run without PowerCap "cluster"' in text
    assert "serves" in text


def test_a_workload_that_cannot_run_is_told_the_change_that_would_do() -> None:
    shot, answer = made()
    choice = answer.choice("team", "impossible")
    assert choice is not None
    text = " ".join(line.strip() for line in explain_lines(shot.workloads[2].requirements, choice))
    assert "NoModelMeetsFloor" in text
    assert "One change would do: spec.quality.floor 99 -> 95 (a-large-classifier bf16" in text
    assert "would" in text
    assert "impossible" in "\n".join(trouble_lines(answer))


def test_the_caps_are_listed_with_their_room_and_price() -> None:
    shot, answer = made()
    header, row, *rest = cap_table(answer, shot.caps)
    assert header.split()[:3] == ["CAP", "WATTS", "USABLE"]
    assert row.startswith("cluster")
    assert " ".join(rest).startswith("PRICE/W: what one more watt would give")
    hopeless_shot, hopeless = made(10)
    assert "unsatisfiable" in cap_table(hopeless, hopeless_shot.caps)[1]
    assert any("Raise spec.watts" in line for line in cap_table(hopeless, hopeless_shot.caps))


def test_the_data_is_json_with_the_same_decisions() -> None:
    shot, answer = made()
    data = json.loads(json.dumps(plan_data(answer, asked(shot), shot.caps)))
    assert [w["name"] for w in data["workloads"]] == [c.name for c in answer.choices]
    assert data["workloads"][0]["option"]["model"] == "a-rather-small-distilled-classifier"
    assert data["caps"][0]["committedMilliwatts"] == answer.cap_milliwatts["cluster"]


def test_money_is_shown_where_a_price_is_known_and_says_what_is_missing() -> None:
    shot, answer = made(5000)
    choice = answer.choice("team", "triage")
    assert choice is not None
    without = "\n".join(explain_lines(shot.workloads[0].requirements, choice))
    assert "costs" not in without
    text = " ".join(line.strip() for line in explain_lines(shot.workloads[0].requirements, choice, PRICES))
    assert "per hour" in text
    assert "per 1,000 requests" in text
    assert "no price of energy" in text
    table = cost_table(answer, asked(shot), Prices({}, Decimal("0.25")))
    assert table[-1] == "left out: no price of gpu"
    assert any(line.startswith("all together") for line in table)


def test_a_dimmed_workload_and_one_that_serves_less_have_a_sentence_below_the_table() -> None:
    _, answer = made()
    lines = "\n".join(trouble_lines(answer))
    assert "team/triage" in lines
    assert "a-workload-with-a-remarkably-long-name" not in lines
