"""Sizing offers what serves a workload, says why not for the rest, and never offers what breaks a wish."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lowbeam.api.v1alpha1 import reasons
from lowbeam.catalog import load_builtin
from lowbeam.catalog.facts import Reasoning
from lowbeam.sizing import Inventory, Option, OptionSet, Sizer, options_for
from lowbeam.sizing.pruning import MAX_OPTIONS
from lowbeam.sizing.relax import nearest_relaxation, savings
from tests.builders import (
    ModelBuilder,
    WorkloadBuilder,
    accelerator,
    catalogue_of,
    model,
    stock,
    workload,
)

SMALL = model("small").quality("80").on("gpu", (1, 60, 10, 100), (8, 100, 40, 180))
LARGE = model("large").quality("95").on("gpu", (1, 300, 5, 200), (8, 500, 20, 400))


def size(it: WorkloadBuilder, *models: ModelBuilder, running: Option | None = None, boards: int = 8) -> OptionSet:
    return options_for(it.build(), catalogue_of(*models), stock(gpu=boards), running)


def best(found: OptionSet) -> Option:
    return min(found.options, key=lambda o: (o.unserved_millirps, o.expected_milliwatts, o.id))


def rejected(found: OptionSet, subject: str) -> str:
    return next(r.reason for r in found.rejections if r.subject.startswith(subject))


def test_the_cheapest_that_serves_is_a_small_model_on_one_replica() -> None:
    found = size(workload("a").rate(2), SMALL, LARGE)
    assert (best(found).model, best(found).replicas, best(found).unserved_millirps) == ("small", 1, 0)


REJECTIONS = [
    ("a floor above its score", workload("a").floor("90"), SMALL, reasons.BELOW_FLOOR),
    ("no score on the benchmark", workload("a").floor("10"), SMALL.that(score=""), reasons.QUALITY_UNKNOWN),
    ("another model pinned", workload("a").only(pinned_model="large"), SMALL, reasons.NOT_NAMED),
    ("not on the list of names", workload("a").only(model_names=("large",)), SMALL, reasons.NOT_NAMED),
    ("another licence", workload("a").only(licences=("mit",)), SMALL, reasons.LICENCE_NOT_ALLOWED),
    (
        "generation that nobody asked for",
        workload("a").only(generative_allowed=False),
        SMALL.that(generative=True),
        reasons.NEEDS_OPT_IN,
    ),
    (
        "a prompt longer than the context",
        workload("a").tokens(9000, 1),
        SMALL.that(generative=True),
        reasons.CONTEXT_TOO_SHORT,
    ),
    (
        "more reasoning than asked for",
        workload("a"),
        model("small").reasons(Reasoning.HIGH).on("gpu"),
        reasons.REASONING_NOT_ALLOWED,
    ),
    ("no profile", workload("a"), model("small"), reasons.NO_PROFILE),
    ("another class", workload("a").only(accelerator_classes=("tpu",)), SMALL, reasons.CLASS_NOT_ALLOWED),
    (
        "a precision that the class lacks",
        workload("a"),
        model("small").that(precision="fp4").on("gpu"),
        reasons.PRECISION_NOT_SUPPORTED,
    ),
    ("weights above the memory", workload("a"), SMALL.that(weights_mib=79_000), reasons.OUT_OF_MEMORY),
    (
        "boards that no node has together",
        workload("a").only(own_engine=True),
        model("small").on("gpu", boards=16),
        reasons.NO_INVENTORY,
    ),
    (
        "more boards than our worker uses",
        workload("a"),
        model("small").on("gpu", boards=2),
        reasons.NOT_SERVED_NATIVELY,
    ),
    (
        "a precision that our worker lacks",
        workload("a"),
        model("small").that(precision="int8").on("gpu"),
        reasons.NOT_SERVED_NATIVELY,
    ),
    ("a class that no pool has", workload("a"), model("small").on("other"), reasons.NO_INVENTORY),
    ("too slow at every batch", workload("a").within(end_to_end_ms=50), SMALL, reasons.TOO_SLOW),
    ("too many joules", workload("a").only(max_millijoules_per_request=1), SMALL, reasons.TOO_MUCH_ENERGY),
    ("too many watts", workload("a").only(max_milliwatts=1000), SMALL, reasons.TOO_MANY_WATTS),
    ("no replica wanted", workload("a").replicas(fixed=0), SMALL, reasons.SCALED_TO_ZERO),
]


@pytest.mark.parametrize(("why", "it", "candidate", "reason"), REJECTIONS, ids=[row[0] for row in REJECTIONS])
def test_a_model_is_left_out_for(why: str, it: WorkloadBuilder, candidate: ModelBuilder, reason: str) -> None:
    found = size(it, candidate)
    assert found.options == ()
    assert {r.reason for r in found.rejections} == {reason}, why
    assert all(r.message for r in found.rejections)


def test_a_model_of_another_task_is_only_mentioned_when_it_was_asked_for() -> None:
    other = LARGE.that(tasks=("summarization",))
    assert size(workload("a"), SMALL, other).rejections == ()
    pinned = size(workload("a").only(pinned_model="large"), SMALL, other)
    assert rejected(pinned, "large") == reasons.TASK_NOT_SUPPORTED


def test_below_the_floor_only_with_consent_and_marked_as_such() -> None:
    refused = size(workload("a").floor("90"), SMALL, LARGE)
    assert {o.model for o in refused.options} == {"large"}
    agreed = size(workload("a").floor("90", consent=True), SMALL, LARGE)
    assert {o.model: o.below_floor for o in agreed.options} == {"small": True, "large": False}


def test_counts_that_serve_the_demand_and_fewer_none_above() -> None:
    found = size(workload("a").rate(60), LARGE)
    serving = {o.replicas for o in found.options if not o.unserved_millirps}
    assert min(serving) >= 4  # 20 requests/s at most per replica, never at full utilisation
    assert any(o.unserved_millirps > 0 and o.replicas == 1 for o in found.options)
    assert max(o.replicas for o in found.options) <= 20


def test_no_count_outside_minimum_maximum_and_inventory() -> None:
    found = size(workload("a").rate(200).replicas(least=2, most=5), LARGE, boards=8)
    assert {o.replicas for o in found.options} <= {2, 3, 4, 5}
    short = size(workload("a").rate(200).replicas(least=2, most=20), LARGE, boards=3)
    assert max(o.replicas for o in short.options) == 3


def test_an_autoscaler_may_ask_for_more_than_needed_and_never_gets_more_than_it_asked() -> None:
    found = size(workload("a").rate(1).replicas(fixed=4), SMALL)
    assert max(o.replicas for o in found.options) == 4


def test_an_idle_workload_is_charged_its_idle_watts() -> None:
    idle = best(size(workload("a").rate(0), SMALL))
    assert idle.expected_milliwatts == 20_000
    assert idle.worst_case_milliwatts >= 60_000
    assert idle.millijoules_per_request > 0


def test_the_committed_worst_case_is_that_of_the_batch_limit_and_of_all_replicas() -> None:
    by_batch = {
        (o.batch_limit, o.replicas): o.worst_case_milliwatts for o in size(workload("a").rate(30), SMALL).options
    }
    assert all(watts == replicas * (60_000 if batch == 1 else 100_000) for (batch, replicas), watts in by_batch.items())


def test_a_meter_above_the_boards_limit_is_not_believed() -> None:
    catalogue = catalogue_of(SMALL, classes=[accelerator("gpu", max_watts=90)])
    found = options_for(workload("a").rate(30).build(), catalogue, stock(gpu=8))
    assert max(o.worst_case_milliwatts // o.replicas for o in found.options) == 90_000


def test_watts_grow_with_the_rate_from_idle_to_the_profile() -> None:
    watts = [best(size(workload("a").rate(rate), SMALL)).expected_milliwatts for rate in (0, 1, 5, 10, 20, 30)]
    assert watts == sorted(watts)
    assert watts[0] == 20_000


def test_longer_answers_cost_time_in_proportion() -> None:
    writer = model("writer").that(generative=True).on("gpu", (8, 300, 4, 2000), lengths=(100, 200))
    needs = workload("a").rate(1).tokens(100, 200).within()
    double = needs.tokens(100, 400)
    assert best(size(double, writer)).capacity_millirps == pytest.approx(
        best(size(needs, writer)).capacity_millirps / 2, rel=0.01
    )


def test_a_longer_prompt_than_measured_never_makes_a_request_cheaper() -> None:
    writer = model("writer").that(generative=True).on("gpu", (8, 300, 4, 2000), lengths=(100, 200))
    needs = workload("a").rate(1).tokens(100, 200).within()
    assert best(size(needs.tokens(5000, 200), writer)).capacity_millirps < best(size(needs, writer)).capacity_millirps
    assert best(size(needs.tokens(1, 200), writer)).capacity_millirps == best(size(needs, writer)).capacity_millirps


def test_every_pool_with_the_class_is_offered() -> None:
    shelves = (*stock("a", gpu=4), *stock("b", gpu=2))
    found = options_for(workload("a").rate(2).build(), catalogue_of(SMALL), shelves)
    assert {o.pool for o in found.options} == {"a", "b"}
    assert all(o.replicas <= 2 for o in found.options if o.pool == "b")


def test_what_runs_stays_on_offer_at_todays_demand_even_when_it_is_no_longer_the_best() -> None:
    running = best(size(workload("a").rate(30), LARGE))
    later = size(workload("a").rate(2), SMALL, LARGE, running=running)
    assert later.running is not None
    assert later.running.setting == running.setting
    assert later.running.expected_milliwatts < running.expected_milliwatts


def test_what_runs_is_gone_when_a_wish_forbids_it() -> None:
    running = best(size(workload("a"), SMALL))
    assert size(workload("a").floor("90"), SMALL, LARGE, running=running).running is None


def test_smaller_batches_of_the_best_setting_are_on_offer_as_moves_without_a_new_pod() -> None:
    found = size(workload("a").rate(20), SMALL)
    chosen = best(found)
    hot = [o for o in found.options if o.placement_key == chosen.placement_key and o.batch_limit < chosen.batch_limit]
    assert chosen.batch_limit == 8
    assert any(o.replicas == chosen.replicas for o in hot)


def test_the_real_catalogue_never_offers_more_than_a_planner_can_weigh() -> None:
    catalogue = load_builtin()
    shelves = [Inventory(pool, name, 32, 8) for pool in "abc" for name in catalogue.accelerator_classes]
    sizer = Sizer(catalogue, shelves)
    for task, facts in catalogue.tasks.items():
        needs = workload("a").task(task).tokens(300, 200 if facts.generative else 1).rate(50).within().build()
        found = sizer.options_for(replace(needs, benchmark=facts.benchmark))
        assert 0 < len(found.options) <= MAX_OPTIONS, task
        assert len({o.id for o in found.options}) == len(found.options)


def test_no_option_is_beaten_by_another_of_its_pool_and_class_except_the_ladders() -> None:
    found = size(workload("a").rate(20), SMALL, LARGE)
    top = best(found)
    for o in found.options:
        if o.placement_key == top.placement_key:
            continue
        beaten = any(
            r is not o
            and (r.unserved_millirps, r.expected_milliwatts, r.worst_case_milliwatts, r.accelerators)
            < (o.unserved_millirps, o.expected_milliwatts, o.worst_case_milliwatts, o.accelerators)
            and r.unserved_millirps <= o.unserved_millirps
            and r.quality_shortfall_centi <= o.quality_shortfall_centi
            and r.expected_milliwatts <= o.expected_milliwatts
            and r.worst_case_milliwatts <= o.worst_case_milliwatts
            and r.accelerators <= o.accelerators
            and r.capacity_millirps >= o.capacity_millirps
            for r in found.options
        )
        assert not beaten, o.id


WAYS_OUT = [
    ("floor", workload("a").floor("97.5"), "spec.quality.floor 97.5 -> 95 would do"),
    ("latency", workload("a").within(end_to_end_ms=60).floor("70"), "end-to-end 60 -> "),
    ("licence", workload("a").only(licences=("mit",)), "spec.model.licences"),
    ("class", workload("a").only(accelerator_classes=("tpu",)), "spec.placement.acceleratorClasses"),
    ("watts", workload("a").only(max_milliwatts=1000), "spec.energy.maxWatts"),
]


@pytest.mark.parametrize(("why", "it", "text"), WAYS_OUT, ids=[row[0] for row in WAYS_OUT])
def test_without_options_the_single_relaxation_that_would_help_is_named(
    why: str, it: WorkloadBuilder, text: str
) -> None:
    sizer = Sizer(catalogue_of(SMALL, LARGE), stock(gpu=8))
    assert sizer.options_for(it.build()).options == ()
    assert text in nearest_relaxation(sizer, it.build()), why


def test_the_relaxed_latency_really_gives_an_option() -> None:
    sizer = Sizer(catalogue_of(SMALL, LARGE), stock(gpu=8))
    needs = workload("a").within(end_to_end_ms=60).build()
    enough = int(nearest_relaxation(sizer, needs).split("-> ")[1].split()[0])
    assert sizer.options_for(replace(needs, end_to_end_ms=enough)).options
    assert not sizer.options_for(replace(needs, end_to_end_ms=enough // 2)).options


def test_savings_are_tried_and_worth_it() -> None:
    sizer = Sizer(catalogue_of(SMALL, LARGE), stock(gpu=8))
    needs = workload("a").floor("90").build()
    chosen = best(sizer.options_for(needs))
    (advice,) = [line for line in savings(sizer, needs, chosen) if line.startswith("floor")]
    assert "floor 90 -> 80" in advice
    assert "small" in advice
