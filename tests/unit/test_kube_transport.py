"""The HTTP transport against a real HTTP server that misbehaves on purpose."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from lowbeam.kube import (
    INFERENCE_WORKLOADS,
    LEASES,
    NODES,
    PODS,
    AioTransport,
    AlreadyExists,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    KubeError,
    NotFound,
    ServerUnavailable,
    TooManyRequests,
    Unauthorized,
    connect,
    errors,
)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
POD = {"metadata": {"name": "a", "namespace": "ns", "uid": "u"}}


class Server:
    """Answers each request with the next of `answers`, the last one again and again."""

    def __init__(self) -> None:
        self.answers: list[Handler] = []
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.raw_path, dict(request.headers), await request.read()))
        handler = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return await handler(request)


def answer(status: int, body: dict[str, Any] | str, **headers: str) -> Handler:
    async def handle(_: web.Request) -> web.StreamResponse:
        text = body if isinstance(body, str) else json.dumps(body)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(status=status, text=text, content_type="application/json", headers=named)

    return handle


async def reset(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


def lines(*chunks: bytes) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for chunk in chunks:
            await response.write(chunk)
            await asyncio.sleep(0)
        return response

    return handle


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield server
    await runner.cleanup()


@pytest.fixture
def kubeconfig(server: Server, tmp_path: Path) -> Path:
    path = tmp_path / "kubeconfig"
    write_kubeconfig(path, server.url, "first")
    return path


def write_kubeconfig(path: Path, url: str, token: str) -> None:
    path.write_text(
        yaml.safe_dump(
            {
                "clusters": [{"name": "c", "cluster": {"server": url}}],
                "users": [{"name": "u", "user": {"token": token}}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "x",
            }
        )
    )


@pytest.fixture
async def waited() -> list[float]:
    return []


@pytest.fixture
async def transport(kubeconfig: Path, waited: list[float]) -> AsyncIterator[AioTransport]:
    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    async with await connect(str(kubeconfig)) as transport:
        transport._sleep = sleep
        transport._jitter = lambda: 0.5
        yield transport


@pytest.mark.parametrize("trouble", [answer(500, ""), answer(503, "down"), answer(200, "{not json"), reset])
async def test_a_passing_trouble_is_retried_and_counted_once(
    server: Server, transport: AioTransport, waited: list[float], trouble: Handler
) -> None:
    server.answers = [trouble, trouble, answer(200, POD)]
    assert (await transport.apply(PODS, POD))["kind"] == "Pod"
    assert waited == [0.2, 0.4]
    assert transport.calls == {("patch", "pods"): 1}


async def test_the_server_says_how_long_to_wait(server: Server, transport: AioTransport, waited: list[float]) -> None:
    server.answers = [answer(429, {"message": "slow"}, Retry_After="2"), answer(200, POD)]
    await transport.get(PODS, "a", "ns")
    assert waited == [2.0]


async def test_trouble_that_stays_is_reported_with_what_was_asked(server: Server, transport: AioTransport) -> None:
    server.answers = [answer(429, {"message": "slow", "details": {"retryAfterSeconds": 1}})]
    with pytest.raises(TooManyRequests, match="patch inferenceworkloads/status ns/a: slow") as caught:
        await transport.apply_status(INFERENCE_WORKLOADS, POD)
    assert caught.value.retry_after_seconds == 1
    assert len(server.requests) == 5


async def test_a_create_whose_fate_is_unknown_is_not_repeated(server: Server, transport: AioTransport) -> None:
    server.answers = [reset, answer(200, POD)]
    with pytest.raises(ServerUnavailable):
        await transport.create(PODS, POD)
    assert len(server.requests) == 1


async def test_a_delete_whose_answer_was_lost_is_repeated_for_the_same_object_only(
    server: Server, transport: AioTransport
) -> None:
    server.answers = [reset, answer(200, {"kind": "Status"})]
    await transport.delete(PODS, "a", "ns", uid="u")
    assert [json.loads(body)["preconditions"] for *_, body in server.requests] == [{"uid": "u"}, {"uid": "u"}]


async def test_a_delete_of_something_that_was_never_there_says_so(server: Server, transport: AioTransport) -> None:
    server.answers = [answer(404, {"message": "not found"})]
    with pytest.raises(NotFound):
        await transport.delete(PODS, "a", "ns", uid="u")


async def test_an_expired_token_is_read_again_once(server: Server, transport: AioTransport, kubeconfig: Path) -> None:
    write_kubeconfig(kubeconfig, server.url, "second")
    server.answers = [answer(401, {"message": "Unauthorized"}), answer(200, POD)]
    await transport.get(PODS, "a", "ns")
    assert [headers["Authorization"] for _, _, headers, _ in server.requests] == ["Bearer first", "Bearer second"]
    server.answers = [answer(401, {"message": "Unauthorized"})]
    with pytest.raises(Unauthorized, match="renew the kubeconfig"):
        await transport.get(PODS, "a", "ns")


async def test_a_watch_reads_an_expired_token_again_and_never_once_it_has_begun(
    server: Server, transport: AioTransport, kubeconfig: Path
) -> None:
    write_kubeconfig(kubeconfig, server.url, "second")
    seen = json.dumps({"type": "ADDED", "object": POD}).encode() + b"\n"
    server.answers = [answer(401, {"message": "Unauthorized"}), lines(seen)]
    assert [event.type async for event in transport.watch(PODS, resource_version="1")] == ["ADDED"]
    assert [headers["Authorization"] for _, _, headers, _ in server.requests] == ["Bearer first", "Bearer second"]
    late = json.dumps({"type": "ERROR", "object": {"code": 401, "message": "Unauthorized"}}).encode() + b"\n"
    for answers in ([lines(seen, late)], [answer(401, {"message": "Unauthorized"})]):
        server.answers = list(answers)
        with pytest.raises(Unauthorized, match="renew the kubeconfig"):
            _ = [event async for event in transport.watch(PODS, resource_version="1")]
    assert len(server.requests) == 2 + 1 + 2


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (400, {}, Invalid),
        (403, {}, Forbidden),
        (404, {}, NotFound),
        (409, {"reason": "AlreadyExists"}, AlreadyExists),
        (409, {"reason": "Conflict"}, Conflict),
        (410, {}, Gone),
        (422, {"details": {"causes": [{"field": "spec.watts", "message": "too low"}]}}, Invalid),
        (418, {}, KubeError),
    ],
)
async def test_each_refusal_is_its_own_error_and_is_not_retried(
    server: Server, transport: AioTransport, status: int, body: dict[str, Any], error: type[KubeError]
) -> None:
    server.answers = [answer(status, {"message": "because", **body})]
    with pytest.raises(KubeError, match="because") as caught:
        await transport.apply(PODS, POD)
    assert type(caught.value) is error
    assert len(server.requests) == 1
    if isinstance(caught.value, Invalid) and body:
        assert caught.value.causes == ("spec.watts: too low",)


async def test_pages_are_followed_to_the_end_and_their_items_are_typed(server: Server, transport: AioTransport) -> None:
    first = {"metadata": {"resourceVersion": "7", "continue": "next/1"}, "items": [{"metadata": {"name": "a"}}]}
    last = {"metadata": {"resourceVersion": "7"}, "items": [{"metadata": {"name": "b"}}]}
    server.answers = [answer(200, first), answer(200, last)]
    pages = [page async for page in transport.list_pages(NODES, label_selector="a=b")]
    assert [(p.resource_version, [(i["kind"], i["metadata"]["name"]) for i in p.items]) for p in pages] == [
        ("7", [("Node", "a")]),
        ("7", [("Node", "b")]),
    ]
    assert server.requests[1][1] == "/api/v1/nodes?limit=500&labelSelector=a%3Db&continue=next%2F1"


async def test_a_watch_survives_lines_that_are_split_joined_or_very_long(
    server: Server, transport: AioTransport
) -> None:
    long = json.dumps({"type": "ADDED", "object": {"metadata": {"name": "x" * 3_000_000, "resourceVersion": "1"}}})
    short = json.dumps({"type": "DELETED", "object": {"metadata": {"name": "b", "resourceVersion": "2"}}})
    stream = f"{long}\n{short}\n{short}\n".encode()
    server.answers = [lines(stream[:10], stream[10:70_000], stream[70_000:-5], stream[-5:])]
    events = [event async for event in transport.watch(PODS, resource_version="1")]
    assert [event.type for event in events] == ["ADDED", "DELETED", "DELETED"]
    assert len(events[0].object["metadata"]["name"]) == 3_000_000


async def test_a_watch_that_is_cut_in_the_middle_of_a_line_fails_or_drops_it_but_never_guesses(
    server: Server, transport: AioTransport
) -> None:
    server.answers = [lines(b'{"type":"ADDED","object":{"metadata":{"name":"a"}}}\n{"type":"DEL')]
    assert [event.type async for event in transport.watch(PODS, resource_version="1")] == ["ADDED"]


async def test_an_error_inside_a_watch_is_raised_as_what_it_is(server: Server, transport: AioTransport) -> None:
    status = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
    server.answers = [lines(json.dumps({"type": "ERROR", "object": status}).encode() + b"\n")]
    with pytest.raises(Gone, match="too old"):
        _ = [event async for event in transport.watch(PODS, resource_version="1")]
    assert transport.calls == {("watch", "pods"): 1}


async def test_a_connection_that_goes_silent_is_probed(server: Server, transport: AioTransport) -> None:
    """Half-open connections are common behind load balancers; a quiet watch would not notice for hours."""
    server.answers = [answer(200, POD)]
    await transport.get(PODS, "a", "ns")
    [[(connection, _)]] = transport._session.connector._conns.values()  # type: ignore[union-attr]
    assert connection.transport is not None
    tcp = connection.transport.get_extra_info("socket")
    assert tcp.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) <= 10


async def test_no_more_than_sixteen_writes_are_in_flight(server: Server, transport: AioTransport) -> None:
    here, most, go_on = 0, 0, asyncio.Event()

    async def slow(_: web.Request) -> web.StreamResponse:
        nonlocal here, most
        here += 1
        most = max(most, here)
        if here == 16:
            asyncio.get_running_loop().call_later(0.05, go_on.set)
        await go_on.wait()
        here -= 1
        return web.json_response(POD)

    server.answers = [slow]
    await asyncio.gather(*(transport.apply(PODS, POD) for _ in range(40)))
    assert most == 16


async def test_the_lease_is_renewed_while_all_writers_hang(server: Server, transport: AioTransport) -> None:
    go_on = asyncio.Event()

    async def by_kind(request: web.Request) -> web.StreamResponse:
        if "leases" not in request.path:
            await go_on.wait()
        return web.json_response(POD)

    server.answers = [by_kind]
    writes = [asyncio.create_task(transport.apply(PODS, POD)) for _ in range(40)]
    await asyncio.sleep(0)
    await asyncio.wait_for(transport.apply(LEASES, POD), 5)
    go_on.set()
    await asyncio.gather(*writes)


@pytest.mark.parametrize(
    "content",
    [
        None,
        "",
        "[]",
        "{{{",
        "just words",
        "clusters: [{name: c, cluster: {server: 'https://x', certificate-authority-data: 'bm8='}}]\n"
        "users: [{name: u, user: {}}]\ncontexts: [{name: x, context: {cluster: c, user: u}}]\ncurrent-context: x",
    ],
    ids=["missing", "empty", "a list", "not yaml", "words", "no certificate"],
)
async def test_a_kubeconfig_that_cannot_be_read_is_named(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "kubeconfig"
    if content is not None:
        path.write_text(content)
    with pytest.raises(Unauthorized, match=f"(?s)connect {path}: .*renew the kubeconfig"):
        await connect(str(path))


def test_every_error_has_a_code_of_its_own() -> None:
    tree = {error for error in vars(errors).values() if isinstance(error, type) and issubclass(error, KubeError)}
    assert len({error.code for error in tree}) == len(tree) >= 10


@pytest.mark.parametrize(
    ("resource", "arguments", "path"),
    [
        (PODS, (None,), "/api/v1/pods"),
        (PODS, ("ns", "a", "status"), "/api/v1/namespaces/ns/pods/a/status"),
        (NODES, ("ignored", "n/1"), "/api/v1/nodes/n%2F1"),
        (INFERENCE_WORKLOADS, ("ns",), "/apis/lowbeam.dev/v1alpha1/namespaces/ns/inferenceworkloads"),
    ],
)
def test_paths_are_the_api_servers(resource: Any, arguments: tuple[Any, ...], path: str) -> None:
    assert resource.path(*arguments) == path


def test_one_object_of_a_namespaced_kind_needs_its_namespace() -> None:
    with pytest.raises(ValueError, match="pods a"):
        PODS.path(None, "a")
