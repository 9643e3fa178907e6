"""What a cap's status says: how it stands, in one word and in conditions that agree with it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from lowbeam.api.v1alpha1 import CapState, reasons
from lowbeam.api.v1alpha1.powercap import PowerCapStatus
from lowbeam.power.caps import Cap
from lowbeam.power.guard import assess
from lowbeam.power.ledger import Measured
from lowbeam.power.outlook import Change
from lowbeam.power.schedule import Active
from lowbeam.power.windows import PowerWindow
from lowbeam.runtime.cap_counts import Counted
from lowbeam.runtime.clock import timestamp
from lowbeam.runtime.fleet import Decision
from lowbeam.runtime.recovery import last_action
from lowbeam.runtime.status_cap import NO_ENTRY, CapFacts, cap_status, cuts_told

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)


def rows(found: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {c["type"]: (c["status"], c["reason"]) for c in found["conditions"]}


CAP = CapFacts(
    generation=1,
    enforced=True,
    counted=Counted(accelerators=8),
    problem_reason="",
    problem="",
    effective_watts=1000,
    limited_by="c",
    usable_milliwatts=950_000,
    measured_milliwatts=500_000,
    committed_milliwatts=600_000,
    coverage_percent=100,
    metered=True,
    state="WithinCap",
    state_message="",
    unsatisfiable="",
    price_per_watt=0.0,
    last_action=None,
)


@pytest.mark.parametrize(
    ("facts", "type_", "row"),
    [
        (CAP, "Ready", ("True", reasons.IN_FORCE)),
        (replace(CAP, enforced=False), "Ready", ("True", reasons.OBSERVING)),
        (replace(CAP, problem_reason=reasons.CAP_CYCLE, problem="p"), "Stalled", ("True", reasons.CAP_CYCLE)),
        (replace(CAP, state="OverCap", measured_milliwatts=960_000), "WithinCap", ("False", reasons.OVER_CAP)),
        (replace(CAP, state="OverCap", measured_milliwatts=960_000), "Reconciling", ("True", reasons.OVER_CAP)),
        (replace(CAP, state="Infeasible", measured_milliwatts=960_000), "WithinCap", ("False", reasons.OVER_CAP)),
        (replace(CAP, state="Shedding", measured_milliwatts=930_000), "WithinCap", ("True", reasons.WITHIN_CAP)),
        (replace(CAP, committed_milliwatts=960_000), "WithinCap", ("True", reasons.WITHIN_CAP)),
        (replace(CAP, committed_milliwatts=960_000), "Reconciling", ("True", reasons.NO_HEADROOM)),
        (replace(CAP, state="Shedding"), "Shedding", ("True", reasons.SHEDDING)),
        (replace(CAP, coverage_percent=50), "TelemetryHealthy", ("False", reasons.TELEMETRY_STALE)),
        (replace(CAP, coverage_percent=0, metered=False), "TelemetryHealthy", ("True", reasons.TELEMETRY_HEALTHY)),
        (replace(CAP, unsatisfiable="u"), "Satisfiable", ("False", reasons.CAP_BELOW_MINIMUM)),
    ],
)
def test_a_cap_says_how_it_stands(facts: CapFacts, type_: str, row: tuple[str, str]) -> None:
    assert rows(cap_status(facts, {}, NOW))[type_] == row


def test_a_cap_that_counts_nothing_is_in_force_and_says_why_it_counts_nothing() -> None:
    nothing = cap_status(replace(CAP, counted=Counted(accelerators=0, nothing="no node carries rack=7")), {}, NOW)
    ready = next(c for c in nothing["conditions"] if c["type"] == "Ready")
    assert (ready["status"], ready["reason"], ready["message"]) == ("True", "InForce", "no node carries rack=7")
    assert nothing["accelerators"] == 0
    assert "namespaces" not in nothing
    assert cap_status(replace(CAP, counted=Counted(namespaces=2)), {}, NOW)["namespaces"] == 2


@pytest.mark.parametrize(("committed", "shedding"), [(600_000, "False"), (855_000, "False"), (855_001, "True")])
def test_a_blind_cap_sheds_only_while_more_is_committed_than_it_may(committed: int, shedding: str) -> None:
    found = cap_status(replace(CAP, state="Blind", coverage_percent=0, committed_milliwatts=committed), {}, NOW)
    assert rows(found)["Shedding"][0] == shedding
    assert rows(found)["TelemetryHealthy"] == ("False", reasons.TELEMETRY_STALE)
    assert found["state"] == "Blind"


@pytest.mark.parametrize("measured", [949_000, 950_000, 951_000, 1_200_000])
@pytest.mark.parametrize("heard", [100, 40])
def test_state_and_condition_never_contradict_each_other(measured: int, heard: int) -> None:
    cap = Cap("c", "1", "", 1000, 0, 0, (), enforce=True, pause_lowest=False)
    told = assess(
        cap,
        950_000,
        committed_milliwatts=900_000,
        measured=Measured(measured, heard, fresh=heard, stale=100 - heard),
        window=PowerWindow().append(1_000, measured),
        now_ms=1_000,
    )
    facts = replace(CAP, state=told.state, state_message=told.message, measured_milliwatts=measured)
    found = rows(cap_status(facts, {}, NOW))["WithinCap"][0]
    assert found == ("True" if measured <= 950_000 else "False")
    assert (told.state in (CapState.WITHIN_CAP, CapState.RESTORING)) == (found == "True")


def test_a_cap_remembers_its_last_action_over_a_restart() -> None:
    action = Decision(NOW, "d-9", reasons.DIMMED, "team/low: batch 64 -> 8")
    written = cap_status(replace(CAP, last_action=action), {}, NOW)
    read = last_action(written)
    assert read is not None
    assert (read.time, read.decision_id, read.message) == (action.time, action.decision_id, action.message)
    assert cap_status(replace(CAP, last_action=read), written, LATER) == written
    assert last_action({}) is None


EVENING = Active("schedule/evening", 900, NOW + timedelta(hours=3))
IN_FORCE = replace(NO_ENTRY, watts=900, entry="schedule/evening", planned_watts=900, active=(EVENING,))
AHEAD = replace(NO_ENTRY, watts=1000, planned_watts=900, planned_entry="schedule/evening", planned_for=NOW)


def test_a_status_tells_which_entry_counts_and_what_comes_next_and_nothing_where_there_is_none() -> None:
    change = Change(NOW + timedelta(hours=3), 800, "row", "event/grid-1")
    told = cap_status(
        replace(CAP, effective_watts=900, effective_entry="schedule/evening", next_change=change, limit=IN_FORCE),
        {},
        NOW,
    )
    assert told["effectiveEntry"] == "schedule/evening"
    assert told["activeEntries"] == ["schedule/evening"]
    assert told["nextChange"] == {
        "time": timestamp(change.at),
        "watts": 800,
        "limitedBy": "row",
        "entry": "event/grid-1",
    }
    assert not {"effectiveEntry", "activeEntries", "nextChange", "plannedWatts"} & cap_status(CAP, {}, NOW).keys()
    assert cap_status(replace(CAP, planned_watts=900, limit=AHEAD), {}, NOW)["plannedWatts"] == 900
    PowerCapStatus.model_validate(told)


def test_each_turn_of_a_cut_is_told_once() -> None:
    status: dict[str, Any] = {}
    for facts, reason in (
        (CAP, None),
        (replace(CAP, planned_watts=900, limit=AHEAD), reasons.CUT_AHEAD),
        (replace(CAP, planned_watts=900, effective_watts=900, limit=IN_FORCE), reasons.CUT_BEGAN),
        (CAP, reasons.CUT_ENDED),
    ):
        assert [word for word, _ in cuts_told(facts, status)] == ([reason] if reason else [])
        status = cap_status(facts, status, NOW)
        assert cuts_told(facts, status) == []


def test_entries_that_change_nothing_are_said_beside_a_cap_that_is_in_force() -> None:
    row = rows(cap_status(replace(CAP, note="schedule/night changes nothing"), {}, NOW))["Ready"]
    assert row[0] == "True"
    (ready,) = [c for c in cap_status(replace(CAP, note="odd"), {}, NOW)["conditions"] if c["type"] == "Ready"]
    assert ready["message"] == "odd"
