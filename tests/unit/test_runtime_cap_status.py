"""What a cap's status says: how it stands, in one word and in conditions that agree with it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from lowbeam.api.v1alpha1 import reasons
from lowbeam.runtime.fleet import Decision
from lowbeam.runtime.recovery import last_action
from lowbeam.runtime.status_cap import CapFacts, cap_status

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)


def rows(found: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {c["type"]: (c["status"], c["reason"]) for c in found["conditions"]}


CAP = CapFacts(
    generation=1,
    enforced=True,
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
        (replace(CAP, measured_milliwatts=960_000), "WithinCap", ("False", reasons.OVER_CAP)),
        (replace(CAP, state="Shedding"), "Shedding", ("True", reasons.SHEDDING)),
        (replace(CAP, coverage_percent=50), "TelemetryHealthy", ("False", reasons.TELEMETRY_STALE)),
        (replace(CAP, coverage_percent=0, metered=False), "TelemetryHealthy", ("True", reasons.TELEMETRY_HEALTHY)),
        (replace(CAP, unsatisfiable="u"), "Satisfiable", ("False", reasons.CAP_BELOW_MINIMUM)),
    ],
)
def test_a_cap_says_how_it_stands(facts: CapFacts, type_: str, row: tuple[str, str]) -> None:
    assert rows(cap_status(facts, {}, NOW))[type_] == row


def test_a_cap_remembers_its_last_action_over_a_restart() -> None:
    action = Decision(NOW, "d-9", reasons.DIMMED, "team/low: batch 64 -> 8")
    written = cap_status(replace(CAP, last_action=action), {}, NOW)
    read = last_action(written)
    assert read is not None
    assert (read.time, read.decision_id, read.message) == (action.time, action.decision_id, action.message)
    assert cap_status(replace(CAP, last_action=read), written, LATER) == written
    assert last_action({}) is None
