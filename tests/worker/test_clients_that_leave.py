"""Clients that leave: in the moment when their answer begins, behind a queue of their own, and very many of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from lowbeam_worker.engines.decoder import DecoderEngine
from lowbeam_worker.engines.encoder import EncoderEngine
from lowbeam_worker.front.app import serving_app
from tests.worker.conftest import LocalWorker
from tests.worker.decoders import ask, prompt, reference, running_engine, whole

pytestmark = pytest.mark.asyncio(loop_scope="session")
HELLO = [{"role": "user", "content": "hello"}]


def scope(path: str) -> dict[str, Any]:
    """As uvicorn gives it."""
    asgi = {"version": "3.0", "spec_version": "2.3"}
    return {"type": "http", "asgi": asgi, "method": "POST", "path": path, "headers": [], "query_string": b""}


def figures(local: LocalWorker) -> dict[tuple[str, str], float]:
    """Samples of /metrics by name and reason."""
    text = local.worker.metrics.exposition()[0].decode()
    return {
        (sample.name, sample.labels.get("finished_reason", "")): sample.value
        for family in parse(text)
        for sample in family.samples
    }


def changed(before: dict[tuple[str, str], float], after: dict[tuple[str, str], float]) -> dict[str, float]:
    """What became of requests meanwhile."""
    names = {
        "received": ("lowbeam_worker_requests_received_total", ""),
        "refused": ("lowbeam_worker_requests_refused_total", ""),
        **{reason: ("vllm:request_success_total", reason) for reason in ("stop", "length", "abort", "error")},
    }
    grown = {name: after.get(key, 0.0) - before.get(key, 0.0) for name, key in names.items()}
    return {name: value for name, value in grown.items() if value}


async def leave_when(there: Callable[[], bool], local: LocalWorker, path: str, body: dict[str, Any]) -> None:
    """A request whose client closes its connection as soon as `there`."""
    bodies = [orjson.dumps(body)]

    async def receive() -> dict[str, Any]:
        if bodies:
            return {"type": "http.request", "body": bodies.pop(), "more_body": False}
        while not there():  # noqa: ASYNC110 - an engine has no event for it
            await asyncio.sleep(0.002)
        return {"type": "http.disconnect"}

    async def send(_: Any) -> None:
        """Nobody is there."""

    await serving_app(local.worker)(scope(path), receive, send)


@pytest.mark.parametrize(
    ("path", "wish"), [("/v1/chat/completions", {"messages": HELLO}), ("/v1/completions", {"prompt": "q"})]
)
async def test_a_client_that_leaves_as_its_stream_begins_frees_its_slot(
    llama: LocalWorker, path: str, wish: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, submitted, before = llama.worker.engine, asyncio.Event(), figures(llama)
    assert isinstance(engine, DecoderEngine)
    original, bodies = engine.submit, [{"model": "tiny", "stream": True, **wish}]

    def submit(*asked: Any, **more: Any) -> Any:
        submitted.set()
        return original(*asked, **more)

    async def receive() -> dict[str, Any]:
        if bodies:
            return {"type": "http.request", "body": orjson.dumps(bodies.pop()), "more_body": False}
        await submitted.wait()
        return {"type": "http.disconnect"}

    async def send(_: Any) -> None:
        await asyncio.sleep(0)  # as where the client reads too slowly

    monkeypatch.setattr(engine, "submit", submit)
    await serving_app(llama.worker)(scope(path), receive, send)
    assert (engine.stats().running, engine.stats().waiting) == (0, 0)
    assert changed(before, figures(llama)) == {"received": 1, "abort": 1}


@pytest.mark.parametrize("wish", [{"messages": HELLO}, {"messages": HELLO, "stream": True}])
async def test_a_client_that_left_is_an_abort_and_no_refusal(llama: LocalWorker, wish: dict[str, Any]) -> None:
    engine, before = llama.worker.engine, figures(llama)
    assert engine is not None
    await leave_when(lambda: engine.stats().running > 0, llama, "/v1/chat/completions", {"model": "tiny", **wish})
    assert changed(before, figures(llama)) == {"received": 1, "abort": 1}


async def test_an_encoders_client_that_left_is_an_abort_as_well(
    minilm: LocalWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, inside, go_on, before = minilm.worker.engine, threading.Event(), threading.Event(), figures(minilm)
    assert isinstance(engine, EncoderEngine)
    original = engine._forward

    def slow(batch: Any) -> Any:
        inside.set()
        go_on.wait(10)
        return original(batch)

    monkeypatch.setattr(engine, "_forward", slow)
    await leave_when(inside.is_set, minilm, "/v1/embeddings", {"model": "minilm", "input": "x"})
    go_on.set()
    assert changed(before, figures(minilm)) == {"received": 1, "abort": 1}


async def test_an_encoders_failure_is_counted_as_one(minilm: LocalWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, before = minilm.worker.engine, figures(minilm)
    assert isinstance(engine, EncoderEngine)

    def broken(_: Any) -> Any:
        raise RuntimeError("no kernel")

    monkeypatch.setattr(engine, "_forward", broken)
    answer = await minilm.serving.post("/v1/embeddings", json={"model": "minilm", "input": "x"})
    assert answer.status_code == 500
    assert changed(before, figures(minilm)) == {"received": 1, "refused": 1, "error": 1}


async def test_nothing_is_left_of_requests_whose_clients_left() -> None:
    async with running_engine() as engine:
        await whole(ask(engine, prompt(0), 1))
        loop = engine._loop
        assert loop is not None
        router = loop._manager.output_router
        for number in range(40):
            generation = ask(engine, prompt(number), 400)
            if number % 2:
                await anext(aiter(generation))
            engine.cancel(generation)
        assert await whole(ask(engine, prompt(1), 8)) == reference(prompt(1), 8)
        await asyncio.sleep(0)
        assert (len(router.result_handlers), router.output_queue.qsize()) == (0, 0)
