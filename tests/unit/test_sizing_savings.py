"""Recommendations are what a looser wish would really save, best first, and only where it is worth the words."""

from __future__ import annotations

from lowbeam.catalog.facts import Reasoning
from lowbeam.sizing import Option, Sizer
from lowbeam.sizing.savings import WORTH_PERCENT, savings
from lowbeam.sizing.wishes import Advice, changed
from tests.builders import ModelBuilder, WorkloadBuilder, catalogue_of, model, stock, workload

SMALL = model("small").quality("80").on("gpu", (1, 60, 10, 100), (8, 100, 40, 180))
LARGE = model("large").quality("95").on("gpu", (1, 300, 5, 200), (8, 500, 20, 400))
CHAT = "text-generation"


def writer(name: str = "writer", mode: Reasoning = Reasoning.OFF) -> ModelBuilder:
    base = model(name).that(generative=True, tasks=(CHAT,)).reasons(mode)
    return base.on("gpu", (1, 200, 1, 1000), (16, 400, 8, 2000), lengths=(100, 200))


def recommended(it: WorkloadBuilder, *models: ModelBuilder) -> tuple[Option, dict[str, Advice]]:
    sizer, needs = Sizer(catalogue_of(*models), stock(gpu=8)), it.build()
    chosen = min(
        sizer.options_for(needs).options,
        key=lambda o: (o.unserved_millirps, o.quality_shortfall_centi, o.expected_milliwatts, o.id),
    )
    found = savings(sizer, needs, chosen)
    assert [it.saved_percent for it in found] == sorted((it.saved_percent for it in found), reverse=True)
    for advice in found:
        best = sizer.cheapest(changed(needs, advice.changes), most_unserved_millirps=chosen.unserved_millirps)
        assert best is not None
        assert best.expected_milliwatts <= advice.option.expected_milliwatts
        assert advice.saved_percent >= WORTH_PERCENT
        assert advice.option.expected_milliwatts * 100 <= chosen.expected_milliwatts * (101 - advice.saved_percent)
    return chosen, {advice.field: advice for advice in found}


def test_a_lower_floor_lets_a_smaller_model_in() -> None:
    chosen, advice = recommended(workload("a").floor("90"), SMALL, LARGE)
    assert chosen.model == "large"
    assert advice["spec.quality.floor"].change == "spec.quality.floor 90 -> 80"
    assert "with small bf16" in advice["spec.quality.floor"].text


def test_a_target_above_the_floor_is_what_is_lowered() -> None:
    _, advice = recommended(workload("a").floor("70").target("90"), SMALL, LARGE)
    assert advice["spec.quality.target"].change == "spec.quality.target 90 -> 80"


def test_the_nearest_lower_score_that_is_worth_it_is_recommended() -> None:
    twin = model("twin").quality("94").on("gpu", (1, 300, 5, 200), (8, 500, 20, 400))  # saves nothing
    _, advice = recommended(workload("a").floor("95"), SMALL, twin, LARGE)
    assert advice["spec.quality.floor"].change.endswith("-> 80")


def test_more_time_lets_a_replica_batch() -> None:
    _, advice = recommended(workload("a").rate(30).within(250), SMALL)
    assert advice["spec.latency.endToEndMilliseconds"].change == "spec.latency.endToEndMilliseconds 250 -> 400 ms"


def test_shorter_answers_cost_less() -> None:
    it = workload("a").task(CHAT).tokens(100, 200).rate(4).within()
    _, advice = recommended(it, writer())
    assert advice["spec.load.outputTokens"].change == "answers of 120 instead of 200 tokens"


def test_a_licence_or_a_pin_that_keeps_the_frugal_model_out_is_named() -> None:
    _, pinned = recommended(workload("a").only(pinned_model="large"), SMALL, LARGE)
    assert pinned["spec.model"].change == "spec.model.pinned large -> small"
    _, licensed = recommended(workload("a").only(licences=("mit",)), SMALL, LARGE.that(licence="mit"))
    assert licensed["spec.model.licences"].change == "allow licence apache-2.0 in spec.model.licences"


def test_reasoning_that_is_chosen_is_compared_with_none() -> None:
    plain = writer("thinker").quality("60")
    thinking = writer("thinker", Reasoning.HIGH).quality("75")
    it = workload("a").task(CHAT).tokens(100, 2000).rate(1).within().floor("70")
    chosen, advice = recommended(it.only(reasoning=Reasoning.HIGH, own_engine=True), plain, thinking)
    assert chosen.reasoning is Reasoning.HIGH
    text = advice["spec.reasoning"].change
    assert text == "spec.reasoning High -> Off, answers of 1 instead of 2000 tokens, floor 70 -> 60"


def test_nothing_is_recommended_where_nothing_saves() -> None:
    _, advice = recommended(workload("a").within(3_600_000), SMALL)
    assert advice == {}
