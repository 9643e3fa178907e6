"""A spec becomes exact numbers, or a refusal that says which field to change."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Any

import pytest

from lowbeam.api.v1alpha1 import reasons
from lowbeam.api.v1alpha1.inferenceworkload import InferenceWorkloadSpec
from lowbeam.catalog.facts import Reasoning
from lowbeam.sizing import Demand, Refusal, Requirements, requirements_of
from tests.builders import TASK, catalogue_of, model

TODAY = date(2026, 6, 1)
CATALOGUE = catalogue_of(
    model("small").on("gpu"), model("writer").that(generative=True, tasks=("text-generation",)).on("gpu")
)


def read(today: date = TODAY, observed: Demand | None = None, **spec: Any) -> Requirements | Refusal:
    wanted = {"task": TASK, "load": {"requestsPerMinute": 600, "inputTokens": 300, "outputTokens": 50}} | spec
    parsed = InferenceWorkloadSpec.model_validate(wanted)
    return requirements_of("team", "triage", "uid", parsed, CATALOGUE, observed, today)


def needs(**spec: Any) -> Requirements:
    answer = read(**spec)
    assert isinstance(answer, Requirements), answer
    return answer


def test_a_misspelt_task_is_refused_with_the_nearest_names() -> None:
    answer = read(task="text-classificaton")
    assert isinstance(answer, Refusal)
    assert (answer.reason, answer.field) == (reasons.UNKNOWN_TASK, "spec.task")
    assert "did you mean: text-classification" in answer.message


@pytest.mark.parametrize(
    ("spec", "field"),
    [({"pinned": "smal"}, "spec.model.pinned"), ({"names": ["small", "huge"]}, "spec.model.names")],
)
def test_a_model_that_the_catalogue_lacks_is_refused_at_its_field(spec: dict[str, Any], field: str) -> None:
    answer = read(model=spec)
    assert isinstance(answer, Refusal)
    assert (answer.reason, answer.field) == (reasons.MODEL_NOT_IN_CATALOGUE, field)
    assert "ModelCard" in answer.message


@pytest.mark.parametrize(("given", "said"), [("GPU", "did you mean: gpu"), ("zzz", "known: gpu")])
def test_an_accelerator_class_that_the_catalogue_lacks_is_refused_with_the_nearest_names(given: str, said: str) -> None:
    answer = read(placement={"acceleratorClasses": ["gpu", given]})
    assert isinstance(answer, Refusal)
    assert (answer.reason, answer.field) == (reasons.CLASS_NOT_IN_CATALOGUE, "spec.placement.acceleratorClasses")
    assert f'no class "{given}" in the catalogue; {said}' in answer.message
    assert "AcceleratorClass" in answer.message


def test_requests_per_minute_become_thousandths_per_second_rounded_up() -> None:
    load = {"requestsPerMinute": 100, "inputTokens": 1, "outputTokens": 1}
    assert needs(load=load).demand.requests_per_second_milli == 1667


def test_a_task_that_writes_nothing_answers_with_one_token() -> None:
    assert needs().demand.output_tokens == 1
    assert needs(task="text-generation").demand.output_tokens == 50


def test_trusted_observation_replaces_the_declared_load() -> None:
    seen = Demand(7, 8, 9, "Observed")
    assert needs(observed=seen).demand is seen


def test_left_out_wishes_come_from_the_task() -> None:
    found = needs()
    assert (found.benchmark, found.floor_centi, found.end_to_end_ms) == ("bench", 0, 500)
    assert found.reasoning is Reasoning.OFF
    assert found.priority == 500


def test_targets_per_token_do_not_apply_to_a_task_that_writes_nothing() -> None:
    assert needs(latency={"interTokenMilliseconds": 10}).inter_token_ms is None
    assert needs(task="text-generation", latency={"interTokenMilliseconds": 10}).inter_token_ms == 10


def test_a_target_below_nothing_is_the_floor() -> None:
    found = needs(quality={"benchmark": "bench", "floor": "90.5"})
    assert (found.floor_centi, found.target_centi) == (9050, 9050)


def test_high_reasoning_lasts_as_long_as_its_opt_in_and_falls_back_to_low_with_a_note() -> None:
    opt_in = [{"feature": "HighReasoning", "reason": "exam grading", "until": "2026-06-01"}]
    assert needs(reasoning="High", optIn=opt_in).reasoning is Reasoning.HIGH
    later = needs(reasoning="High", optIn=opt_in, today=date(2026, 6, 2))
    assert later.reasoning is Reasoning.LOW
    assert "2026-06-01" in later.notes[0]
    assert "renew" in later.notes[0]


def test_generation_for_a_task_that_needs_none_ends_with_its_opt_in() -> None:
    opt_in = [{"feature": "GenerativeModel", "reason": "few labels", "until": "2026-06-01"}]
    assert not needs().generative_allowed
    assert needs(optIn=opt_in).generative_allowed
    later = needs(optIn=opt_in, today=date(2026, 6, 2))
    assert not later.generative_allowed
    assert later.notes
    assert needs(task="text-generation").generative_allowed


def test_what_says_nothing_about_a_task_that_writes_no_text_is_told_and_changes_nothing() -> None:
    load = {"requestsPerMinute": 600, "inputTokens": 300, "outputTokens": 1}
    plain = needs(load=load)
    assert plain.notes == ()
    tokens = {"timeToFirstTokenMilliseconds": 100, "interTokenMilliseconds": 10}
    odd = needs(load=load | {"outputTokens": 50}, latency=tokens, reasoning="Low")
    assert replace(odd, notes=(), reasoning=plain.reasoning) == plain
    assert odd.notes == (
        "spec.latency.timeToFirstTokenMilliseconds and spec.latency.interTokenMilliseconds: not used, as "
        "text-classification writes no text; set spec.latency.endToEndMilliseconds instead",
        "spec.load.outputTokens: 50 is not used, as text-classification writes no text",
        "spec.reasoning: Low is not used: models that write no text do not think",
    )
    (note,) = needs(load=load, latency={"interTokenMilliseconds": 10, "endToEndMilliseconds": 900}).notes
    assert note == "spec.latency.interTokenMilliseconds: not used, as text-classification writes no text"


def test_a_task_that_writes_text_uses_all_of_it() -> None:
    tokens = {"timeToFirstTokenMilliseconds": 100, "interTokenMilliseconds": 10}
    assert needs(task="text-generation", latency=tokens, reasoning="Low").notes == ()
    opt_in = [{"feature": "GenerativeModel", "reason": "few labels", "until": "2026-06-01"}]
    load = {"requestsPerMinute": 600, "inputTokens": 300, "outputTokens": 1}
    assert needs(load=load, optIn=opt_in, reasoning="Low").notes == ()
