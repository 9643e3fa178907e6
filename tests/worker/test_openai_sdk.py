"""OpenAI's own library as the client, sync and async, over real sockets: what it sends is taken, what it gets it can
read, and a client that leaves in the middle leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
import torch
from openai import APIStatusError, AsyncOpenAI, BadRequestError, NotFoundError, OpenAI, RateLimitError

from lowbeam_worker.front.app import serving_app
from lowbeam_worker.limits import AnswerLimits
from lowbeam_worker.random_llama import make_random_llama
from lowbeam_worker.serving import server
from tests.worker.conftest import LocalWorker

pytestmark = pytest.mark.asyncio(loop_scope="session")
HELLO: Any = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "hello"}]


async def listening(local: LocalWorker) -> AsyncIterator[str]:
    """The worker behind a socket, as uvicorn serves it in a pod."""
    one = server(serving_app(local.worker), 0)
    running = asyncio.create_task(one.serve())
    while not one.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    port = one.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    one.should_exit = True
    await running


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def llama_url(llama: LocalWorker) -> AsyncIterator[str]:
    async for url in listening(llama):
        yield url


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def client(llama_url: str) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{llama_url}/v1", api_key="none", max_retries=0) as one:
        yield one


async def test_the_sync_client_chats_completes_and_lists(llama_url: str) -> None:
    def use() -> None:
        with OpenAI(base_url=f"{llama_url}/v1", api_key="none", max_retries=0) as sync:
            chat = sync.chat.completions.create(model="tiny", messages=HELLO, max_completion_tokens=8, seed=1)
            assert chat.usage is not None
            assert chat.usage.completion_tokens <= 8
            assert chat._request_id
            text = sync.completions.create(model="tiny", prompt="Power is", max_tokens=8, temperature=0)
            assert text.choices[0].finish_reason in {"length", "stop"}
            stream = sync.completions.create(model="tiny", prompt="Power is", max_tokens=8, temperature=0, stream=True)
            assert "".join(chunk.choices[0].text for chunk in stream) == text.choices[0].text
            assert [model.id for model in sync.models.list()] == ["tiny"]
            assert sync.models.retrieve("tiny").id == "tiny"
            with pytest.raises(NotFoundError):
                sync.models.retrieve("other/model")

    await asyncio.to_thread(use)


async def test_an_answer_can_be_sent_back_as_the_librarys_own_dump_of_it(client: AsyncOpenAI) -> None:
    messages = list(HELLO)
    answer = await client.chat.completions.create(model="tiny", messages=messages, max_tokens=4)
    dumped: Any = answer.choices[0].message.model_dump()
    assert dumped["refusal"] is None
    messages += [dumped, {"role": "user", "content": "and?"}]
    again = await client.chat.completions.create(model="tiny", messages=messages, max_tokens=4)
    # What the model reads is what it would have read without the empty fields.
    short = [*HELLO, {"role": "assistant", "content": dumped["content"]}, messages[-1]]
    plain = await client.chat.completions.create(model="tiny", messages=short, max_tokens=4)
    assert again.usage is not None
    assert plain.usage is not None
    assert again.usage.prompt_tokens == plain.usage.prompt_tokens


async def test_empty_stream_options_are_not_used(client: AsyncOpenAI) -> None:
    options: Any = {"include_usage": None}
    stream = await client.chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=2, stream=True, stream_options=options
    )
    assert [chunk.usage for chunk in [chunk async for chunk in stream] if chunk.usage] == []


async def test_the_sync_client_embeds(minilm: LocalWorker) -> None:
    async for url in listening(minilm):

        def use(url: str = url) -> None:
            with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as sync:
                answer = sync.embeddings.create(model="minilm", input=["a", "b"], dimensions=32)
                assert [len(entry.embedding) for entry in answer.data] == [32, 32]
                with pytest.raises(BadRequestError) as refused:
                    sync.embeddings.create(model="minilm", input="a", dimensions=1000)
                assert refused.value.param == "dimensions"

        await asyncio.to_thread(use)


async def test_errors_arrive_as_the_librarys_own(client: AsyncOpenAI, llama: LocalWorker) -> None:
    with pytest.raises(NotFoundError) as missing:
        await client.chat.completions.create(model="gpt-5", messages=HELLO)
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(BadRequestError) as long:
        await client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "long " * 3000}])
    assert long.value.code == "context_length_exceeded"
    assert "1024 tokens" in long.value.message
    llama.worker.admission.limit_rate(0.01)
    try:
        with pytest.raises(RateLimitError) as held:  # noqa: PT012 - the first may still be let in
            await client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=1)
            await client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=1)
    finally:
        llama.worker.admission.limit_rate(None)
    assert held.value.code == "admission_rate"
    assert int(held.value.response.headers["retry-after"]) > 10


async def test_a_worker_that_leaves_says_so_and_closes_the_connection(llama_url: str, llama: LocalWorker) -> None:
    llama.worker._draining = True
    try:
        async with AsyncOpenAI(base_url=f"{llama_url}/v1", api_key="none", max_retries=0) as one:
            with pytest.raises(APIStatusError) as refused:
                await one.completions.create(model="tiny", prompt="x")
    finally:
        llama.worker._draining = False
    assert refused.value.status_code == 503
    assert refused.value.response.headers["connection"] == "close"
    assert refused.value.response.headers["retry-after"] == "1"


def reference(prompt: str, tokens: int) -> tuple[list[int], torch.Tensor, Any]:
    """The greedy answer and the log-probabilities of each of its positions."""
    model, tokenizer = make_random_llama(torch.float32)
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    whole = model.generate(ids, max_new_tokens=tokens, do_sample=False)
    with torch.inference_mode():
        scores = model(whole).logits[0].log_softmax(-1)
    return whole[0, ids.shape[1] :].tolist(), scores[ids.shape[1] - 1 : -1], tokenizer


async def test_log_probabilities_of_a_chat_are_the_models(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "hello"}],
        temperature=0,
        max_tokens=12,
        logprobs=True,
        top_logprobs=3,
    )
    tokens, scores, tokenizer = reference("<|user|>hello<|end|><|assistant|>", 12)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert [entry.token for entry in logprobs.content] == [tokenizer.decode([token]) for token in tokens]
    for entry, token, row in zip(logprobs.content, tokens, scores, strict=True):
        assert entry.logprob == pytest.approx(float(row[token]), abs=1e-3)
        assert [top.logprob for top in entry.top_logprobs] == pytest.approx(row.topk(3).values.tolist(), abs=1e-3)


@pytest.mark.parametrize("temperature", [0, 1.3])
async def test_streamed_log_probabilities_are_those_of_the_whole_answer(
    client: AsyncOpenAI, temperature: float
) -> None:
    ask: Any = {"model": "tiny", "prompt": "Power is", "max_tokens": 16, "temperature": temperature, "seed": 5}
    whole = (await client.completions.create(**ask, logprobs=2)).choices[0]
    chunks = [chunk async for chunk in await client.completions.create(**ask, logprobs=2, stream=True)]
    parts = [chunk.choices[0].logprobs for chunk in chunks if chunk.choices[0].logprobs]
    assert whole.logprobs is not None
    assert [token for part in parts for token in part.tokens or []] == whole.logprobs.tokens
    assert [offset for part in parts for offset in part.text_offset or []] == whole.logprobs.text_offset
    streamed = [logprob for part in parts for logprob in part.token_logprobs or []]
    assert streamed == pytest.approx(whole.logprobs.token_logprobs, abs=1e-4)


async def test_nothing_of_a_stop_sequence_gets_out_among_the_log_probabilities(client: AsyncOpenAI) -> None:
    ask: Any = {"model": "tiny", "prompt": "Power is scarce", "max_tokens": 32, "temperature": 0, "logprobs": 0}
    full = (await client.completions.create(**ask)).choices[0].text
    stop = full[6:8]
    cut = (await client.completions.create(**ask, stop=stop)).choices[0]
    assert cut.text == full[: full.index(stop)]
    assert cut.logprobs is not None
    assert cut.logprobs.tokens is not None
    assert cut.text.startswith("".join(cut.logprobs.tokens))


async def running(local: LocalWorker) -> int:
    stats = local.worker.engine.stats()  # type: ignore[union-attr]
    return stats.running + stats.waiting


async def until_empty(local: LocalWorker) -> None:
    """Until the engine has nobody any more."""
    async with asyncio.timeout(60):
        while await running(local):  # noqa: ASYNC110 - the engine has no event for it
            await asyncio.sleep(0.005)


def left_early(local: LocalWorker) -> float:
    """How many answers were given up because their client left; those that were written to their end do not count."""
    shown = local.worker.metrics.exposition()[0].decode().splitlines()
    return sum(float(it.split()[-1]) for it in shown if it.startswith("vllm:request_success_total") and '"abort"' in it)


@pytest.fixture
def long_answers(llama: LocalWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    """900 tokens take seconds: nobody ends before its client leaves."""
    monkeypatch.setattr(llama.worker, "answers", AnswerLimits(longest=900, usual=900))


@pytest.mark.usefixtures("long_answers")
async def test_a_client_that_closes_its_stream_frees_its_slot_at_once(client: AsyncOpenAI, llama: LocalWorker) -> None:
    before = left_early(llama)
    stream = await client.completions.create(model="tiny", prompt="Power", max_tokens=900, temperature=0, stream=True)
    async for _ in stream:
        break
    assert await running(llama) == 1
    await stream.close()
    await until_empty(llama)
    async with asyncio.timeout(60):
        await llama.worker.idle.wait()
    assert left_early(llama) - before == 1


@pytest.mark.usefixtures("long_answers")
async def test_a_client_that_leaves_while_it_waits_frees_its_place(llama_url: str, llama: LocalWorker) -> None:
    body, before = {"model": "tiny", "prompt": "Power", "max_tokens": 900, "temperature": 0}, left_early(llama)
    async with httpx.AsyncClient(base_url=llama_url, timeout=60) as http:
        posts = [asyncio.create_task(http.post("/v1/completions", json=body)) for _ in range(12)]
        while await running(llama) < 12:  # noqa: ASYNC110 - the engine has no event for it
            await asyncio.sleep(0.005)
        for post in posts:
            post.cancel()
        await asyncio.gather(*posts, return_exceptions=True)
        await until_empty(llama)
        assert left_early(llama) - before == 12
        answer = await http.post("/v1/completions", json={**body, "max_tokens": 2})
    assert answer.status_code == 200


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_ten_thousand_connections_that_come_to_nothing_harm_nobody(llama_url: str, llama: LocalWorker) -> None:
    host, port = llama_url.removeprefix("http://").split(":")
    loop, files, received = asyncio.get_running_loop(), open_files(), llama.worker.metrics.counts.received
    good = {"model": "tiny", "prompt": "Power", "max_tokens": 8, "ignore_eos": True}
    for _ in range(50):  # waves, because both ends of each connection are files of this process
        innocent = asyncio.create_task(llama.serving.post("/v1/completions", json=good))
        clients = [socket.socket() for _ in range(200)]
        for number, client in enumerate(clients):
            client.setblocking(False)
            await loop.sock_connect(client, (host, int(port)))
            if number % 2:
                client.send(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        await asyncio.sleep(0)
        for client in clients:
            client.close()
        answer = await innocent
        assert answer.status_code == 200
        assert answer.json()["usage"]["completion_tokens"] == 8
    await until_empty(llama)
    async with asyncio.timeout(60):
        await llama.worker.idle.wait()
        while open_files() > files:  # noqa: ASYNC110 - the server closes its ends without a word
            await asyncio.sleep(0.02)
    assert llama.worker.requests_in_flight() == ()
    assert llama.worker.metrics.counts.received - received == 50 + 5000


async def test_a_client_that_does_not_read_its_stream_holds_up_nobody_and_gets_all_of_it_later(
    llama_url: str, llama: LocalWorker
) -> None:
    host, port = llama_url.removeprefix("http://").split(":")
    body = {"model": "tiny", "prompt": "Power", "max_tokens": 60, "ignore_eos": True, "logprobs": 5, "stream": True}
    content = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(content)}\r\n\r\n"
    received = llama.worker.metrics.counts.received
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(slow, (host, int(port)))
        await loop.sock_sendall(slow, head.encode() + content)
        async with asyncio.timeout(60):
            while llama.worker.metrics.counts.received == received:  # noqa: ASYNC110 - here, or here and gone already
                await asyncio.sleep(0.005)
            answer = await llama.serving.post("/v1/completions", json=body | {"stream": False, "max_tokens": 8})
            assert answer.status_code == 200
            while llama.worker.telemetry().requests_running:  # noqa: ASYNC110 - its slot, long before it reads
                await asyncio.sleep(0.005)
            found = b""
            while chunk := await loop.sock_recv(slow, 4096):
                found += chunk
    assert b'"finish_reason":"length"' in found
    assert found.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
