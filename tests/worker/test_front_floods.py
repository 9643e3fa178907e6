"""Bodies with very many mistakes: they are checked on the event loop, so each is refused at its first few."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from lowbeam_worker.front import reading
from lowbeam_worker.front.openai_bodies import ChatBody, CompletionBody, EmbeddingsBody
from lowbeam_worker.front.reading import Body
from lowbeam_worker.front.task_bodies import (
    AnswerBody,
    ClassificationBody,
    SummaryBody,
    TokenBody,
    ZeroShotBody,
)
from lowbeam_worker.front.tei_bodies import EmbedBody, PredictBody, RerankBody
from tests.worker.conftest import LocalWorker

MANY = 100_000
WRONG: list[Any] = [{}] * MANY
UNKNOWN = {f"x{number}": 1 for number in range(MANY)}
PART = {"type": "text", "text": ""}
USER = {"role": "user", "content": "x"}


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [USER], **more}


@pytest.mark.parametrize(
    ("kind", "document"),
    [
        (ChatBody, chat(messages=WRONG)),
        (ChatBody, chat(messages=[USER] * 5 + [USER | UNKNOWN])),
        (ChatBody, chat(messages=[{"role": "user", "content": WRONG}])),
        (ChatBody, chat(messages=[{"role": "user", "content": [{"type": "text", "text": "x", **UNKNOWN}]}])),
        (ChatBody, chat(stop=WRONG)),
        (ChatBody, chat(stream_options=UNKNOWN)),
        (ChatBody, chat(response_format=UNKNOWN)),
        (ChatBody, chat(chat_template_kwargs=UNKNOWN)),
        (ChatBody, chat(**UNKNOWN)),
        (CompletionBody, {"model": "m", "prompt": [1, *WRONG]}),
        (EmbeddingsBody, {"model": "m", "input": WRONG}),
        (EmbeddingsBody, {"model": "m", "input": [WRONG]}),
        (EmbeddingsBody, {"model": "m", "input": [[]] * MANY}),
        (EmbedBody, {"inputs": WRONG}),
        (EmbedBody, {"inputs": [[]] * MANY}),
        (PredictBody, {"inputs": WRONG}),
        (PredictBody, {"inputs": [[]] * MANY}),
        (PredictBody, {"inputs": [WRONG]}),
        (RerankBody, {"query": "x", "texts": WRONG}),
        (ClassificationBody, {"inputs": WRONG}),
        (ClassificationBody, {"inputs": UNKNOWN}),
        (ClassificationBody, {"inputs": "x", "parameters": UNKNOWN}),
        (ZeroShotBody, {"inputs": WRONG, "parameters": {"candidate_labels": WRONG}}),
        (TokenBody, {"inputs": WRONG, "parameters": {"ignore_labels": WRONG}}),
        (AnswerBody, {"inputs": WRONG}),
        (AnswerBody, {"inputs": {"question": "x", "context": "x", **UNKNOWN}}),
        (SummaryBody, {"inputs": WRONG}),
    ],
)
def test_few_of_very_many_mistakes_are_collected(kind: type[Body], document: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as refused:
        kind.model_validate(document)
    assert refused.value.error_count() < 20


def lists_of(schema: Any) -> list[dict[str, Any]]:
    """Every list in what pydantic made of a body."""
    if isinstance(schema, dict):
        inner = [found for value in schema.values() for found in lists_of(value)]
        return [schema, *inner] if schema.get("type") == "list" else inner
    return [found for value in schema for found in lists_of(value)] if isinstance(schema, list | tuple) else []


@pytest.mark.parametrize(
    ("kind", "document", "limit"),
    [
        (ChatBody, chat(messages=[{"role": "user", "content": ""}] * MANY), "at most 2048 items"),
        (ChatBody, chat(messages=[{"role": "user", "content": [PART] * 100}] * 2000), "200000 parts; a request has at"),
        (EmbeddingsBody, {"model": "x", "input": [[1]] * MANY}, "at most 2048 items"),
        (EmbedBody, {"inputs": [[1]] * MANY}, "at most 2048 items"),
        (PredictBody, {"inputs": [["x"]] * MANY}, "at most 2048 items"),
        (ClassificationBody, {"inputs": [{"text": "x", "text_pair": "y"}] * MANY}, "at most 2048 items"),
        (AnswerBody, {"inputs": [{"question": "x", "context": "y"}] * MANY}, "at most 2048 items"),
    ],
)
def test_very_many_right_items_are_refused_by_their_number(
    kind: type[Body], document: dict[str, Any], limit: str
) -> None:
    with pytest.raises(ValidationError) as refused:
        kind.model_validate(document)
    assert any(limit in problem["msg"] for problem in refused.value.errors(include_input=False))


def test_every_list_of_every_body_ends_at_its_first_wrong_item() -> None:
    kinds, at = [Body], 0
    while at < len(kinds):
        kinds += kinds[at].__subclasses__()
        at += 1
    lists = [(kind.__name__, one) for kind in kinds for one in lists_of(kind.__pydantic_core_schema__)]
    assert len(lists) > 10
    assert [name for name, one in lists if not one.get("fail_fast")] == []
    plain = {"str", "int"}
    assert [name for name, one in lists if one["items_schema"]["type"] not in plain and "max_length" not in one] == []


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"messages": WRONG}, "messages[0].role"),
        (UNKNOWN, "x0"),
        ({"messages": [USER, USER | UNKNOWN]}, "messages[1].x0"),
    ],
)
async def test_the_first_of_very_many_mistakes_is_named(
    llama: LocalWorker, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any], param: str
) -> None:
    collected: list[int] = []
    refusal = reading._refusal

    def counted(error: ValidationError, document: dict[str, Any]) -> Any:
        collected.append(error.error_count())
        return refusal(error, document)

    monkeypatch.setattr(reading, "_refusal", counted)
    answer = await llama.serving.post("/v1/chat/completions", json=chat(model="tiny", **more))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert collected[0] < 20
