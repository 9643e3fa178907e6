"""Requests that are wrong, each refused with its status, its field and a sentence that says what would be right."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from lowbeam_worker.front import reading
from tests.worker.conftest import LocalWorker

pytestmark = pytest.mark.asyncio(loop_scope="session")
CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
EMBED = "/v1/embeddings"
HELLO = [{"role": "user", "content": "hello"}]


def chat(**more: object) -> bytes:
    return json.dumps({"model": "tiny", "messages": HELLO, **more}).encode()


def text(**more: object) -> bytes:
    return json.dumps({"model": "tiny", "prompt": "x", **more}).encode()


def embed(**more: object) -> bytes:
    return json.dumps({"model": "minilm", "input": "x", **more}).encode()


@pytest.mark.parametrize(
    ("path", "body", "status", "param", "part"),
    [
        # not JSON, or not an object
        (CHAT, b"", 400, None, "not JSON"),
        (CHAT, b"{", 400, None, "not JSON"),
        (CHAT, b"\xff\xfe", 400, None, "not JSON"),
        (CHAT, b"[1]", 400, None, "must be a JSON object"),
        (CHAT, b"[" * 3000, 400, None, "not JSON"),
        (CHAT, b'{"model": "tiny", "messages": [], "temperature": NaN}', 400, None, "not JSON"),
        (CHAT, b'{"model": "tiny", "messages": [], "temperature": 1e999}', 400, None, "not JSON"),
        (TEXT, b'{"model": "tiny", "prompt": "\\ud800"}', 400, None, "not JSON"),
        # fields that are missing, unknown or of the wrong type
        (CHAT, b"{}", 400, "model", "'model' is missing"),
        (CHAT, b'{"model": "tiny"}', 400, "messages", "'messages' is missing"),
        (CHAT, chat(model=None), 400, "model", "'model' is missing"),
        (CHAT, chat(model="other"), 404, "model", "serves 'tiny'"),
        (CHAT, chat(model=7), 400, "model", "valid string"),
        (CHAT, chat(messages="hello"), 400, "messages", "valid list"),
        (CHAT, chat(messages=[{"role": "user"}]), 400, "messages[0].content", "is missing"),
        (CHAT, chat(messages=[{"role": "tool", "content": "x"}]), 400, "messages[0].role", "does not support"),
        (CHAT, chat(messages=[{"role": "user", "content": "x", "x": 1}]), 400, "messages[0].x", "not supported"),
        (
            CHAT,
            chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]),
            400,
            "messages[0].content[0].type",
            "does not support",
        ),
        # a null is a field that is not there; what is beside it is still looked at
        (CHAT, chat(messages=[{"role": "user", "content": "x", "refusal": None}]), 200, None, ""),
        (CHAT, chat(messages=[{"role": "user", "content": None}]), 400, "messages[0].content", "is missing"),
        (CHAT, chat(messages=[{"role": "user", "content": "x", "a": None, "b": 1}]), 400, "messages[0].b", "not supp"),
        (CHAT, chat(messages=[None]), 400, "messages", "not valid"),
        (CHAT, chat(messages=HELLO * 2049), 400, "messages", "at most 2048 items"),
        (CHAT, chat(temperature="hot"), 400, "temperature", "valid number"),
        (CHAT, chat(temperature=True), 400, "temperature", "valid number"),
        (CHAT, chat(temperature=-0.1), 400, "temperature", "greater than or equal to 0"),
        (CHAT, chat(top_p=1.1), 400, "top_p", "less than or equal to 1"),
        (CHAT, chat(max_tokens=True), 400, "max_tokens", "valid integer"),
        (CHAT, chat(max_tokens="5"), 400, "max_tokens", "valid integer"),
        (CHAT, chat(max_tokens=1.5), 400, "max_tokens", "valid integer"),
        (CHAT, chat(max_tokens=0), 400, "max_tokens", "greater than or equal to 1"),
        (CHAT, chat(max_tokens=10**6), 400, "max_tokens", "at most"),
        (CHAT, chat(max_completion_tokens=10**6), 400, "max_completion_tokens", "at most"),
        (CHAT, chat(seed=2**63), 400, "seed", "'seed' is not valid"),
        (CHAT, chat(stop=[]), 200, None, ""),
        (CHAT, chat(stop=["a"] * 5), 400, "stop", "at most 4"),
        (CHAT, chat(stop=""), 400, "stop", "at least 1 character"),
        (CHAT, chat(stop=[1]), 400, "stop", "valid string"),
        (CHAT, chat(stream="yes"), 400, "stream", "valid boolean"),
        (CHAT, chat(stream_options={"include_usage": True}), 400, None, "needs stream=true"),
        (CHAT, chat(logprobs=3), 400, "logprobs", "valid boolean"),
        (CHAT, chat(top_logprobs=3), 400, None, "needs logprobs=true"),
        (CHAT, chat(logprobs=True, top_logprobs=21), 400, "top_logprobs", "less than or equal to 20"),
        (TEXT, text(logprobs=6), 400, "logprobs", "less than or equal to 5"),
        # what other servers do and this one does not
        (CHAT, chat(n=2), 400, "n", "does not support"),
        (CHAT, chat(n=True), 400, "n", "valid integer"),
        (CHAT, chat(n=1.0), 400, "n", "valid integer"),
        (CHAT, chat(frequency_penalty=False), 400, "frequency_penalty", "valid number"),
        (CHAT, chat(presence_penalty=False), 400, "presence_penalty", "valid number"),
        (CHAT, chat(n=1, frequency_penalty=0, presence_penalty=0.0), 200, None, ""),
        (CHAT, chat(stream=True, stream_options={"include_obfuscation": 0}), 400, "stream_options", "valid boolean"),
        (TEXT, text(best_of=True), 400, "best_of", "valid integer"),
        (TEXT, text(echo=0), 400, "echo", "valid boolean"),
        (TEXT, text(echo=False, best_of=1), 200, None, ""),
        (CHAT, chat(tools=[{"type": "function"}]), 400, "tools", "not supported"),
        (CHAT, chat(tool_choice="auto"), 400, "tool_choice", "not supported"),
        (CHAT, chat(response_format={"type": "json_object"}), 400, "response_format.type", "does not support"),
        (CHAT, chat(logit_bias={"1": 5}), 400, "logit_bias", "not supported"),
        (CHAT, chat(frequency_penalty=0.5), 400, "frequency_penalty", "does not support"),
        (CHAT, chat(presence_penalty=1), 400, "presence_penalty", "does not support"),
        (CHAT, chat(reasoning_effort="high"), 400, "reasoning_effort", "does not think"),
        (CHAT, chat(thinking_token_budget=100), 400, "thinking_token_budget", "does not think"),
        (
            CHAT,
            chat(chat_template_kwargs={"enable_thinking": True}),
            400,
            "chat_template_kwargs.enable_thinking",
            "no sw",
        ),
        (CHAT, chat(chat_template_kwargs={"custom": 1}), 400, "chat_template_kwargs.custom", "not supported"),
        (TEXT, text(echo=True), 400, "echo", "does not support"),
        (TEXT, text(best_of=3), 400, "best_of", "does not support"),
        (TEXT, text(suffix="x"), 400, "suffix", "not supported"),
        (TEXT, text(prompt=["a"]), 200, None, ""),
        (TEXT, text(prompt=[[1, 2]]), 200, None, ""),
        (TEXT, text(prompt=[[1], [2]]), 400, "prompt", "several prompts are several requests"),
        (TEXT, text(prompt=[[]]), 400, "prompt", "at least 1 item"),
        (TEXT, text(prompt=[""]), 400, "prompt", "at least 1 character"),
        (TEXT, text(prompt=[[["a"]]]), 400, "prompt", "valid"),
        (TEXT, text(prompt=["a", "b"]), 400, "prompt", "several prompts are several requests"),
        (TEXT, text(prompt=""), 400, "prompt", "at least 1 character"),
        (TEXT, text(prompt=[]), 400, "prompt", "at least 1 item"),
        (TEXT, text(prompt=[1, -1]), 400, "prompt", "outside 0 to"),
        (TEXT, text(prompt=[10**9]), 400, "prompt", "outside 0 to"),
        (TEXT, text(prompt=[1] * 5000), 400, "prompt", "1024 tokens"),
        (TEXT, text(prompt="x" * 100_000), 400, "prompt", "100000 characters"),
        # encoders
        (EMBED, embed(input=[]), 400, "input", "no input"),
        (EMBED, embed(input=["a", ""]), 400, "input", "Input 1 is empty"),
        (EMBED, embed(input=["a"] * 2049), 400, "input", "2049 inputs; one request takes at most 2048"),
        (EMBED, embed(input=[["a"]]), 400, "input", "valid integer"),
        (EMBED, embed(input=[[1], []]), 400, "input", "at least 1 item"),
        (EMBED, embed(input=5), 400, "input", "'input'"),
        (EMBED, embed(input="a " * 300), 400, "input", "at most 256"),
        (EMBED, embed(dimensions=0), 400, "dimensions", "greater than or equal to 1"),
        (EMBED, embed(model="gpt"), 404, "model", "serves 'minilm'"),
        ("/embed", b'{"inputs": "x", "prompt_name": "query"}', 400, "prompt_name", "does not support"),
        ("/rerank", b'{"query": "x", "texts": ["y"]}', 400, None, "is for another task"),
        ("/v1/images", b"{}", 404, None, "does not exist here"),
    ],
)
async def test_a_wrong_request_is_told_what_is_wrong(  # noqa: PLR0917 - the columns of the table
    llama: LocalWorker, minilm: LocalWorker, path: str, body: bytes, status: int, param: str | None, part: str
) -> None:
    local = llama if path in {CHAT, TEXT, "/rerank"} else minilm
    answer = await local.serving.post(path, content=body)
    assert answer.status_code == status, answer.text
    if status == 200:
        return
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param, error
    assert part in error["message"], error
    assert local.worker.engine is not None
    assert local.worker.engine.failed is None


async def test_a_body_that_is_too_large_is_not_read_to_its_end(minilm: LocalWorker) -> None:
    announced = await minilm.serving.post(EMBED, content=b" " * (reading.MAX_BODY_BYTES + 1))
    assert announced.status_code == 413
    sent = 0

    async def endless() -> Any:
        nonlocal sent
        while sent < 10 * reading.MAX_BODY_BYTES:
            sent += 1 << 20
            yield b" " * (1 << 20)

    chunked = await minilm.serving.post(EMBED, content=endless())
    assert chunked.status_code == 413
    assert chunked.json()["error"]["code"] == "body_too_large"


async def test_a_body_that_does_not_come_holds_no_place_for_ever(
    minilm: LocalWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "BODY_SECONDS", 0.05)

    async def trickle() -> Any:
        yield b"{"
        await asyncio.sleep(5)
        yield b"}"

    answer = await minilm.serving.post(EMBED, content=trickle())
    assert answer.status_code == 408
    assert answer.json()["error"]["code"] == "body_timeout"
    assert answer.headers["Connection"] == "close"  # or the rest of the body would hold it open


async def test_an_answer_carries_the_requests_name(minilm: LocalWorker) -> None:
    body = {"model": "minilm", "input": "x"}
    named = await minilm.serving.post(EMBED, json=body, headers={"X-Request-Id": "order-17"})
    unnamed = await minilm.serving.post(EMBED, json=body)
    silly = await minilm.serving.post(EMBED, json=body, headers={"X-Request-Id": "x" * 500})
    assert named.headers["X-Request-Id"] == "order-17"
    assert unnamed.headers["X-Request-Id"] != silly.headers["X-Request-Id"]
    assert len(silly.headers["X-Request-Id"]) == 24


async def test_a_worker_over_its_power_budget_sends_requests_away(
    minilm: LocalWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {"model": "minilm", "input": "x"}
    monkeypatch.setattr(minilm.worker.admission, "power_budget_watts", 300.0)

    async def status(watts: float | None) -> httpx.Response:
        monkeypatch.setattr("lowbeam_worker.front.app.fresh_watts", lambda _: watts)
        return await minilm.serving.post(EMBED, json=body)

    over = await status(310.0)
    assert (over.status_code, over.json()["error"]["code"]) == (429, "power_budget")
    assert "310 W of 300 W" in over.json()["error"]["message"]
    assert over.headers["Retry-After"] == "1"
    assert (await status(290.0)).status_code == 200
    assert (await status(None)).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "allowed"), [("GET", CHAT, "POST"), ("OPTIONS", EMBED, "POST"), ("POST", "/ready", "GET, HEAD")]
)
async def test_a_wrong_method_is_told_the_right_one(minilm: LocalWorker, method: str, path: str, allowed: str) -> None:
    answer = await minilm.serving.request(method, path)
    assert (answer.status_code, answer.headers["Allow"]) == (405, allowed)
    error = answer.json()["error"]
    assert (error["code"], error["message"]) == ("method_not_allowed", f"{path} is for {allowed}, not for {method}.")


@pytest.mark.parametrize(
    "body", [embed(**{"k" * 10**6: 1}), embed(model="m" * 10**6), chat(messages=[{"r" * 10**6: 1}])]
)
async def test_a_refusal_is_not_as_long_as_what_it_refuses(
    minilm: LocalWorker, llama: LocalWorker, body: bytes
) -> None:
    for local, path in ((minilm, EMBED), (llama, CHAT), (llama, TEXT)):
        answer = await local.serving.post(path, content=body)
        assert answer.status_code in {400, 404}
        assert len(answer.content) < 1000
