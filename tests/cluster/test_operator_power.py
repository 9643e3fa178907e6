"""Power caps on the real control plane, with workers that draw what was published for them.

The watts that count here are those that the emulated workers really draw, not those that the operator says.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator

import pytest

from lowbeam.catalog import load_builtin
from tests.operator_harness import BULK, CHAT, Stage, condition, is_ready, power_cap, stage, workload

__all__ = ["stage"]

CATALOGUE = load_builtin()
NAMES = ("high", "middle", "low")


@pytest.fixture
def team(stage: Stage, namespace: str) -> Iterator[str]:
    """Three workloads of different priority under a cap that does not bind: about 6.5 of 8.5 kW."""
    stage.apply(
        power_cap(namespace, 9000, namespaces=[namespace]),
        workload(namespace, "high", CHAT, priority=900),
        workload(namespace, "middle", BULK, priority=500),
        workload(namespace, "low", BULK, priority=100),
    )
    try:
        stage.ready(namespace, *NAMES)
        stage.eventually("every worker is at its batch limit", lambda: _at_their_limits(stage, namespace))
        stage.eventually(
            "watts are drawn and seen", lambda: min(stage.watts(namespace), _seen(stage, namespace)) > 5000
        )
        yield namespace
    finally:
        stage.cluster.kubectl("delete", "pcap", namespace, "--ignore-not-found", "--wait=false")
        stage.cluster.kubectl("delete", "iw", "--all", "-n", namespace)
        stage.eventually("no pods", lambda: not stage.pods(namespace))


def _seen(stage: Stage, cap: str) -> int:
    watts: int = stage.own("powercaps", cap).get("status", {}).get("measuredWatts", 0)
    return watts


def _at_their_limits(stage: Stage, namespace: str) -> bool:
    wanted = {stage.iw(namespace, name)["status"]["selected"]["batchLimit"] for name in NAMES}
    return set(stage.batch_limits(namespace).values()) == wanted


def _dimmed(stage: Stage, namespace: str) -> set[str]:
    return {n for n in NAMES if condition(stage.iw(namespace, n), "Dimmed").get("status") == "True"}


def _quality(stage: Stage, namespace: str, name: str) -> float:
    """Published score of what is selected on the benchmark of the floor."""
    selected = stage.iw(namespace, name)["status"]["selected"]
    wanted = (selected["model"], selected["precision"], selected["reasoning"])
    variants = CATALOGUE.models[selected["model"]].variants
    (variant,) = [v for v in variants if (v.model, v.precision, v.reasoning.value) == wanted]
    score = variant.quality_centi("mmlu-pro")
    assert score is not None
    return score / 100


def test_a_cut_dims_by_priority_within_seconds_and_comes_back_through_the_gate(
    stage: Stage, team: str, record_property: Callable[[str, object], None]
) -> None:
    before = stage.watts(team)
    decisions = {name: stage.iw(team, name)["status"]["history"][0]["decisionId"] for name in NAMES}
    cut_watts = round(before * 0.75)

    # 1. Cut: the first decision, and the watts below what is usable.
    began = time.monotonic()
    stage.patch("pcap", team, {"watts": cut_watts})

    def decided() -> list[str]:
        return [n for n in NAMES if stage.iw(team, n)["status"]["history"][0]["decisionId"] != decisions[n]]

    stage.eventually("a first decision", decided)
    first_seconds = time.monotonic() - began
    stage.eventually("under the cap", lambda: stage.watts(team) <= cut_watts * 0.95)
    under_seconds = time.monotonic() - began
    print(f"\ncap {before:.0f} -> {cut_watts} W: first decision {first_seconds:.1f} s, under it {under_seconds:.1f} s")
    record_property("first_decision_seconds", round(first_seconds, 2))
    record_property("under_the_cap_seconds", round(under_seconds, 2))
    assert under_seconds < 30

    # 2. Whom: the least important first, the important one not at all, nobody below a floor.
    stage.eventually("the status says so", lambda: "low" in _dimmed(stage, team))
    stage.eventually("settled", lambda: all(is_ready(stage.iw(team, name)) for name in NAMES))
    dimmed = _dimmed(stage, team)
    assert "low" in dimmed
    assert "high" not in dimmed
    for name, floor in (("high", 70), ("middle", 45), ("low", 45)):
        assert _quality(stage, team, name) >= floor
    dimming = stage.iw(team, "low")["status"]["dimming"]
    assert dimming["powerCap"] == team
    assert dimming["wattsFreed"] > 0
    assert stage.own("powercaps", team)["status"]["lastAction"]["message"]
    stage.stays("under the cap", lambda: stage.watts(team) <= cut_watts, 4)

    # 3. Back: through the gate, to what they had.
    stage.patch("pcap", team, {"watts": 9000})
    began = time.monotonic()
    stage.eventually("restored", lambda: not _dimmed(stage, team))
    print(f"restored after {time.monotonic() - began:.1f} s")
    stage.ready(team, *NAMES)
    stage.eventually("the watts of before", lambda: stage.watts(team) > before * 0.95)

    # 4. Each decision is said once.
    for name in NAMES:
        notes = [note for _, _, note in stage.events(name, team)]
        assert len(notes) == len(set(notes)), notes
    said = [reason for _, reason, _ in stage.events("low", team)]
    assert said[0] == "Selected"
    assert set(said[1:]) <= {"Dimmed", "Restored", "Reconfigured", "Scaled", "Replaced"}
    assert "Dimmed" in said
    assert said[-1] == "Restored"


def test_a_cap_below_the_minimum_is_said_loudly_and_pauses_the_lowest_where_that_is_allowed(
    stage: Stage, team: str
) -> None:
    stage.patch("pcap", team, {"watts": 300})

    row = stage.says(lambda: stage.own("powercaps", team), "Satisfiable", "False", "CapBelowMinimum")
    assert team in row["message"]
    assert "Raise spec.watts" in stage.warned("CapBelowMinimum", team)
    stage.eventually("the cap's state", lambda: stage.own("powercaps", team)["status"]["state"] == "Infeasible")
    found = re.search(r"need at least (\d+) W", row["message"])
    assert found, row

    # Just too little for all: with the platform team's consent the least important one is paused, and no other.
    stage.patch("pcap", team, {"watts": round((int(found[1]) - 20) / 0.95), "onInfeasible": "PauseLowest"})
    stage.eventually("the lowest is paused", lambda: not stage.pods(team, "low"))
    stage.says(lambda: stage.iw(team, "low"), "Stalled", "True", "Paused")
    assert [note for kind, reason, note in stage.events("low", team) if (kind, reason) == ("Warning", "Paused")]
    stage.eventually("the others run", lambda: all(stage.pods(team, name) for name in ("high", "middle")))

    stage.patch("pcap", team, {"watts": 9000})
    stage.says(lambda: stage.own("powercaps", team), "Satisfiable", "True", "Satisfiable")
    stage.eventually("all of it again", lambda: not _dimmed(stage, team), 120)
    stage.ready(team, *NAMES)
