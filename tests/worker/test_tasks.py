"""/v1/tasks/{task}: inputs and outputs are those of transformers' pipelines, run here beside the worker.

Question answering and summarisation have no pipeline in transformers 5; what its last pipelines (4.57.1) gave for the
same models is in pipelines_of_transformers_4.json; record_pipelines_of_transformers_4.py says how it got there.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from transformers import (
    BartForConditionalGeneration,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
    pipeline,
)

from lowbeam_worker.models import CannotLoadError
from lowbeam_worker.options import Task
from lowbeam_worker.rows import encoded_rows
from tests.worker.conftest import LocalWorker, local_worker, options
from tests.worker.tiny import MAX_TOKENS, SPECIAL, WORDS, save, save_bart, save_bert

pytestmark = pytest.mark.asyncio(loop_scope="session")
RECORDED: dict[str, list[dict[str, Any]]] = json.loads(
    (Path(__file__).parent / "pipelines_of_transformers_4.json").read_text(encoding="utf-8")
)
TEXTS = ["Anna works in Paris and Bob lives in Berlin.", "The cat sits on the mat."]
ENTITIES = {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC"}
NLI = {0: "contradiction", 1: "neutral", 2: "entailment"}
ENTAILMENT = {label: number for number, label in NLI.items()}


async def serve(task: Task, folder: Path) -> AsyncIterator[LocalWorker]:
    async for local in local_worker(options(task, "tiny", str(folder))):
        yield local


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def classifier(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalWorker]:
    folder = tmp_path_factory.mktemp("classes")
    save_bert(BertForSequenceClassification, folder, id2label={0: "bad", 1: "good", 2: "mixed"})
    async for local in serve(Task.TEXT_CLASSIFICATION, folder):
        yield local


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def zero_shot(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalWorker]:
    folder = save_bert(BertForSequenceClassification, tmp_path_factory.mktemp("nli"), id2label=NLI, label2id=ENTAILMENT)
    async for local in serve(Task.ZERO_SHOT_CLASSIFICATION, folder):
        yield local


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def tagger(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalWorker]:
    folder = save_bert(BertForTokenClassification, tmp_path_factory.mktemp("tags"), id2label=ENTITIES)
    async for local in serve(Task.TOKEN_CLASSIFICATION, folder):
        yield local


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def answerer(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalWorker]:
    folder = save_bert(BertForQuestionAnswering, tmp_path_factory.mktemp("answers"))
    async for local in serve(Task.QUESTION_ANSWERING, folder):
        yield local


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def writer(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalWorker]:
    folder = save_bart(BartForConditionalGeneration, tmp_path_factory.mktemp("summaries"))
    async for local in serve(Task.SUMMARIZATION, folder):
        yield local


async def ask(local: LocalWorker, inputs: object, **parameters: object) -> Any:
    path = f"/v1/tasks/{local.worker.options.task}"
    answer = await local.serving.post(path, json={"inputs": inputs, "parameters": parameters})
    assert answer.status_code == 200, answer.text
    assert answer.headers["X-Energy-Method"] == "unavailable"
    return answer.json()


def assert_same(given: Any, expected: Any) -> None:
    """Equal, numbers within 1e-4."""
    if isinstance(expected, dict):
        assert given.keys() == expected.keys()
        for key in expected:
            assert_same(given[key], expected[key])
    elif isinstance(expected, list):
        assert len(given) == len(expected)
        for one, other in zip(given, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, str):
        assert given == expected
    else:
        assert given == pytest.approx(float(expected), abs=1e-4)


def reference(local: LocalWorker) -> Any:
    return pipeline(str(local.worker.options.task), model=local.worker.options.model_path, device="cpu")


PAIR = {"text": "the film was good", "text_pair": "it was not bad"}


@pytest.mark.parametrize(
    ("inputs", "parameters"),
    [
        ("the film was good", {}),
        (TEXTS, {}),
        ("the film was good", {"top_k": 2}),
        (TEXTS, {"top_k": None}),
        (PAIR, {}),
        ([PAIR, "bad plot"], {"top_k": 1}),
        ("bad plot", {"function_to_apply": "sigmoid", "top_k": 3}),
        ("bad plot", {"function_to_apply": "none"}),
    ],
)
async def test_text_classification(classifier: LocalWorker, inputs: Any, parameters: dict[str, Any]) -> None:
    assert_same(await ask(classifier, inputs, **parameters), reference(classifier)(inputs, **parameters))


@pytest.mark.parametrize(
    ("inputs", "parameters"),
    [
        (TEXTS[0], {"candidate_labels": ["city", "film", "energy"]}),
        (TEXTS, {"candidate_labels": "city, film"}),
        (TEXTS[1], {"candidate_labels": ["cat", "dog"], "multi_label": True}),
        (TEXTS[1], {"candidate_labels": ["cat"], "hypothesis_template": "it was a {} ."}),
    ],
)
async def test_zero_shot_classification(zero_shot: LocalWorker, inputs: Any, parameters: dict[str, Any]) -> None:
    assert_same(await ask(zero_shot, inputs, **parameters), reference(zero_shot)(inputs, **parameters))


@pytest.mark.parametrize(
    ("inputs", "parameters"),
    [
        (TEXTS[0], {}),
        (TEXTS, {"aggregation_strategy": "simple"}),
        (TEXTS, {"aggregation_strategy": "first"}),
        (TEXTS, {"aggregation_strategy": "average", "ignore_labels": []}),
        (TEXTS[0], {"aggregation_strategy": "max", "ignore_labels": ["PER"]}),
        (TEXTS[0] * 8, {"aggregation_strategy": "simple", "stride": 8}),
    ],
)
async def test_token_classification(tagger: LocalWorker, inputs: Any, parameters: dict[str, Any]) -> None:
    assert_same(await ask(tagger, inputs, **parameters), reference(tagger)(inputs, **parameters))


@pytest.mark.parametrize("case", RECORDED["question-answering"], ids=lambda case: json.dumps(case["parameters"]))
async def test_question_answering(answerer: LocalWorker, case: dict[str, Any]) -> None:
    assert_same(await ask(answerer, case["inputs"], **case["parameters"]), case["output"])


@pytest.mark.parametrize("case", RECORDED["summarization"], ids=lambda case: json.dumps(case["parameters"]))
async def test_summarization(writer: LocalWorker, case: dict[str, Any]) -> None:
    assert_same(await ask(writer, case["inputs"], **case["parameters"]), case["output"])


async def test_summaries_of_a_mixed_batch_are_those_of_each_alone(writer: LocalWorker) -> None:
    together = await ask(writer, TEXTS, max_new_tokens=8)
    alone = [(await ask(writer, text, max_new_tokens=8))[0] for text in TEXTS]
    assert together == alone


async def test_summaries_with_other_parameters_are_written_in_a_step_of_their_own(writer: LocalWorker) -> None:
    alone = [await ask(writer, TEXTS[0], max_new_tokens=1), await ask(writer, TEXTS[0], max_new_tokens=40)]
    engine = writer.worker.engine
    assert engine is not None
    before, gate = engine.stats().steps, threading.Event()
    held = asyncio.create_task(engine.swap(lambda: gate.wait(10) and None))
    asked = [asyncio.create_task(ask(writer, TEXTS[0], max_new_tokens=tokens)) for tokens in (1, 40, 1, 40)]
    while engine.stats().waiting < 4:  # noqa: ASYNC110 - the engine's own thread tells nobody
        await asyncio.sleep(0.01)
    gate.set()
    await held
    assert await asyncio.gather(*asked) == [*alone, *alone]
    assert engine.stats().steps - before == 2


LONG = "the cat sits on the mat " * 20


@pytest.mark.parametrize(
    ("kind", "inputs", "parameters", "param", "part"),
    [
        ("classifier", "", {}, "inputs", "Input 0 is empty"),
        ("classifier", [], {}, "inputs", "There is no input"),
        ("classifier", LONG, {}, "inputs", "takes at most 48"),
        ("classifier", "x", {"top_k": 0}, "parameters", "greater than or equal to 1"),
        ("classifier", "x", {"padding": True}, "parameters.padding", "not supported"),
        ("classifier", {"text": "x"}, {}, "inputs.text_pair", "is missing"),
        ("classifier", "x", {"top_k": None, "truncation": None}, "parameters", "valid boolean"),
        ("zero_shot", "x", {}, "parameters.candidate_labels", "is missing"),
        ("zero_shot", "x", {"candidate_labels": []}, "parameters.candidate_labels", "no candidate label"),
        (
            "zero_shot",
            "x",
            {"candidate_labels": ["a"], "hypothesis_template": "{0.__class__}"},
            "parameters.hypothesis_template",
            "one {}",
        ),
        ("zero_shot", ["x"] * 500, {"candidate_labels": ["a"] * 500}, "inputs", "at most 2048"),
        ("tagger", LONG, {}, "inputs", "takes at most 48"),
        ("tagger", LONG, {"stride": 4}, "parameters.stride", "needs an aggregation_strategy"),
        ("tagger", LONG, {"stride": 46, "aggregation_strategy": "simple"}, "parameters.stride", "below 46"),
        ("tagger", "x", {"aggregation_strategy": "mean"}, "parameters.aggregation_strategy", "does not support"),
        ("answerer", {"question": "who?"}, {}, "inputs.context", "is missing"),
        ("answerer", {"question": "who?", "context": ""}, {}, "inputs", "at least 1 character"),
        ("answerer", {"question": "who " * 40, "context": "a"}, {}, "inputs", "Question 0 has 40 tokens"),
        ("answerer", {"question": "who?", "context": "a"}, {"max_seq_len": 99}, "parameters.max_seq_len", "above 48"),
        ("writer", LONG, {}, "inputs", "takes at most 48"),
        ("writer", "x", {"max_new_tokens": 1000}, "parameters.max_new_tokens", "at most 47 tokens"),
        (
            "writer",
            "x",
            {"min_new_tokens": 30, "max_new_tokens": 5},
            "parameters.min_new_tokens",
            "has at most 5 tokens; at least 30",
        ),
        ("writer", "x", {"min_new_tokens": 1000}, "parameters.min_new_tokens", "has at most 47 tokens"),
        ("writer", "x", {"do_sample": True}, "parameters.do_sample", "not supported"),
    ],
)
async def test_a_task_refuses_by_name_what_it_cannot_do(  # noqa: PLR0917 - the columns of the table
    request: pytest.FixtureRequest, kind: str, inputs: Any, parameters: dict[str, Any], param: str, part: str
) -> None:
    local: LocalWorker = request.getfixturevalue(kind)
    path = f"/v1/tasks/{local.worker.options.task}"
    answer = await local.serving.post(path, json={"inputs": inputs, "parameters": parameters})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param), error
    assert part in error["message"]


OVERLAPPING: dict[str, tuple[Callable[[str], Any], dict[str, Any]]] = {
    "tagger": (str, {"stride": 45, "aggregation_strategy": "simple"}),
    "answerer": (lambda text: {"question": "who", "context": text}, {"doc_stride": 43}),
}
"""Inputs, and the parameters with which each piece of them has one token that the piece before has not."""


@pytest.mark.parametrize("kind", OVERLAPPING)
@pytest.mark.parametrize("texts", [1, 4])
async def test_texts_of_too_many_pieces_are_refused_before_the_pieces_are_made(
    tagger: LocalWorker, answerer: LocalWorker, monkeypatch: pytest.MonkeyPatch, kind: str, texts: int
) -> None:
    def made(_: Any) -> Any:
        raise AssertionError("the pieces were made")

    monkeypatch.setattr("lowbeam_worker.front.answers.encoded_rows", made)
    monkeypatch.setattr("lowbeam_worker.front.tokens.encoded_rows", made)
    local = tagger if kind == "tagger" else answerer
    shape, parameters = OVERLAPPING[kind]
    body = {"inputs": [shape("cat " * (2400 // texts))] * texts, "parameters": parameters}
    answer = await local.serving.post(f"/v1/tasks/{local.worker.options.task}", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "inputs"), error
    assert "pieces; one request takes at most 2048" in error["message"]


@pytest.mark.parametrize("kind", OVERLAPPING)
async def test_a_text_of_as_many_pieces_as_a_request_may_have_is_read(
    tagger: LocalWorker, answerer: LocalWorker, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    local = tagger if kind == "tagger" else answerer
    shape, parameters = OVERLAPPING[kind]
    overlap = next(iter(parameters.values()))
    monkeypatch.setattr("lowbeam_worker.front.encoding.MAX_ROWS", 40)
    await ask(local, shape("cat " * (overlap + 40)), **parameters)
    with pytest.raises(AssertionError, match="at least 41 pieces"):
        await ask(local, shape("cat " * (overlap + 41)), **parameters)


async def test_a_text_of_megabytes_is_not_read_to_its_end(tagger: LocalWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    local, (shape, parameters) = tagger, OVERLAPPING["tagger"]
    read, runner = 0, local.worker.service._runner  # type: ignore[union-attr]
    tokenizer = runner.tokenizer

    def counting(text: str, **more: Any) -> Any:
        nonlocal read
        read += len(text)
        return tokenizer(text, **more)

    counting.num_special_tokens_to_add = tokenizer.num_special_tokens_to_add  # type: ignore[attr-defined]
    monkeypatch.setattr(runner, "tokenizer", counting)
    with pytest.raises(AssertionError, match="one request takes at most 2048"):
        await ask(local, shape("cat " * 1_000_000), **parameters)
    assert read < 100_000


async def test_a_long_text_beside_very_many_labels_is_not_read_once_for_each(
    zero_shot: LocalWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def counted(encoded: Any) -> Any:
        made.append(len(encoded["input_ids"]))
        return encoded_rows(encoded)

    monkeypatch.setattr("lowbeam_worker.front.encoding.encoded_rows", counted)
    with pytest.raises(AssertionError, match="Input 0 has"):
        await ask(zero_shot, "cat " * 1000, candidate_labels=["a"] * 2000)
    assert sum(made) < 100


async def test_another_task_is_refused_and_the_right_one_named(tagger: LocalWorker) -> None:
    answer = await tagger.serving.post("/v1/tasks/fill-mask", json={"inputs": "x"})
    assert answer.status_code == 400
    assert "/v1/tasks/token-classification" in answer.json()["error"]["message"]


async def test_a_text_may_be_cut_where_the_client_says_so(classifier: LocalWorker, writer: LocalWorker) -> None:
    assert await ask(classifier, LONG, truncation=True) == await ask(classifier, LONG + LONG, truncation=True)
    assert await ask(writer, LONG, truncation=True, max_new_tokens=4)


async def test_a_model_without_entailment_cannot_do_zero_shot(tmp_path: Path) -> None:
    save_bert(BertForSequenceClassification, tmp_path, id2label={0: "bad", 1: "good"})
    with pytest.raises(CannotLoadError, match="begins with 'entail'"):
        async for _ in serve(Task.ZERO_SHOT_CLASSIFICATION, tmp_path):
            pass


SMALL = {"vocab_size": 70, "num_labels": 2}


@pytest.mark.parametrize(
    "make",
    [
        lambda: RobertaForSequenceClassification(
            RobertaConfig(
                hidden_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=64,
                type_vocab_size=1,
                pad_token_id=0,
                max_position_embeddings=MAX_TOKENS + 1,
                **SMALL,
            )
        ),
        lambda: DistilBertForSequenceClassification(
            DistilBertConfig(dim=32, n_layers=1, n_heads=2, hidden_dim=64, max_position_embeddings=MAX_TOKENS, **SMALL)
        ),
    ],
    ids=["roberta", "distilbert"],
)
async def test_models_without_segments_and_with_shifted_positions(tmp_path: Path, make: Callable[[], Any]) -> None:
    folder = save(make(), tmp_path, model_max_length=10**30)  # many tokenizers do not state a length
    async for local in serve(Task.TEXT_CLASSIFICATION, folder):
        assert (await local.serving.get("/info")).json()["max_input_length"] == MAX_TOKENS
        expected = reference(local)(dict(PAIR), return_token_type_ids=False)
        assert_same(await ask(local, PAIR), expected)


@pytest.mark.parametrize(
    ("stated", "config", "expected"),
    [
        (None, {}, 512),
        (10**30, {"n_positions": 24}, 24),
        (40, {"n_positions": 24}, 40),
    ],
)
async def test_a_model_that_states_no_length_starts_with_one_that_it_can_read(
    tmp_path: Path, stated: int | None, config: dict[str, int], expected: int
) -> None:
    words = len(SPECIAL) + len(WORDS)
    sizes = {"vocab_size": words, "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2}
    t5 = T5Config(pad_token_id=0, eos_token_id=3, decoder_start_token_id=0, **sizes, **config)
    save(T5ForConditionalGeneration(t5), tmp_path, model_max_length=stated)
    if stated is None:
        tokens = tmp_path / "tokenizer_config.json"
        told = {key: value for key, value in json.loads(tokens.read_text()).items() if key != "model_max_length"}
        tokens.write_text(json.dumps(told))
    async for local in serve(Task.SUMMARIZATION, tmp_path):
        assert (await local.serving.get("/info")).json()["max_input_length"] == expected
        assert await ask(local, "the cat sits", max_new_tokens=2)
        refused = await local.serving.post("/v1/tasks/summarization", json={"inputs": "cat " * expected})
        assert refused.json()["error"]["code"] == "context_length_exceeded"
