"""An engine is offered only what it can serve, and changed only in ways that it has."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import pytest

from lowbeam.api.v1alpha1 import Engine, reasons
from lowbeam.api.v1alpha1.inferenceworkload import InferenceWorkloadSpec
from lowbeam.catalog import load_builtin
from lowbeam.catalog.engines import ENGINES, engine_named, lacks
from lowbeam.catalog.facts import Reasoning
from lowbeam.planning import Lever, Snapshot, move_between, plan
from lowbeam.planning.moves import allowed_by
from lowbeam.power.tree import build_cap_tree
from lowbeam.render import Placement
from lowbeam.sizing import Requirements, options_for, requirements_of
from lowbeam.sizing.relax import relaxations
from lowbeam.sizing.size import Sizer
from tests.builders import ModelBuilder, WorkloadBuilder, catalogue_of, model, option, stock, workload

CHAT = "text-generation"
WRITER = model("writer").that(tasks=(CHAT,), generative=True)
CATALOGUE = load_builtin()


def chat(engine: Engine = Engine.NATIVE) -> WorkloadBuilder:
    return workload("a").task(CHAT).tokens(100, 50).within().only(engine=engine)


def rejected(it: WorkloadBuilder, *models: ModelBuilder) -> tuple[str, str]:
    found = options_for(it.build(), catalogue_of(*models), stock(gpu=8))
    assert found.options == ()
    (rejection,) = found.rejections
    return rejection.reason, rejection.message


def test_the_native_worker_says_which_engine_could() -> None:
    reason, message = rejected(chat(), WRITER.on("gpu", boards=2))
    assert reason == reasons.NOT_SERVED_NATIVELY
    assert "uses one accelerator, not 2; spec.engine VLLM or SGLang could" in message


@pytest.mark.parametrize(
    ("it", "candidate", "why"),
    [
        (chat(Engine.TEI), WRITER.on("gpu"), "TEI does not do text-generation; spec.engine Native or VLLM or SGLang"),
        (chat(Engine.VLLM), WRITER.that(precision="int8").on("gpu"), "vLLM does not serve int8"),
        (chat(Engine.LLAMA_CPP), WRITER.on("gpu"), "llama.cpp loads .gguf files, which writer is not; name one in"),
    ],
    ids=["no text from TEI", "a precision that vLLM lacks", "no GGUF file"],
)
def test_an_engine_is_left_out_for(it: WorkloadBuilder, candidate: ModelBuilder, why: str) -> None:
    reason, message = rejected(it, candidate)
    assert reason == reasons.NOT_SERVED_BY_ENGINE
    assert why in message


def test_a_gguf_file_of_the_workload_is_what_llama_cpp_loads() -> None:
    it = chat(Engine.LLAMA_CPP).only(model_path="/models/w.gguf")
    found = options_for(it.build(), catalogue_of(WRITER.on("gpu")), stock(gpu=8))
    assert {o.engine for o in found.options} == {"LlamaCpp"}


def test_a_level_of_reasoning_that_only_requests_can_name_is_not_promised() -> None:
    oss = CATALOGUE.models["gpt-oss-20b"]
    variant = next(v for v in oss.variants if v.reasoning is Reasoning.LOW)
    h100 = CATALOGUE.accelerator_classes["h100"]

    def lacking(engine: Engine) -> str:
        facts = ENGINES[engine]
        return lacks(facts, CHAT, oss, variant, accelerator=h100, accelerators=1, path="openai/gpt-oss-20b")

    assert lacking(Engine.VLLM) == "cannot be told at start to reason Low: reasoning_effort is a field of each request"
    assert lacking(Engine.SGLANG) == ""


def test_the_way_out_is_the_engine_that_serves_it() -> None:
    sizer = Sizer(catalogue_of(WRITER.on("gpu", boards=2)), stock(gpu=8))
    (advice,) = relaxations(sizer, chat().build())
    assert (advice.field, advice.change) == ("spec.engine", "spec.engine Native -> VLLM")
    assert advice.option.engine == "VLLM"
    (back,) = relaxations(sizer, chat(Engine.TEI).build())
    assert back.change == "spec.engine TEI -> VLLM"


def test_a_floor_that_a_model_meets_is_not_blamed_for_what_the_engine_cannot_do() -> None:
    models = (WRITER.quality("80").on("gpu"), WRITER.that(name="small").quality("50").on("gpu"))
    state = chat(Engine.TEI).floor("70").state()
    (choice,) = plan(Snapshot(catalogue_of(*models), build_cap_tree([]), stock(gpu=8), (state,))).choices
    assert choice.reason == reasons.NO_OPTION
    assert "writer bf16, gpu: TEI does not do text-generation" in choice.message
    assert "spec.engine TEI -> Native" in choice.message


def needs(**spec: object) -> Requirements:
    body = {"task": CHAT, "load": {"requestsPerMinute": 60, "inputTokens": 100, "outputTokens": 50}, **spec}
    answer = requirements_of(
        "n", "w", "u", InferenceWorkloadSpec.model_validate(body), CATALOGUE, None, date(2026, 11, 21)
    )
    assert isinstance(answer, Requirements)
    return answer


def test_an_image_answers_for_itself_only_where_no_engine_is_named() -> None:
    image = {"image": "mirror/worker:1"}
    assert (needs().engine, needs().own_engine) == (Engine.NATIVE, False)
    assert needs(pod=image).own_engine
    assert not needs(pod=image, engine="Native").own_engine
    assert (needs(pod=image, engine="VLLM").engine, needs(pod=image, engine="VLLM").own_engine) == (Engine.VLLM, False)


def test_another_batch_limit_of_another_engine_is_a_replacement_and_no_light_lever() -> None:
    before = replace(option(watts=300, batch=16, capacity=20), engine="VLLM")
    after = replace(option(watts=200, batch=8, capacity=10), engine="VLLM")
    move = move_between(before, after)
    assert (move.lever, move.hot, move.settle_ms) == (Lever.PLACEMENT, False, 180_000)
    assert move.surge_milliwatts == 200_000, "both run for a while"
    assert not allowed_by(move.levers, ("Batch", "Replicas"))
    assert allowed_by(move.levers, ("Batch", "Model"))
    native = move_between(replace(before, engine="Native"), replace(after, engine="Native"))
    assert (native.lever, native.hot) == (Lever.BATCH, True)


def test_fewer_replicas_of_another_engine_restart_nothing() -> None:
    before = replace(option(watts=400, replicas=2), engine="SGLang")
    move = move_between(before, replace(before, replicas=1, worst_case_milliwatts=200_000))
    assert move.levers == {Lever.REPLICAS}


def test_the_batch_limit_is_read_back_from_the_annotation() -> None:
    placement = Placement.of(replace(option(batch=16), engine="TEI"))
    assert placement.batch_limit == 16
    assert Placement.from_annotation(placement.to_annotation()) == placement
    native = Placement.of(option(batch=16))
    assert "batchLimit" not in native.to_annotation()
    assert Placement.from_annotation(placement.to_annotation().replace("16", '"16"')) is None


def test_an_engine_that_nobody_knows_reads_as_the_native_worker() -> None:
    assert engine_named("somebody-edited-this").engine is Engine.NATIVE
