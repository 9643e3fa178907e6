"""A workload without options is told the smallest change that gives one; each change was tried."""

from __future__ import annotations

import pytest

from lowbeam.catalog.facts import Reasoning
from lowbeam.sizing import Inventory, Sizer
from lowbeam.sizing.relax import pair_of_relaxations, relaxations
from lowbeam.sizing.search import least_that, most_that
from lowbeam.sizing.wishes import Advice, changed
from tests.builders import ModelBuilder, WorkloadBuilder, catalogue_of, model, stock, workload

SMALL = model("small").quality("80").on("gpu", (1, 60, 10, 100), (8, 100, 40, 180))
LARGE = model("large").quality("95").on("gpu", (1, 300, 5, 200), (8, 500, 20, 400))
WRITER = model("writer").that(generative=True, context_tokens=2000).on("gpu", lengths=(100, 100))


def sizer_of(*models: ModelBuilder, boards: int = 8) -> Sizer:
    return Sizer(catalogue_of(*models), stock(gpu=boards))


def ways_out(it: WorkloadBuilder, *models: ModelBuilder) -> tuple[Advice, ...]:
    sizer = sizer_of(*(models or (SMALL, LARGE)))
    assert sizer.options_for(it.build()).options == ()
    return relaxations(sizer, it.build())


WAYS_OUT = [
    ("a floor that nobody reaches", workload("a").floor("97.5"), (), "spec.quality.floor 97.5 -> 95"),
    ("a latency below a batch of one", workload("a").within(60), (), "spec.latency.endToEndMilliseconds 60 ms -> "),
    ("a licence that no model has", workload("a").only(licences=("mit",)), (), "allow licence apache-2.0 in"),
    ("a pinned model that is too slow", workload("a").within(300).only(pinned_model="large"), (), "large -> small"),
    ("names that leave the fast one out", workload("a").within(300).only(model_names=("large",)), (), "add small to"),
    ("a class that is not there", workload("a").only(accelerator_classes=("tpu",)), (), "allow class gpu in"),
    ("too few watts", workload("a").only(max_milliwatts=1000), (), "spec.energy.maxWatts 1 W -> 60 W"),
    ("too few joules", workload("a").only(max_millijoules_per_request=1), (), "spec.energy.maxJoulesPerRequest"),
    (
        "generation without an opt-in",
        workload("a").only(generative_allowed=False),
        (SMALL.that(generative=True),),
        "an optIn GenerativeModel",
    ),
    (
        "a model that only thinks",
        workload("a").only(own_engine=True),
        (model("thinker").reasons(Reasoning.HIGH).on("gpu", rate=200),),
        "spec.reasoning Off -> High with an optIn HighReasoning",
    ),
    ("two boards together", workload("a"), (model("wide").on("gpu", rate=200, boards=2),), "that uses 2 gpu together"),
    (
        "an 8-bit model",
        workload("a"),
        (model("m").that(precision="int8").on("gpu", rate=200),),
        "an engine of your own",
    ),
    (
        "prompts longer than the context",
        workload("a").tokens(5000, 100),
        (WRITER,),
        "spec.load.inputTokens 5000 -> 1900",
    ),
    ("boards of another kind", workload("a"), (model("m").on("tpu", rate=200),), "a node with 1 tpu"),
]


@pytest.mark.parametrize(("why", "it", "models", "change"), WAYS_OUT, ids=[row[0] for row in WAYS_OUT])
def test_one_change_would_do_for(why: str, it: WorkloadBuilder, models: tuple[ModelBuilder, ...], change: str) -> None:
    assert any(change in advice.change for advice in ways_out(it, *models)), why


def test_the_nearest_latency_works_and_a_tighter_one_does_not() -> None:
    needs = workload("a").within(60).build()
    sizer = sizer_of(SMALL)
    (advice,) = [it for it in relaxations(sizer, needs) if it.field == "spec.latency.endToEndMilliseconds"]
    enough = dict(advice.changes)["end_to_end_ms"]
    assert sizer.options_for(changed(needs, advice.changes)).options
    assert not sizer.options_for(changed(needs, (("end_to_end_ms", enough - 20),))).options


def test_the_smallest_share_of_a_wish_is_given_up_first() -> None:
    """95 of 97.5 is a smaller step than any licence, and than a latency twice as long."""
    fields = [advice.field for advice in ways_out(workload("a").floor("97.5"))]
    assert fields[0] == "spec.quality.floor"


def test_where_no_score_is_known_the_floor_itself_stands_in_the_way() -> None:
    (advice, *_) = ways_out(workload("a").floor("50"), SMALL.that(score=""))
    assert "spec.quality.floor left out" in advice.change


def test_two_changes_are_named_where_one_is_not_enough() -> None:
    sizer = sizer_of(SMALL, LARGE)
    needs = workload("a").floor("99").within(20).build()
    assert relaxations(sizer, needs) == ()
    pair = pair_of_relaxations(sizer, needs)
    assert pair is not None
    assert {it.field for it in pair} == {"spec.quality.floor", "spec.latency.endToEndMilliseconds"}
    assert sizer.options_for(changed(needs, *(it.changes for it in pair))).options


def test_nothing_is_promised_where_nothing_would_help() -> None:
    sizer = sizer_of(model("unmeasured"))
    needs = workload("a").build()
    assert relaxations(sizer, needs) == ()
    assert pair_of_relaxations(sizer, needs) is None


def test_missing_nodes_are_named_with_how_many_accelerators_belong_together() -> None:
    wide = model("wide").on("gpu", rate=200, boards=4)
    needs = workload("a").only(own_engine=True).build()
    sizer = Sizer(catalogue_of(wide), (Inventory("pool", "gpu", 8, 2),))
    (advice,) = relaxations(sizer, needs)
    assert advice.change == "a node with 4 gpu together"
    more = sizer.with_inventory((*sizer.inventory, Inventory("pool", "gpu", 4, 4)))
    assert more.options_for(needs).options


@pytest.mark.parametrize("threshold", [11, 100, 101, 137, 5000])
def test_a_search_upwards_ends_at_the_next_number_of_two_digits(threshold: int) -> None:
    found = least_that(lambda value: value >= threshold, above=10, highest=10_000)
    assert found is not None
    assert threshold <= found <= threshold * 1.1 + 1
    assert int(str(found)[2:] or "0") == 0


def test_a_search_that_cannot_succeed_says_so() -> None:
    assert least_that(lambda _: False, above=10, highest=10_000) is None
    assert most_that(lambda _: False, below=10, lowest=1) is None
    assert most_that(lambda value: value <= 7, below=10, lowest=1) == 7
