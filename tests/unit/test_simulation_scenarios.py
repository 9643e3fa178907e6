"""Whole scenarios on the virtual clock, and the file format around them."""

from __future__ import annotations

from pathlib import Path

import pytest

from lowbeam.api.v1alpha1 import WorkloadMode
from lowbeam.errors import BadInput
from lowbeam.simulation import format_report, load_scenario, run_scenario
from lowbeam.simulation.scenario import Event

SCENARIOS = Path(__file__).parent.parent / "scenarios"


@pytest.mark.parametrize("path", sorted(SCENARIOS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_scenario_keeps_its_expectations(path: Path) -> None:
    report = run_scenario(path)
    assert report.failures == (), format_report(report)
    assert max(len(line) for line in format_report(report).splitlines()) <= 80


def test_the_same_scenario_gives_the_same_report() -> None:
    path = SCENARIOS / "cap-deleted-while-shed.yaml"
    assert run_scenario(path) == run_scenario(path)


def test_lower_priority_is_dimmed_first_and_restored_last() -> None:
    report = run_scenario(SCENARIOS / "cap-cut-at-full-load.yaml")
    capped = [action for action in report.actions if action.cap]
    assert capped[0].workload == "research/drafts"
    assert [a for a in capped if a.direction == "Up"][-1].workload == "research/drafts"
    assert "support/assistant" not in report.dimmed_workloads


def test_an_expectation_that_does_not_hold_is_reported() -> None:
    scenario = load_scenario(SCENARIOS / "cap-cut-at-full-load.yaml")
    strict = scenario.expect.model_copy(update={"seconds_over_cap": 0, "undimmed": ("research/drafts",)})
    report = run_scenario(scenario.model_copy(update={"expect": strict, "seconds": 400}))
    assert any("over a cap for" in failure for failure in report.failures)
    assert any("research/drafts was dimmed" in failure for failure in report.failures)
    assert "FAILED" in format_report(report)


def test_a_restarted_operator_sheds_at_once_and_restores_nothing_for_its_first_minute() -> None:
    scenario = load_scenario(SCENARIOS / "cap-cut-at-full-load.yaml")
    cut, back = scenario.events
    restart = cut.model_copy(update={"at": 500, "cap": "", "percent": None, "restart_operator": True})
    events = (cut, restart, back.model_copy(update={"at": 505}))
    expect = scenario.expect.model_copy(update={"no_restore_between": (302, 560), "reversals_per_workload": None})
    update = {"events": events, "expect": expect}
    assert run_scenario(scenario.model_copy(update=update)).failures == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("seconds: 5", "seconds"),
        ("events: [{at: 1, cap: other, percent: 5}]", 'no cap "other"'),
        ("events: [{at: 1, workload: a/b, loadPercent: 5}]", 'no workload "a/b"'),
        ("events: [{at: 1, cap: cluster}]", "percent or delete"),
        ("events: [{at: 1}]", "exactly one"),
        ("events: [{at: 1, cap: cluster, percent: 5, loadPercent: 5}]", "loadPercent to a workload event"),
        ("events: [{at: 901, cap: cluster, percent: 5}]", "at 901: the scenario ends at 900"),
        ("seconds: 60", "first second that counts"),
        ("expect: {undimmed: [a/b]}", 'undimmed: there is no workload "a/b"'),
        ("inventory: [{class: h100, accelerators: 1, pool: a}]", 'no nodePool cap "a"'),
        ("inventory: [{class: h100, accelerators: 1}, {class: h100, accelerators: 8}]", "h100 is there twice"),
        ("caps: [{name: a, spec: {scope: {cluster: {}}, watts: 9, parent: b}}]", 'spec.parent: there is no cap "b"'),
        (
            "workloads: [{namespace: a, name: b, spec: {task: nope, load: {requestsPerMinute: 1, inputTokens: 1, "
            "outputTokens: 1}}}]",
            "workloads: a/b: spec.task: the catalogue",
        ),
        ("surprise: 1", "surprise"),
        ("inventory: [{class: h900, accelerators: 1}]", "h900"),
    ],
)
def test_a_wrong_file_says_what_is_wrong_and_where(tmp_path: Path, change: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        run_scenario(changed(tmp_path, change))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("seconds: soon", 'seconds: "soon" is not a whole number without quotes'),
        ("seconds: 5", "seconds: 5 is below the minimum of 10"),
        ("evnts: []", "evnts: is not a field here (did you mean events?)"),
        ("events: [{at: 1, percnt: 5}]", "events[0].percnt: is not a field here (did you mean percent?)"),
        ("events: [{at: 1}]", "events[0]: an event is exactly one of cap, workload, telemetry... and restartOperator"),
        ("inventory: [{accelerators: 1}]", "inventory[0].class: is required"),
        ("caps: [{name: a, spec: {scope: {}, watts: 9}}]", "caps[0].spec.scope: set exactly one of"),
        ("caps: 5", "caps: 5 is not a list (start each entry with a dash)"),
        ("inventory: [{class: H100, accelerators: 1}]", 'inventory: no accelerator class "H100"; did you mean h100?'),
        ("expect: {states: [Broken]}", 'expect.states[0]: "Broken" is not one of WithinCap'),
    ],
)
def test_a_scenario_is_refused_in_the_words_of_a_manifest(tmp_path: Path, change: str, told: str) -> None:
    file = changed(tmp_path, change)
    with pytest.raises(BadInput) as refused:
        run_scenario(file)
    assert f"{file}: {told}" in str(refused.value)


def test_a_workload_that_only_wants_advice_does_not_run_and_takes_nothing() -> None:
    scenario = load_scenario(SCENARIOS / "cap-cut-at-full-load.yaml").model_copy(update={"seconds": 300, "events": ()})
    *others, one = scenario.workloads
    spec = one.spec.model_copy(update={"mode": WorkloadMode.ADVISE})
    workloads = (*others, one.model_copy(update={"spec": spec}))
    report = run_scenario(scenario.model_copy(update={"workloads": workloads}))
    name = f"{one.namespace}/{one.name}"
    assert name not in {action.workload for action in report.actions}
    assert f"not run, as their spec.mode is Advise: {name}" in format_report(report)
    without = run_scenario(scenario.model_copy(update={"workloads": tuple(others)}))
    assert report.actions == without.actions


def changed(tmp_path: Path, change: str) -> Path:
    """A scenario with one of its fields written anew."""
    lines = (SCENARIOS / "cap-below-the-floors.yaml").read_text().splitlines()
    field = change.split(":", maxsplit=1)[0]
    kept, skipping = [], False
    for line in lines:
        if not line.startswith((" ", "-")):
            skipping = line.startswith(f"{field}:")
        if not skipping:
            kept.append(line)
    path = tmp_path / "wrong.yaml"
    path.write_text("\n".join([*kept, change]))
    return path


def test_a_missing_file_is_bad_input() -> None:
    with pytest.raises(BadInput, match=r"nowhere\.yaml"):
        run_scenario("nowhere.yaml")


def test_an_announced_cut_is_dimmed_for_in_time_by_an_operator_that_restarts_in_its_middle() -> None:
    scenario = load_scenario(SCENARIOS / "evening-peak.yaml")
    restart = Event(at=900, restart_operator=True)
    report = run_scenario(scenario.model_copy(update={"events": (restart,), "seconds": 2600}))
    assert report.failures == (), format_report(report)
    downs = [action.at_seconds for action in report.actions if action.direction == "Down" and action.cap]
    assert downs
    assert all(600 - 195 <= at < 600 for at in downs), "between the lead and the start"


def test_without_the_announcement_the_same_cut_is_exceeded_for_seconds() -> None:
    """What the expectation of no second over the cap is worth."""
    scenario = load_scenario(SCENARIOS / "evening-peak.yaml")
    (entry,) = scenario.caps
    bare = entry.model_copy(update={"spec": entry.spec.model_copy(update={"schedule": ()})})
    cut = Event(at=600, cap="cluster", percent=60)
    report = run_scenario(scenario.model_copy(update={"caps": (bare,), "events": (cut,), "seconds": 900}))
    assert any("over a cap for" in failure for failure in report.failures)


def test_an_entry_that_means_nothing_ends_a_scenario_before_it_begins(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text((SCENARIOS / "evening-peak.yaml").read_text().replace("Europe/Rome", "Europe/Rom"))
    with pytest.raises(BadInput, match=r"caps: cluster: spec\.schedule\[0\]\.timeZone: .*did you mean Europe/Rome"):
        run_scenario(path)
