"""What the lengths of requests cost, and which of them a model can take: memory, context windows, and what is cut."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lowbeam.api.v1alpha1 import reasons
from lowbeam.api.v1alpha1.inferenceworkload import Engine
from lowbeam.catalog.facts import AcceleratorClass
from lowbeam.sizing import Sizer
from tests.builders import ModelBuilder, WorkloadBuilder, accelerator, best, catalogue_of, model, size, stock, workload

CHAT = "text-generation"
KIB = 1024
ANSWERS = "question-answering"


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


def writer(kv_bytes: int | None, **facts: object) -> ModelBuilder:
    """Measured with 16 requests of 200 tokens at once, on a board with 73.6 GiB to use."""
    base = model("writer").that(generative=True, tasks=(CHAT,), context_tokens=10_000_000, kv_bytes=kv_bytes, **facts)
    return base.on("gpu", (1, 200, 1, 1000), (4, 300, 3, 1500), (16, 400, 8, 2000), lengths=(100, 100))


MEMORY = [
    ("nothing known of the cache: as measured", writer(None), 60_000, {1, 4, 16}),
    ("a small cache: as measured", writer(1 * KIB), 60_000, {1, 4, 16}),
    ("a cache for four long requests", writer(256 * KIB), 60_000, {1, 4}),
    ("a cache for one", writer(256 * KIB), 200_000, {1}),
    ("what was measured fits, whatever the figures say", writer(10_000 * KIB), 100, {1, 4, 16}),
]


@pytest.mark.parametrize(("why", "candidate", "tokens", "batches"), MEMORY, ids=[row[0] for row in MEMORY])
def test_a_batch_is_offered_only_with_room_for_its_context(
    why: str, candidate: ModelBuilder, tokens: int, batches: set[int]
) -> None:
    demand = workload("a").task(CHAT).rate(0.01).tokens(tokens, 100).within()
    sifted = {int(b) for b in Sizer(catalogue_of(candidate), stock(gpu=8)).ways(demand.build())[1].batch}
    assert sifted == batches, why


def test_a_context_that_does_not_fit_beside_the_weights_is_out_of_memory_with_the_figures() -> None:
    found = size(workload("a").task(CHAT).rate(0.01).tokens(400_000, 100).within(), writer(256 * KIB))
    assert found.options == ()
    (rejection,) = found.rejections
    assert rejection.reason == reasons.OUT_OF_MEMORY
    assert "a batch of 1 needs 400100" in rejection.message


# --- models that write no text ---------------------------------------------------------------------------------------


def encoder(*, name: str = "encoder", context: int = 512, **facts: object) -> ModelBuilder:
    base = model(name).that(context_tokens=context, **facts)
    return base.on("gpu", (1, 60, 10, 100), (8, 100, 40, 180), lengths=(128, 1))


def reads(tokens: int, *, task: str = "text-classification", engine: Engine = Engine.NATIVE) -> WorkloadBuilder:
    return workload("a").task(task).rate(1).tokens(tokens, 1).within(end_to_end_ms=60_000).only(engine=engine)


def test_a_text_that_the_worker_would_refuse_is_no_option_and_the_longest_that_it_takes_is() -> None:
    assert size(reads(512), encoder()).options
    found = size(reads(513), encoder())
    assert found.options == ()
    (rejection,) = found.rejections
    assert rejection.reason == reasons.CONTEXT_TOO_SHORT
    assert rejection.message.startswith("context 512 tokens < 513 per request; such are refused (where requests ask")


def fastest(it: WorkloadBuilder, candidate: ModelBuilder, *classes: AcceleratorClass) -> float:
    """Of one replica at batch 8, requests a second."""
    _, ways = Sizer(catalogue_of(candidate, classes=classes), stock(gpu=8)).ways(it.build())
    return float((ways.capacity / ways.replicas)[ways.batch == 8].max()) / 1000


def test_a_model_that_reads_longer_texts_is_chosen_for_them() -> None:
    found = size(reads(2000), encoder(), encoder(name="long-encoder", context=8192))
    assert {it.model for it in found.options} == {"long-encoder"}


def test_where_the_engine_cuts_texts_no_more_is_sized_than_it_reads() -> None:
    half = replace(accelerator("gpu"), precisions=("fp16",))
    given = (reads(tokens, engine=Engine.TEI) for tokens in (128, 512, 5000))
    short, whole, cut = (fastest(it, encoder(precision="fp16"), half) for it in given)
    assert short > whole == cut


def test_what_is_read_in_pieces_is_never_too_long_and_all_of_it_costs() -> None:
    piece, many = (fastest(reads(tokens, task=ANSWERS), encoder(tasks=(ANSWERS,))) for tokens in (512, 5120))
    assert many == pytest.approx(piece / 10, rel=0.05)


def test_an_image_of_the_users_own_answers_for_what_it_takes() -> None:
    assert size(reads(5000).only(own_engine=True), encoder()).options


def test_workloads_on_two_sides_of_a_context_do_not_share_an_answer() -> None:
    sizer = Sizer(catalogue_of(encoder()), stock(gpu=8))
    assert [bool(sizer.options_for(reads(tokens).build()).options) for tokens in (511, 512, 513)] == [True, True, False]
