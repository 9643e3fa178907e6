"""Cuts that are announced, on the real control plane: the workers draw less when one begins, and more after its end."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.operator_harness import BULK, CHAT, Stage, power_cap, stage, workload

__all__ = ["stage"]

NAMES = ("important", "bulk")


@pytest.fixture
def team(stage: Stage, namespace: str) -> Iterator[str]:
    """Two workloads under a cap that does not bind."""
    stage.apply(
        power_cap(namespace, 9000, namespaces=[namespace]),
        workload(namespace, "important", CHAT, priority=900),
        workload(namespace, "bulk", BULK, priority=100),
    )
    try:
        stage.ready(namespace, *NAMES)
        stage.eventually(
            "watts are drawn and seen", lambda: min(stage.watts(namespace), _measured(stage, namespace)) > 3500
        )
        yield namespace
    finally:
        stage.cluster.kubectl("delete", "pcap", namespace, "--ignore-not-found", "--wait=false")
        stage.cluster.kubectl("delete", "iw", "--all", "-n", namespace)
        stage.eventually("no pods", lambda: not stage.pods(namespace))


def _status(stage: Stage, cap: str) -> dict[str, Any]:
    status: dict[str, Any] = stage.own("powercaps", cap).get("status", {})
    return status


def _measured(stage: Stage, cap: str) -> int:
    watts: int = _status(stage, cap).get("measuredWatts", 0)
    return watts


def _is_dimmed(stage: Stage, namespace: str) -> bool:
    return "dimming" in stage.iw(namespace, "bulk").get("status", {})


def _said(stage: Stage, cap: str) -> list[str]:
    return [reason for _, reason, _ in stage.events(cap) if reason.startswith("Cut")]


def _text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def test_an_event_is_kept_from_its_first_second_over_a_restart_and_the_watts_return_after_it(
    stage: Stage, team: str
) -> None:
    before = stage.watts(team)
    cut_watts = round(before * 0.85)
    start = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=20)
    event = {"name": "grid-1", "start": _text(start), "end": _text(start + timedelta(seconds=600)), "watts": cut_watts}
    stage.patch("pcap", team, {"events": [event]})

    # 1. Before: planned with already, and still allowed.
    planned = stage.eventually("planned ahead", lambda: _status(stage, team).get("plannedWatts"))
    status = _status(stage, team)
    assert (planned, status["effectiveWatts"]) == (cut_watts, 9000)
    change = {"time": _text(start), "watts": cut_watts, "limitedBy": team, "entry": "event/grid-1"}
    assert status["nextChange"] == change
    stage.eventually("down in time", lambda: stage.watts(team) <= cut_watts * 0.95)
    assert datetime.now(UTC) < start

    # 2. During: not a look above it, and a new leader knows it from the clock.
    def kept() -> bool:
        return stage.watts(team) <= cut_watts * 0.95 and _status(stage, team)["state"] != "OverCap"

    def in_force() -> bool:
        status = _status(stage, team)
        return (status.get("effectiveEntry"), status["effectiveWatts"]) == ("event/grid-1", cut_watts)

    while datetime.now(UTC) < start + timedelta(seconds=4):
        assert kept(), (stage.watts(team), cut_watts, _status(stage, team), stage.operator.tail())
    stage.eventually("in force", in_force, 10)
    assert _status(stage, team)["activeEntries"] == ["event/grid-1"]
    assert "plannedWatts" not in _status(stage, team)
    stage.restart()
    stage.stays("kept", lambda: kept() and in_force() and _is_dimmed(stage, team), 6)

    # 3. Its end is edited: at once, through the gate.
    stage.patch("pcap", team, {"events": [{**event, "end": _text(datetime.now(UTC))}]})
    stage.eventually("back", lambda: stage.watts(team) > before * 0.95 and not _is_dimmed(stage, team), 180)
    status = _status(stage, team)
    assert status["effectiveWatts"] == 9000
    assert not {"effectiveEntry", "nextChange", "activeEntries"} & status.keys()

    # 4. Each turn is said once.
    assert stage.eventually("all said", lambda: _said(stage, team)[2:] and _said(stage, team)) == [
        "CutAhead",
        "CutBegan",
        "CutEnded",
    ]


def test_an_entry_that_means_nothing_is_said_and_the_cap_holds(stage: Stage, namespace: str) -> None:
    broken = {"name": "evening", "cron": "0 17 * * *", "timeZone": "Europe/Rom", "durationMinutes": 60, "percent": 50}
    start = datetime.now(UTC) - timedelta(minutes=1)
    running = {"name": "grid-1", "start": _text(start), "end": _text(start + timedelta(hours=1)), "watts": 700}
    with stage.caps(power_cap(namespace, 900, namespaces=[namespace], schedule=[broken], events=[running])):
        row = stage.says(lambda: stage.own("powercaps", namespace), "Ready", "False", "CapScheduleInvalid")
        assert 'spec.schedule[0].timeZone: "Europe/Rom" is no time zone (did you mean Europe/Rome?)' in row["message"]
        assert "stay in force" in stage.warned("CapScheduleInvalid", namespace)
        status = _status(stage, namespace)
        assert (status["effectiveWatts"], status["effectiveEntry"]) == (700, "event/grid-1")
        stage.patch("pcap", namespace, {"schedule": [{**broken, "timeZone": "Europe/Rome"}]})
        stage.says(lambda: stage.own("powercaps", namespace), "Ready", "True", "InForce")
