"""What a user reads: decisions in words, conditions, and figures that move only when something moved."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from lowbeam.api.v1alpha1 import Reasoning, reasons
from lowbeam.api.v1alpha1.workloadstatus import DimmedBy
from lowbeam.kube import Forbidden
from lowbeam.kube.errors import Invalid, KubeError, Request, ServerUnavailable
from lowbeam.planning import Alternative, Choice
from lowbeam.planning.committed import Target
from lowbeam.planning.words import option_text
from lowbeam.power.gate import DWELL, Hold
from lowbeam.runtime.condition_rows import as_conditions
from lowbeam.runtime.decisions import decision_of, dimming_of
from lowbeam.runtime.fleet import Decision, Dimming, Fleet, WorkloadMemory
from lowbeam.runtime.status_workload import WorkloadFacts, decimal_text, steady_watts, workload_status
from lowbeam.sizing import Option, Refusal
from lowbeam.sizing.wishes import Advice
from tests.builders import option

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)


# ---- conditions


def test_a_transition_time_changes_only_with_the_status() -> None:
    first = as_conditions([], [("Ready", False, "A", "a")], 1, NOW)
    same = as_conditions(first, [("Ready", False, "B", "b")], 2, LATER)
    other = as_conditions(same, [("Ready", True, "B", "b")], 2, LATER)
    assert same[0]["lastTransitionTime"] == first[0]["lastTransitionTime"]
    assert (same[0]["reason"], same[0]["observedGeneration"]) == ("B", 2)
    assert other[0]["lastTransitionTime"] != first[0]["lastTransitionTime"]
    assert as_conditions(other, [("Ready", True, "B", "b")], 2, LATER + timedelta(hours=1)) == other


def test_conditions_that_are_not_said_any_more_go_away_and_long_messages_are_cut() -> None:
    first = as_conditions([], [("Ready", True, "A", ""), ("Dimmed", None, "B", "x" * 99_999)], 1, NOW)
    assert [c["status"] for c in first] == ["Unknown", "True"]
    assert first[0]["message"].endswith("…")
    assert [c["type"] for c in as_conditions(first, [("Ready", True, "A", "")], 1, NOW)] == ["Ready"]


# ---- decisions


def decide(before: Option | None, after: Option | None, **told: Any) -> Decision:
    told = {"desired": before, "cap": "", "was_dimmed": False, "first": False, **told}
    return decision_of(before, after, now=NOW, decision_id="d-1", **told)


BIG, SMALL = option(watts=300, batch=64, replicas=3), option(watts=100, batch=8, replicas=1)


@pytest.mark.parametrize(
    ("before", "after", "told", "action", "words"),
    [
        (None, BIG, {"first": True}, reasons.SELECTED, "3 replicas"),
        (None, SMALL, {"first": True, "cap": "c"}, reasons.DIMMED, 'because of "c"'),
        (BIG, SMALL, {"cap": "c"}, reasons.DIMMED, '"c": batch 64 -> 8, 3 -> 1 replicas, 200 W freed'),
        (SMALL, BIG, {"was_dimmed": True, "desired": BIG}, reasons.RESTORED, "1 -> 3 replicas"),
        (SMALL, BIG, {"was_dimmed": True, "desired": option("x")}, reasons.RESTORED, "not yet all"),
        (BIG, replace(BIG, batch_limit=8), {}, reasons.RECONFIGURED, "batch 64 -> 8"),
        (BIG, replace(BIG, board_limit_watts=490), {}, reasons.RECONFIGURED, "power limit none -> 490 W a board"),
        (BIG, replace(BIG, replicas=4), {}, reasons.SCALED, "3 -> 4 replicas"),
        (BIG, option("other"), {}, reasons.REPLACED, "m bf16 on gpu -> other"),
        (
            SMALL,
            replace(SMALL, pool="row-a"),
            {"was_dimmed": True, "desired": BIG, "cap": "c"},
            reasons.REPLACED,
            "as before, in pool row-a instead of pool",
        ),
        (BIG, None, {"cap": "c"}, reasons.PAUSED, '"c" leaves no watts: paused, 300 W freed'),
    ],
)
def test_a_change_is_named_after_what_it_does(
    before: Option | None, after: Option | None, told: dict[str, Any], action: str, words: str
) -> None:
    decision = decide(before, after, **told)
    assert decision.action == action
    assert words in decision.message


def test_dimming_is_the_distance_to_what_would_run_without_the_cap() -> None:
    decision = decide(BIG, SMALL, cap="c")
    dimming = dimming_of(SMALL, BIG, "c", None, decision)
    assert dimming is not None
    assert (dimming.power_cap, dimming.milliwatts_freed, dimming.since) == ("c", 200_000, NOW)
    deeper = dimming_of(None, BIG, "c", dimming, replace(decision, time=LATER))
    assert deeper is not None
    assert (deeper.lever, deeper.since, deeper.milliwatts_freed) == ("Pause", NOW, 300_000)
    assert dimming_of(BIG, BIG, "c", dimming, decision) is None
    assert dimming_of(SMALL, BIG, "", dimming, decision) is None


FEWER = {"replicas": 1, "capacity_millirps": 1}


@pytest.mark.parametrize(
    ("after", "lever"),
    [
        ({"batch_limit": 8}, "Batch"),
        ({"board_limit_watts": 490}, "PowerLimit"),
        ({"batch_limit": 8, "board_limit_watts": 490}, "PowerLimit"),
        (FEWER, "Replicas"),
        (FEWER | {"pool": "row-a"}, "Placement"),
        (FEWER | {"accelerator_class": "small-gpu"}, "Placement"),
        ({"reasoning": Reasoning.HIGH}, "Reasoning"),
        ({"precision": "int8", "pool": "row-a"}, "Precision"),
        ({"model": "other"}, "Model"),
    ],
)
def test_dimming_is_named_after_what_was_turned_down(after: dict[str, Any], lever: str) -> None:
    dimming = dimming_of(replace(BIG, **after), BIG, "c", None, decide(BIG, SMALL, cap="c"))
    assert dimming is not None
    assert dimming.lever == lever
    assert dimming.lever in set(DimmedBy)


def test_another_batch_limit_is_one_even_where_an_engine_starts_anew_for_it() -> None:
    before = replace(BIG, engine="VLLM")
    for after, lever in (({"batch_limit": 8}, "Batch"), ({"batch_limit": 8, "replicas": 1}, "Replicas")):
        dimming = dimming_of(replace(before, **after), before, "c", None, decide(BIG, SMALL, cap="c"))
        assert dimming is not None
        assert dimming.lever == lever


# ---- a workload's status

FACTS = WorkloadFacts(
    generation=3,
    advise=False,
    refusal=None,
    unreadable="",
    pods=3,
    ready=3,
    trouble="",
    selector="a=b",
    measured_milliwatts=250_000,
    committed_milliwatts=300_000,
    telemetry_problem="",
    stars=3,
)
CHOICE = Choice("team", "w", BIG, reasons.SELECTED, "chosen", desired=BIG)


def status(facts: WorkloadFacts = FACTS, previous: dict[str, Any] | None = None, **memory: Any) -> dict[str, Any]:
    kept = WorkloadMemory(**{"target": Target(BIG), "choice": CHOICE, **memory})
    return workload_status(facts, kept, previous or {}, NOW)


def rows(found: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {c["type"]: (c["status"], c["reason"]) for c in found["conditions"]}


def message(found: dict[str, Any], type_: str) -> str:
    text: str = next(c["message"] for c in found["conditions"] if c["type"] == type_)
    return text


def test_a_sentence_that_is_too_long_for_its_field_shows_that_it_was_cut() -> None:
    lost = Alternative(SMALL, reasons.MORE_ENERGY, "long " * 200)
    saves = Advice("spec.latency", "long " * 200, reasons.TOO_SLOW, SMALL)
    said = Decision(NOW, "d-1", reasons.SCALED, "long " * 200)
    choice = replace(CHOICE, alternatives=(lost,), recommendations=(saves,), explained=True)
    found = status(choice=choice, history=(said,))
    texts = [found["alternatives"][0]["message"], found["recommendations"][0], found["history"][0]["message"]]
    assert [(len(text), text[-1]) for text in texts] == [(512, "…")] * 3


def test_what_a_workload_does_not_get_is_told_beside_what_it_runs() -> None:
    short = replace(CHOICE, shortage="serves 2 of 30 req/s: add nodes")
    assert message(status(choice=short), "ModelSelected") == f"{option_text(BIG)}; serves 2 of 30 req/s: add nodes"
    held_back = replace(short, option=SMALL)  # not what runs: the gate holds it
    assert message(status(choice=held_back), "ModelSelected") == option_text(BIG)


def test_a_healthy_workload_is_ready_measured_and_not_dimmed() -> None:
    found = rows(status())
    assert found["Ready"] == ("True", reasons.ALL_REPLICAS_READY)
    assert (found["Reconciling"][0], found["Stalled"][0], found["Dimmed"][0]) == ("False", "False", "False")
    assert found["EnergyMeasured"] == ("True", reasons.MEASURED)
    assert status()["energy"]["stars"] == "***"


def test_an_edited_spec_is_answered_only_when_it_was_planned_or_cannot_be() -> None:
    def told(facts: WorkloadFacts = FACTS, planned: int | None = 2) -> set[int]:
        found = status(facts, planned_generation=planned)
        return {found["observedGeneration"], *(row["observedGeneration"] for row in found["conditions"])}

    assert told() == {2}
    assert told(planned=None) == told(planned=3) == {3}
    assert told(replace(FACTS, unreadable="may not list caps")) == {3}
    assert told(replace(FACTS, refusal=Refusal(reasons.UNKNOWN_TASK, "spec.task", "no such task."))) == {3}


def test_a_newly_planned_spec_is_under_way_until_its_pods_were_looked_at() -> None:
    memory = WorkloadMemory(target=Target(BIG), choice=CHOICE, planned_generation=3)
    memory.planned(3)
    assert rows(workload_status(FACTS, memory, {}, NOW))["Reconciling"][0] == "False"
    memory.planned(4)
    assert rows(workload_status(FACTS, memory, {}, NOW))["Reconciling"][0] == "True"


def test_the_official_stars_stand_beside_and_an_unrated_workload_says_so() -> None:
    assert "officialStars" not in status()["energy"]
    found = status(replace(FACTS, stars=None, official_stars=1))["energy"]
    assert (found["stars"], found["officialStars"]) == ("Unrated", "*")


def test_the_same_facts_write_nothing_and_noise_moves_no_watts() -> None:
    first = status()
    noisy = replace(FACTS, measured_milliwatts=253_000, committed_milliwatts=301_000)
    assert workload_status(noisy, WorkloadMemory(target=Target(BIG), choice=CHOICE), first, LATER) == first
    assert status(replace(FACTS, measured_milliwatts=280_000), first)["energy"]["measuredWatts"] == 280


def test_missing_replicas_quote_the_pod() -> None:
    found = status(replace(FACTS, ready=1, trouble="pod p not scheduled: 0/3 nodes"))
    assert rows(found)["Ready"] == ("False", reasons.REPLICAS_NOT_READY)
    assert rows(found)["Stalled"] == ("True", reasons.REPLICAS_NOT_READY)
    assert "0/3 nodes" in message(found, "Ready")


def test_unknown_watts_are_not_zero() -> None:
    found = status(replace(FACTS, measured_milliwatts=None, telemetry_problem="no answer"))
    assert "measuredWatts" not in found["energy"]
    assert rows(found)["EnergyMeasured"] == ("False", reasons.NOT_MEASURED)


def test_a_refused_spec_stalls_and_says_that_the_old_pods_stay() -> None:
    found = status(replace(FACTS, refusal=Refusal(reasons.UNKNOWN_TASK, "spec.task", "no such task.")))
    assert rows(found)["Stalled"] == ("True", reasons.UNKNOWN_TASK)
    assert "3 pods of before stay" in message(found, "Ready")


def test_an_impossible_spec_of_a_running_workload_is_said_beside_its_pods() -> None:
    nothing = Choice("team", "w", None, reasons.NO_MODEL_MEETS_FLOOR, "too high.")
    assert rows(status(choice=nothing))["Stalled"] == ("True", reasons.NO_MODEL_MEETS_FLOOR)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Forbidden(Request("patch", "deployments"), "no", 403), reasons.PERMISSION_DENIED),
        (Invalid(Request("patch", "deployments"), "quota"), reasons.WRITE_REFUSED),
    ],
)
def test_a_refused_write_stalls_with_what_to_do_and_ready_still_means_that_pods_answer(
    error: KubeError, reason: str
) -> None:
    found = status(write_error=error)
    assert rows(found)["Stalled"] == ("True", reason)
    assert rows(found)["Ready"][0] == "True"
    assert "deployments" in message(found, "Stalled")
    assert rows(status(replace(FACTS, ready=0), write_error=error))["Ready"] == ("False", reason)


def test_an_api_server_that_is_away_is_nobody_s_mistake() -> None:
    error = ServerUnavailable(Request("patch", "deployments"), "gone")
    assert rows(status(write_error=error))["Stalled"][0] == "False"


def test_a_kind_that_cannot_be_read_is_said_before_the_first_plan_too() -> None:
    found = status(replace(FACTS, unreadable='add verb "watch" on "powercaps"'), target=None, choice=None)
    assert rows(found)["Ready"] == ("False", reasons.PERMISSION_DENIED)
    assert "powercaps" in message(found, "Stalled")


HELD = Hold(DWELL, 'PowerCap "c" shed less than 130 s ago', 99)
PAUSED: dict[str, Any] = {
    "target": Target(None, dimmed_by="c"),
    "dimming": Dimming("Pause", NOW, reasons.PAUSED, "c", "d-1", 300_000, 0),
}


@pytest.mark.parametrize("held", [HELD, None], ids=["held by the gate", "paused after the last plan"])
def test_a_paused_workload_that_may_come_back_waits_and_is_not_stalled(held: Hold | None) -> None:
    found = status(replace(FACTS, pods=0, ready=0, asked_again=NOW + timedelta(seconds=90)), **PAUSED, held=held)
    assert rows(found)["Ready"] == ("False", reasons.PAUSED)
    assert (rows(found)["Reconciling"][0], rows(found)["Stalled"][0]) == ("True", "False")
    assert rows(found)["ModelSelected"] == ("True", reasons.SELECTED)
    assert rows(found)["CapUnsatisfiable"] == ("False", reasons.SATISFIABLE)
    assert rows(found)["Dimmed"] == ("True", reasons.PAUSED)
    assert message(found, "Ready").startswith('PowerCap "c" paused it')
    if held is not None:
        assert f"{HELD.message} (asked again by 09:02 UTC)" in message(found, "Ready")
        assert f"{HELD.message} (asked again by 09:02 UTC)" in message(found, "Dimmed")


def test_what_a_cap_leaves_nothing_for_is_stalled_until_somebody_raises_it() -> None:
    nothing = Choice("team", "w", None, reasons.PAUSED, '"c" is too small', desired=BIG, binding_cap="c")
    found = rows(status(replace(FACTS, pods=0, ready=0), **PAUSED, choice=nothing))
    assert found["Ready"] == ("False", reasons.PAUSED)
    assert (found["Reconciling"][0], found["Stalled"][0], found["CapUnsatisfiable"][0]) == ("False", "True", "True")


def test_a_new_workload_that_waits_for_watts_says_the_ledger_s_words() -> None:
    held = Hold(reasons.NO_HEADROOM, 'PowerCap "c" has 5 W free', 99)
    found = status(replace(FACTS, pods=0, ready=0), target=Target(), held=held)
    assert rows(found)["Ready"] == ("False", reasons.NO_HEADROOM)
    assert (rows(found)["Reconciling"][0], rows(found)["Stalled"][0]) == ("True", "False")
    assert rows(found)["Dimmed"] == ("False", reasons.NOT_DIMMED)
    assert 'PowerCap "c" has 5 W free (asked again every few seconds)' in message(found, "Ready")


def test_growth_that_waits_is_told_although_all_replicas_are_ready() -> None:
    held = Hold("GrowthFrozen", 'PowerCap "c" is shedding', 99)
    found = status(FACTS, target=Target(SMALL), held=held)
    assert rows(found)["Ready"] == ("True", reasons.ALL_REPLICAS_READY)
    assert rows(found)["Reconciling"] == ("True", reasons.GROWTH_FROZEN)
    assert held.message in message(found, "Reconciling")
    dimmed = Dimming("Batch", NOW, reasons.DIMMED, "c", "d-1", 50_000, 0)
    found = status(FACTS, target=Target(SMALL, dimmed_by="c"), held=held, dimming=dimmed)
    assert rows(found)["Reconciling"][0] == "False", "Dimmed tells it"


def test_a_workload_that_is_not_as_planned_says_what_holds_the_plan() -> None:
    told = message(status(held=HELD, waiting_for="a move to the pool that its nodes are in now"), "Reconciling")
    assert f"waiting for a move to the pool that its nodes are in now; what was planned waits: {HELD.message}" in told


def test_a_refused_write_stalls_a_paused_workload_too() -> None:
    error = Forbidden(Request("delete", "deployments"), "no", 403)
    found = rows(status(replace(FACTS, ready=0), **PAUSED, held=HELD, write_error=error))
    assert found["Stalled"] == ("True", reasons.PERMISSION_DENIED)
    assert (found["Reconciling"][0], found["ModelSelected"][0]) == ("False", "True")


def test_a_new_leader_says_of_a_paused_workload_that_it_is_not_planned_yet() -> None:
    found = rows(status(replace(FACTS, pods=0, ready=0), **PAUSED, choice=None))
    assert found["Ready"] == ("False", reasons.PAUSED)
    assert (found["Stalled"][0], found["ModelSelected"]) == ("False", ("Unknown", reasons.PENDING))


def test_waiting_writes_nothing_while_only_time_goes_by() -> None:
    facts = replace(FACTS, pods=0, ready=0, asked_again=NOW + timedelta(seconds=90))
    first = status(facts, **PAUSED, held=HELD)
    later = replace(facts, asked_again=NOW + timedelta(seconds=119))
    assert workload_status(later, WorkloadMemory(**PAUSED, choice=CHOICE, held=HELD), first, LATER) == first


def test_a_dimmed_workload_says_why_it_is_not_back() -> None:
    dimming = Dimming("Replicas", NOW, reasons.DIMMED, "c", "d-1", 200_000, 150)
    found = status(target=Target(SMALL, dimmed_by="c"), dimming=dimming, held=HELD)
    assert rows(found)["Dimmed"] == ("True", reasons.DIMMED)
    assert message(found, "Dimmed").endswith(f"not back yet: {HELD.message} (asked again every few seconds)")
    assert (found["dimming"]["wattsFreed"], found["dimming"]["qualityLost"]) == (200, "1.50")


def test_advice_changes_nothing_and_shows_what_would_be_chosen() -> None:
    found = status(replace(FACTS, advise=True), target=None)
    assert rows(found)["Ready"] == ("Unknown", reasons.ADVISED)
    assert found["selected"]["replicas"] == 3


@pytest.mark.parametrize(("value", "text"), [(28_412, "28.4"), (180, "0.18"), (12, "0.012"), (2_179_000, "2179")])
def test_decimals_have_about_three_digits(value: int, text: str) -> None:
    assert decimal_text(value, 1000) == text


def test_watts_stay_while_they_differ_by_noise_only() -> None:
    assert [steady_watts(w * 1000, 1000) for w in (1000, 1029, 1031, 970, 969)] == [1000, 1000, 1031, 1000, 969]
    assert steady_watts(7_400, None) == 7


def test_what_lost_and_what_would_save_are_told_with_figures() -> None:
    frugal = replace(option("small", watts=100, replicas=1), quality_centi=8000)
    choice = replace(
        CHOICE,
        alternatives=(Alternative(frugal, reasons.BELOW_FLOOR, "bench 80 < 90 (floor); it would save 60 %"),),
        recommendations=(
            Advice("spec.quality.floor", "spec.quality.floor 90 -> 80", reasons.BELOW_FLOOR, frugal, saved_percent=60),
        ),
    )
    found = status(replace(FACTS, notes=("the opt-in ended",)), choice=choice)
    (lost,) = found["alternatives"]
    assert (lost["model"], lost["reason"], lost["quality"]) == ("small", "BelowFloor", "80.0")
    assert found["recommendations"] == [
        "the opt-in ended",
        "spec.quality.floor 90 -> 80: 1 J per request (-60 %) with small bf16",
    ]


def test_decision_ids_sort_by_time_and_never_repeat() -> None:
    fleet = Fleet()
    ids = [fleet.decision_id(NOW), fleet.decision_id(NOW), fleet.decision_id(LATER)]
    assert len(set(ids)) == 3
    assert ids[0] < ids[2]
