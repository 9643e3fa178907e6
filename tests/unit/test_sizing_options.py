"""Sizing offers what serves a workload, says why not for the rest, and never offers what breaks a wish."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lowbeam.api.v1alpha1 import reasons
from lowbeam.catalog import load_builtin
from lowbeam.catalog.facts import Reasoning
from lowbeam.sizing import Inventory, OptionSet, Sizer, options_for
from lowbeam.sizing.operating_point import measured_curve, operating_point
from lowbeam.sizing.pruning import MAX_OPTIONS
from tests.builders import (
    ModelBuilder,
    WorkloadBuilder,
    accelerator,
    best,
    catalogue_of,
    model,
    option,
    size,
    stock,
    workload,
)

SMALL = model("small").quality("80").on("gpu", (1, 60, 10, 100), (8, 100, 40, 180))
LARGE = model("large").quality("95").on("gpu", (1, 300, 5, 200), (8, 500, 20, 400))


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


@pytest.mark.parametrize(("card", "wish"), [("apache-2.0", "Apache-2.0"), ("Apache-2.0", "apache-2.0")])
def test_a_licence_is_the_same_in_capital_letters(card: str, wish: str) -> None:
    assert size(workload("a").only(licences=("mit", wish)), SMALL.that(licence=card)).options


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
    measured = {profile.task for profile in catalogue.profiles}
    for task, facts in catalogue.tasks.items():
        if task not in measured:
            continue
        needs = workload("a").task(task).tokens(300, 200 if facts.generative else 1).rate(50).within().build()
        found = sizer.options_for(replace(needs, benchmark=facts.benchmark, own_engine=True))
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


def test_only_the_nodes_that_a_selector_allows_are_used() -> None:
    sizer = Sizer(catalogue_of(SMALL), stock(gpu=8))
    some = (
        workload("a")
        .rate(300)
        .only(reachable=(Inventory("pool", "gpu", 2, 2),), reach_limits="spec.placement.nodeSelector")
        .build()
    )
    assert max(o.replicas for o in sizer.options_for(some).options) == 2
    none = sizer.options_for(replace(some, reachable=()))
    assert none.options == ()
    assert "spec.placement.nodeSelector" in none.rejections[0].message


def bursty(it: WorkloadBuilder, cv_percent: int) -> WorkloadBuilder:
    return it.only(demand=replace(it.needs.demand, arrival_cv_percent=cv_percent))


def uncertain(it: ModelBuilder, percent: int) -> ModelBuilder:
    return replace(it, profiles=tuple(replace(p, uncertainty_percent=percent) for p in it.profiles))


def test_a_modelled_profile_commits_the_upper_end_of_its_watts_and_expects_the_middle() -> None:
    plain, modelled = (best(size(workload("a").rate(20), it)) for it in (SMALL, uncertain(SMALL, 24)))
    assert modelled.expected_milliwatts == plain.expected_milliwatts
    assert modelled.worst_case_milliwatts == round(plain.worst_case_milliwatts * 1.24)
    assert (plain.uncertainty_percent, modelled.uncertainty_percent) == (0, 24)


def test_the_upper_end_is_never_above_the_limit_of_the_boards() -> None:
    catalogue = catalogue_of(uncertain(SMALL, 50), classes=[accelerator("gpu", max_watts=110)])
    found = options_for(workload("a").rate(30).build(), catalogue, stock(gpu=8))
    assert max(o.worst_case_milliwatts // o.replicas for o in found.options) == 110_000


def test_bursts_take_capacity_and_more_replicas_smooth_them() -> None:
    needs = workload("a").rate(60)
    calm, moody = (best(size(bursty(needs, cv), LARGE, boards=20)) for cv in (100, 400))
    assert moody.replicas > calm.replicas
    assert moody.capacity_millirps / moody.replicas < calm.capacity_millirps / calm.replicas
    alone = best(size(bursty(needs.rate(1), 400), LARGE, boards=20))
    assert alone.capacity_millirps / alone.replicas < moody.capacity_millirps / moody.replicas


def test_arrivals_calmer_than_poisson_are_not_trusted() -> None:
    needs = workload("a").rate(20)
    assert size(bursty(needs, 30), SMALL).options == size(needs, SMALL).options


def test_every_option_keeps_the_target_at_the_rate_that_it_is_given() -> None:
    for cv in (100, 250):
        for target in (260, 500, 2000):
            found = size(bursty(workload("a").rate(90).within(end_to_end_ms=target), cv), SMALL, LARGE)
            assert all(o.latency_p95_ms <= target for o in found.options)


def test_the_operating_point_of_an_option_has_its_p95_and_all_other_quantiles() -> None:
    sizer = Sizer(catalogue_of(SMALL), stock(gpu=8))
    needs = bursty(workload("a").rate(25), 180).build()
    for it in sizer.options_for(needs).options:
        point = sizer.operating_point(needs, it)
        assert point is not None
        assert point.batch_limit == it.batch_limit
        assert point.end_to_end.p95_ms == pytest.approx(it.latency_p95_ms, abs=1.01)
        assert point.end_to_end.p50_ms < point.end_to_end.p95_ms < point.end_to_end.p99_ms
        assert point.inter_token is None, "an encoder answers as a whole"
        assert point.milliwatts * it.replicas == pytest.approx(it.expected_milliwatts, rel=1e-3)
        assert point.running_batch <= it.batch_limit


def test_a_busier_decoder_waits_longer_and_writes_slower() -> None:
    writer = model("writer").that(generative=True).on("gpu", (1, 300, 1, 900), (16, 400, 8, 1900), lengths=(100, 50))
    sizer = Sizer(catalogue_of(writer), stock(gpu=8))
    calm, busy = (
        operating_point(curve, 16, rate, 2.0)
        for curve in [measured_curve(writer.profiles[0], accelerator("gpu"))]
        for rate in (1.0, 6.0)
    )
    assert calm.inter_token is not None
    assert busy.inter_token is not None
    assert calm.inter_token.p95_ms < busy.inter_token.p95_ms
    assert calm.end_to_end.p95_ms < busy.end_to_end.p95_ms
    assert calm.first_token.p99_ms < busy.first_token.p99_ms
    assert calm.millijoules_per_request is not None
    assert busy.millijoules_per_request is not None
    assert calm.millijoules_per_request > busy.millijoules_per_request, "idle watts are shared by fewer requests"
    assert sizer.operating_point(workload("a").build(), option("unknown")) is None


def test_workloads_that_share_an_answer_of_the_filters_get_words_of_their_own() -> None:
    sizer = Sizer(catalogue_of(SMALL.that(generative=True)), stock(gpu=8))
    for tokens in (9000, 9500):
        (said,) = sizer.options_for(workload("a").tokens(tokens, 1).build()).rejections
        assert said.reason == reasons.CONTEXT_TOO_SHORT
        assert str(tokens + 1) in said.message


def test_an_answer_from_memory_is_the_answer_of_a_fresh_sizer() -> None:
    catalogue, shelves = catalogue_of(SMALL, LARGE), stock(gpu=8)
    shared = Sizer(catalogue, shelves)
    asked = [
        bursty(workload("a").rate(rate).within(end_to_end_ms=target).floor(floor), cv).replicas(1, most).build()
        for rate in (0, 3, 70)
        for target in (250, 900)
        for floor in ("0", "90")
        for cv in (100, 300)
        for most in (2, 20)
    ]
    for _ in range(2):
        for needs in asked:
            assert shared.options_for(needs) == Sizer(catalogue, shelves).options_for(needs)
