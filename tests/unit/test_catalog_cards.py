"""ModelCards of the cluster on top of the built-in ones: scores, benchmarks, families and reasoning of a user's own."""

from __future__ import annotations

import itertools
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalogue_objects import SOURCE, card, only
from lowbeam.catalog import CatalogueReason, load_builtin, overlay
from lowbeam.catalog.facts import Reasoning
from lowbeam.catalog.families import cycles

MODELS_ONLY = replace(load_builtin(), profiles=(), reference_profiles=())


def score(
    benchmark: str = "sst2", metric: str = "accuracy-percent", value: str = "95.1", **more: Any
) -> dict[str, Any]:
    return {"benchmark": benchmark, "metric": metric, "score": value, "source": SOURCE} | more


def scored(*scores: dict[str, Any], name: str = "our-model", **changes: Any) -> dict[str, Any]:
    return card(name, variants=[{"precision": "bf16", "weightsMebibytes": 140, "quality": list(scores)}], **changes)


TICKETS = {"name": "our-tickets", "metric": "accuracy-percent", "setting": "2,000 tickets of 2026"}


@pytest.mark.parametrize(
    ("bad", "field", "reason"),
    [
        (score("sst3"), "benchmark", CatalogueReason.UNKNOWN_BENCHMARK),
        (score(metric="f1-percent"), "metric", CatalogueReason.BENCHMARK_CONFLICT),
        (score(setting="SST-2 test, 5-shot"), "setting", CatalogueReason.BENCHMARK_CONFLICT),
        (score(value="100.01"), "score", CatalogueReason.SCORE_OUT_OF_RANGE),
        (score(value="NaN"), "score", CatalogueReason.INVALID_FIELD),
        (score(value="-3"), "score", CatalogueReason.INVALID_FIELD),
        (score(confidence="Sure"), "confidence", CatalogueReason.INVALID_FIELD),
        ({k: v for k, v in score().items() if k != "metric"}, "metric", CatalogueReason.INVALID_FIELD),
        ({k: v for k, v in score().items() if k != "source"}, "source", CatalogueReason.INVALID_FIELD),
    ],
)
def test_a_card_with_a_bad_score_is_refused_with_the_field_and_the_rest_stays(
    bad: dict[str, Any], field: str, reason: CatalogueReason
) -> None:
    catalogue, problems = overlay(load_builtin(), [scored(bad), card("good")])
    problem = only(problems)
    assert (problem.kind, problem.name, problem.reason) == ("ModelCard", "our-model", reason)
    assert problem.field == f"spec.variants[0].quality[0].{field}"
    assert "our-model" not in catalogue.models
    assert "good" in catalogue.models


def test_a_misspelt_benchmark_is_told_the_near_one() -> None:
    _, problems = overlay(load_builtin(), [scored(score("mmlu-por"))])
    assert "did you mean mmlu-pro?" in only(problems).message


def test_a_card_may_bring_its_own_benchmark_and_a_floor_may_name_it() -> None:
    catalogue, problems = overlay(load_builtin(), [scored(score("our-tickets"), benchmarks=[TICKETS])])
    assert problems == ()
    assert catalogue.benchmarks["our-tickets"].setting == "2,000 tickets of 2026"
    assert catalogue.models["our-model"].variants[0].quality_centi("our-tickets") == 9510


def test_the_setting_of_a_benchmark_may_be_repeated_word_for_word() -> None:
    setting = load_builtin().benchmarks["sst2"].setting
    assert overlay(load_builtin(), [scored(score(setting=setting))])[1] == ()


@pytest.mark.parametrize("change", [{"metric": "f1-percent"}, {"setting": "another set"}])
def test_two_cards_cannot_mean_different_things_by_one_benchmark(change: dict[str, str]) -> None:
    first = scored(score("our-tickets"), name="a-first", benchmarks=[TICKETS])
    other = scored(
        score("our-tickets", metric=change.get("metric", "accuracy-percent")),
        name="b-second",
        benchmarks=[TICKETS | change],
    )
    for cards in itertools.permutations([first, other]):
        catalogue, problems = overlay(load_builtin(), cards)
        problem = only(problems)
        assert (problem.name, problem.field, problem.reason) == (
            "b-second",
            "spec.benchmarks[0]",
            CatalogueReason.BENCHMARK_CONFLICT,
        )
        assert "a-first" in catalogue.models


def test_a_built_in_benchmark_cannot_be_redefined() -> None:
    catalogue, problems = overlay(load_builtin(), [card(benchmarks=[TICKETS | {"name": "sst2"}])])
    assert only(problems).reason is CatalogueReason.BENCHMARK_CONFLICT
    assert catalogue == load_builtin()


def test_cards_that_step_down_in_a_circle_are_all_refused_and_the_others_stay() -> None:
    cards = [
        card("a", predecessors=["b"]),
        card("b", predecessors=["c"]),
        card("c", predecessors=["a"]),
        card("above", predecessors=["a", "distilbert-sst2"]),
    ]
    for order in itertools.permutations(cards):
        catalogue, problems = overlay(MODELS_ONLY, order)
        assert sorted(problem.name for problem in problems) == ["a", "b", "c"]
        assert {problem.reason for problem in problems} == {CatalogueReason.DOWNGRADE_CYCLE}
        assert {problem.field for problem in problems} == {"spec.predecessors"}
        assert "a -> b -> c -> a" in next(p.message for p in problems if p.name == "a")
        assert catalogue.models["above"].predecessors == ("distilbert-sst2",)


def test_a_card_that_bends_a_built_in_family_into_a_circle_is_refused_and_the_built_in_model_stays() -> None:
    catalogue, problems = overlay(load_builtin(), [card("distilbert-sst2", predecessors=["bert-base-sst2"])])
    problem = only(problems)
    assert (problem.name, problem.reason) == ("distilbert-sst2", CatalogueReason.DOWNGRADE_CYCLE)
    assert catalogue == load_builtin()


def test_a_card_cannot_step_down_to_itself() -> None:
    _, problems = overlay(load_builtin(), [card(predecessors=["our-model"])])
    assert only(problems).reason is CatalogueReason.DOWNGRADE_CYCLE


def test_a_step_down_to_a_model_that_does_not_exist_is_refused_with_the_near_name() -> None:
    _, problems = overlay(load_builtin(), [card(predecessors=["distilbert-sst"])])
    problem = only(problems)
    assert (problem.field, problem.reason) == ("spec.predecessors[0]", CatalogueReason.UNKNOWN_MODEL)
    assert "did you mean distilbert-sst2?" in problem.message


def test_a_bad_card_does_not_take_the_cards_with_it_that_step_down_to_it() -> None:
    catalogue, problems = overlay(load_builtin(), [scored(score(value="NaN"), name="bad"), card(predecessors=["bad"])])
    assert only(problems).name == "bad"
    assert catalogue.models["our-model"].predecessors == ()


def test_a_card_joins_a_built_in_family_in_both_directions() -> None:
    catalogue, problems = overlay(load_builtin(), [card(predecessors=["distilbert-sst2"])])
    assert problems == ()
    assert catalogue.models["our-model"].predecessors == ("distilbert-sst2",)
    assert "our-model" in catalogue.models["distilbert-sst2"].successors


def test_several_reasoning_modes_need_a_way_to_switch_between_them() -> None:
    variants = [{"precision": "bf16", "reasoning": mode, "weightsMebibytes": 140} for mode in ("Off", "High")]
    _, problems = overlay(load_builtin(), [card(variants=variants)])
    assert only(problems).field == "spec.reasoningControl"
    values = [{"reasoning": "Off", "value": "/no_think"}, {"reasoning": "High", "value": "/think"}]
    catalogue, problems = overlay(
        load_builtin(), [card(variants=variants, reasoningControl={"switch": "Prompt", "values": values})]
    )
    assert problems == ()
    control = catalogue.models["our-model"].reasoning_control
    assert control is not None
    assert control.value(Reasoning.HIGH) == "/think"


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=10), st.randoms(use_true_random=False))
def test_whatever_the_edges_say_no_circle_is_in_force_and_their_order_does_not_matter(
    edges: list[tuple[int, int]], random: Random
) -> None:
    cards = [card(f"m{i}", predecessors=sorted({f"m{down}" for up, down in edges if up == i})) for i in range(5)]
    catalogue, problems = overlay(MODELS_ONLY, cards)
    assert cycles(catalogue.models) == {}
    random.shuffle(cards)
    again, said = overlay(MODELS_ONLY, cards)
    assert again == catalogue
    assert sorted(map(str, said)) == sorted(map(str, problems))


def test_an_edited_catalogue_keeps_the_targets_of_the_tasks() -> None:
    catalogue, _ = overlay(load_builtin(), [scored(score(value="99.9"))])
    assert catalogue.tasks == load_builtin().tasks
