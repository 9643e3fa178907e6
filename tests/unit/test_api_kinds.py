"""The kinds: defaults, bounds and rules of the models, and what is lost or kept when objects are read and written."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from lowbeam.api.crdgen import structural_schema
from lowbeam.api.v1alpha1 import KINDS, Feature, InferenceWorkload, KubeObject, ObjectMeta, PowerCap
from lowbeam.api.v1alpha1.inferenceworkload import Latency
from lowbeam.api.v1alpha1.loading import read_user_object
from lowbeam.api.v1alpha1.workloadstatus import Decision
from lowbeam.api.wire import ProfileChange
from rule_cases import RuleCase
from schema_cases import BoundCase, bound_cases, fields_in_schema, fields_in_value, rules_of
from schema_rules import RULE_CASES
from schema_samples import SAMPLES, object_of

SMALLEST = {"task": "text-classification", "load": {"requestsPerMinute": 1200, "inputTokens": 300, "outputTokens": 1}}


def workload(**spec: Any) -> InferenceWorkload:
    return InferenceWorkload.model_validate(object_of("InferenceWorkload", {**SMALLEST, **spec}))


def by_name(kind: type[KubeObject]) -> str:
    return kind.resource.kind


@pytest.mark.parametrize("kind", KINDS, ids=by_name)
def test_the_samples_set_every_field_so_that_every_bound_is_tried(kind: type[KubeObject]) -> None:
    known = set(fields_in_schema(structural_schema(kind)["properties"]["spec"]))
    tried = {field for sample in SAMPLES[kind.resource.kind] for field in fields_in_value(sample)}
    assert known - tried == set()


@pytest.mark.parametrize("kind", KINDS, ids=by_name)
def test_every_rule_has_an_object_that_keeps_it_and_one_that_breaks_it(kind: type[KubeObject]) -> None:
    name = kind.resource.kind
    tried = [case.message for case in RULE_CASES if case.kind == name]
    assert [rule.message for rule in rules_of(name) if not any(rule.message.startswith(text) for text in tried)] == []


@pytest.mark.parametrize("case", bound_cases(), ids=str)
def test_the_model_draws_the_line_where_the_bound_is(case: BoundCase) -> None:
    rules = {rule.message for rule in rules_of(case.kind)}
    problems = read_user_object(case.object).problems
    at_bounds = [p for p in problems if p.message not in rules and not p.message.endswith("is given twice")]
    if case.accepted:
        assert at_bounds == []
    else:
        assert problems
        assert any(_reaches(problem.field, case.field) for problem in problems), problems


def _reaches(found: str, field: str) -> bool:
    return found.replace("[", ".").replace("]", "").startswith(field)


@pytest.mark.parametrize("case", RULE_CASES, ids=str)
def test_the_model_keeps_the_rules_and_names_the_field(case: RuleCase) -> None:
    assert read_user_object(object_of(case.kind, case.keeps)).problems == ()
    (problem,) = read_user_object(object_of(case.kind, case.breaks, case.name_that_breaks)).problems
    assert problem.message.startswith(case.message)
    assert problem.field == case.field


@pytest.mark.parametrize(("batch", "fits"), [(65_536, True), (65_537, False)])
def test_a_profile_has_no_batch_that_no_worker_can_be_told(batch: int, fits: bool) -> None:
    spec = SAMPLES["EnergyProfile"][0]
    points = [{**spec["points"][0], "batch": batch}]
    problems = read_user_object(object_of("EnergyProfile", {**spec, "points": points})).problems
    assert [problem.field for problem in problems] == ([] if fits else ["spec.points[0].batch"])
    if fits:
        assert ProfileChange(generation=1, batch_limit=batch)
    else:
        with pytest.raises(ValidationError):
            ProfileChange(generation=1, batch_limit=batch)


def test_three_lines_of_spec_are_a_complete_workload() -> None:
    spec = workload().spec
    assert (spec.priority, spec.reasoning.value, spec.scaling.min_replicas, spec.replicas) == (500, "Off", 1, None)
    assert spec.quality is None


def test_an_opt_in_holds_on_its_last_day_and_not_on_the_next() -> None:
    spec = workload(optIn=[{"feature": "HighReasoning", "reason": "exams", "until": "2027-03-31"}]).spec
    assert spec.opted_in(Feature.HIGH_REASONING, date(2027, 3, 31))
    assert not spec.opted_in(Feature.HIGH_REASONING, date(2027, 4, 1))
    assert not spec.opted_in(Feature.GENERATIVE_MODEL, date(2027, 3, 31))


def test_token_latencies_have_no_meaning_for_a_task_that_generates_no_text() -> None:
    latency = Latency(end_to_end_milliseconds=300, inter_token_milliseconds=20)
    assert latency.targets(generates_text=False) == Latency(end_to_end_milliseconds=300)
    generating = latency.targets(generates_text=True)
    assert (generating.time_to_first_token_milliseconds, generating.inter_token_milliseconds) == (1000, 20)


def test_a_cap_that_says_nothing_more_has_the_numbers_of_the_design() -> None:
    cap = PowerCap.model_validate(object_of("PowerCap", {"scope": {"cluster": {}}, "watts": 12000}))
    limits, back = cap.spec.thresholds, cap.spec.restore
    assert (limits.soft_shed_percent, limits.hard_shed_percent, limits.shed_target_percent) == (97, 100, 94)
    assert (back.gate_percent, back.dwell_seconds, back.ramp_percent_per_minute) == (88, 120, 5)
    assert [lever.value for lever in cap.spec.levers] == [
        "Batch",
        "PowerLimit",
        "Replicas",
        "Precision",
        "Model",
        "Pause",
    ]


def test_a_field_of_a_newer_release_is_ignored_from_the_cluster_and_refused_in_a_file() -> None:
    raw = object_of("InferenceWorkload", {**SMALLEST, "carbon": {"budget": 1}})
    raw["status"] = {"selected": {"model": "m", "precision": "bf16", "acceleratorClass": "l4", "batchLimit": 1}}
    raw["status"]["selected"] |= {"replicas": 1, "engine": "Native", "colour": "green"}
    read = InferenceWorkload.from_cluster(raw)
    assert read.status.selected is not None
    assert read.status.selected.model == "m"
    with pytest.raises(ValidationError):
        InferenceWorkload.model_validate(raw)


def test_metadata_we_do_not_use_is_no_error_in_a_file() -> None:
    raw = object_of("InferenceWorkload", SMALLEST)
    raw["metadata"] |= {"finalizers": ["a/b"], "managedFields": [{"manager": "kubectl"}], "uid": "u"}
    read = InferenceWorkload.model_validate(raw)
    assert read.metadata.uid == "u"
    assert read.key == "default/sample"


def test_writing_gives_camel_case_and_leaves_out_what_is_unknown() -> None:
    wire = workload(quality={"benchmark": "sst2", "floor": "90.0"}).to_wire()
    assert wire["metadata"] == {"name": "sample", "namespace": "default"}
    assert wire["spec"]["quality"] == {"benchmark": "sst2", "floor": "90.0", "belowFloor": "Never"}
    assert "energy" not in wire["status"]


@pytest.mark.parametrize("kind", KINDS, ids=by_name)
def test_reading_back_what_was_written_changes_nothing(kind: type[KubeObject]) -> None:
    for spec in SAMPLES[kind.resource.kind]:
        written = kind.model_validate(object_of(kind.resource.kind, spec))
        assert kind.from_cluster(written.to_wire()) == written


def test_times_are_cut_to_seconds_in_utc_as_the_api_server_does() -> None:
    meta = ObjectMeta(creation_timestamp=datetime(2026, 11, 21, 6, 0, 0, 999_999, tzinfo=UTC))
    assert meta.model_dump(mode="json", by_alias=True) == {"creationTimestamp": "2026-11-21T06:00:00Z"}
    with pytest.raises(ValidationError):
        ObjectMeta(creation_timestamp=datetime(2026, 11, 21, 6, 0, 0))


def test_an_over_long_message_of_ours_is_cut_instead_of_losing_the_status() -> None:
    decision = Decision(time=datetime(2026, 1, 1, tzinfo=UTC), decision_id="d", action="Dimmed", message="x" * 5000)
    assert len(decision.message) == 512
    assert decision.message.endswith("…")


def test_objects_cannot_be_changed_after_they_were_read() -> None:
    with pytest.raises(ValidationError):
        workload().spec.priority = 1  # type: ignore[misc]
