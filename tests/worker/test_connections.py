"""What clients do below HTTP's requests: wishes for other protocols, heads without an end, and silence."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import orjson
import pytest
import pytest_asyncio

from lowbeam_worker import connections
from lowbeam_worker.front.app import serving_app
from lowbeam_worker.serving import server
from tests.worker.conftest import LocalWorker

pytestmark = pytest.mark.asyncio(loop_scope="session")
BODY = orjson.dumps({"model": "tiny", "prompt": "q", "max_tokens": 2, "temperature": 0})
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"
"""As Java's HTTP client sends it."""


def head(headers: bytes = b"", size: int = len(BODY)) -> bytes:
    return b"POST /v1/completions HTTP/1.1\r\nHost: w\r\n%sContent-Length: %d\r\n\r\n" % (headers, size)


class Client:
    """A connection to a worker's serving port, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def say(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            await asyncio.sleep(0.02)

    async def hear(self) -> tuple[int, bytes]:
        """Status and body of one answer."""
        answer = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 20)
        size = next(line for line in answer.split(b"\r\n") if line.startswith(b"content-length"))
        return int(answer.split()[1]), await self.reader.readexactly(int(size.split()[1]))

    async def hears_the_end(self) -> bool:
        with contextlib.suppress(ConnectionError):
            return await asyncio.wait_for(self.reader.read(), 5) == b""
        return True


@pytest_asyncio.fixture(loop_scope="session")
async def client(llama: LocalWorker, request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    if seconds := getattr(request, "param", None):
        request.getfixturevalue("monkeypatch").setattr(connections, "HEAD_SECONDS", seconds)
    one = server(serving_app(llama.worker), 0)
    running = asyncio.create_task(one.serve())
    while not one.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    reader, writer = await asyncio.open_connection("127.0.0.1", one.servers[0].sockets[0].getsockname()[1])
    yield Client(reader, writer)
    writer.close()
    one.should_exit = True
    await running


@pytest.mark.parametrize("wish", [H2C, b"Connection: upgrade\r\nUpgrade: websocket\r\n", b"upgrade: h2c\r\n"])
@pytest.mark.parametrize("in_one_piece", [True, False])
async def test_a_wish_for_another_protocol_is_passed_over_and_the_body_is_read(
    client: Client, wish: bytes, in_one_piece: bool
) -> None:
    for _ in range(2):  # the connection stays
        await client.say(*([head(wish) + BODY] if in_one_piece else [head(wish), BODY[:9], BODY[9:]]))
        status, body = await client.hear()
        assert (status, orjson.loads(body)["usage"]["completion_tokens"]) == (200, 2)


async def test_very_many_wishes_in_one_piece_are_all_answered(client: Client) -> None:
    await client.say(b"GET /health HTTP/1.1\r\nHost: w\r\n%s\r\n" % H2C * 1500)
    for _ in range(1500):
        assert await client.hear() == (200, b"ok\n")


async def test_a_worker_is_no_proxy(client: Client) -> None:
    await client.say(b"CONNECT 10.0.0.1:443 HTTP/1.1\r\nHost: 10.0.0.1\r\n\r\n" + head() + BODY)
    assert await client.hear() == (400, b"This is no proxy.")
    assert await client.hears_the_end()


async def test_a_head_without_an_end_is_not_kept(client: Client) -> None:
    sent = 0
    with contextlib.suppress(ConnectionError):
        client.writer.write(b"POST /v1/completions HTTP/1.1\r\nX-Long: ")
        while sent < 1 << 24 and not client.reader._buffer:  # type: ignore[attr-defined] # has it been answered?
            await client.say(b"x" * 8192)
            sent += 8192
    assert sent < 1 << 20
    assert (await client.hear())[0] == 431
    assert await client.hears_the_end()


async def test_a_large_head_is_read(client: Client) -> None:
    cookie = b"Cookie: " + b"c" * 20_000 + b"\r\n"
    await client.say(head(cookie)[:9000], head(cookie)[9000:] + BODY)
    assert (await client.hear())[0] == 200


@pytest.mark.parametrize("client", [0.3], indirect=True)
@pytest.mark.parametrize("said", [(), (b"POST /v1/comp",), (head() + BODY, b"POST /v1/comp")])
async def test_a_connection_that_brings_no_request_is_closed(client: Client, said: tuple[bytes, ...]) -> None:
    await client.say(*said)
    if len(said) > 1:
        assert (await client.hear())[0] == 200
    assert await client.hears_the_end()


@pytest.mark.parametrize("client", [0.05], indirect=True)
async def test_half_a_request_behind_another_does_not_cut_its_answer_off(client: Client) -> None:
    long = orjson.dumps({"model": "tiny", "prompt": "q", "max_tokens": 64, "ignore_eos": True})
    await client.say(head(size=len(long)) + long + b"POST /v1/comp")
    status, body = await client.hear()
    assert (status, orjson.loads(body)["usage"]["completion_tokens"]) == (200, 64)
    assert await client.hears_the_end()
