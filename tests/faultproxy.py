"""A fault-injecting reverse proxy in front of a real API server: what networks and servers do to a client, on demand.

Plain HTTP on the loopback towards the client, TLS with the kubeconfig's own credentials towards the server (a bearer
token that the client sends takes their place). Watches stream through line by line.

    async with FaultProxy(kubeconfig) as proxy:
        transport = await connect(str(proxy.write_kubeconfig(tmp_path)))
        proxy.fault = lambda request: Answer(429, {"Retry-After": "1"}) if request.verb == "patch" else None
        await proxy.cut()            # reset every connection now, as a dying load balancer does
        await proxy.go_down()        # refuse connections, until come_back()

Invariant: what is not faulted reaches the server unchanged, and is counted in `calls` by (verb, plural[/subresource]).
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from aiohttp import web
from kubernetes.aio import client, config

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "content-encoding", "host", "te"}
PATH = re.compile(
    r"^/(?:api|apis/[^/]+)/[^/]+(?:/namespaces/(?P<namespace>[^/]+)(?=/[^/]))?"
    r"/(?P<plural>[^/]+)(?:/(?P<name>[^/]+)(?:/(?P<sub>.+))?)?$"
)


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as RBAC sees it."""

    verb: str
    resource: str
    namespace: str
    name: str
    number: int
    """1 for the first request of this verb and resource."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer this instead of asking the server."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ""


@dataclass(frozen=True, slots=True)
class Delay:
    """Wait, then pass the request on."""

    seconds: float


@dataclass(frozen=True, slots=True)
class LoseAnswer:
    """Let the server do it, then reset the connection: the client cannot know."""


@dataclass(frozen=True, slots=True)
class Reset:
    """Reset the connection before the server hears of it."""


@dataclass(frozen=True, slots=True)
class Truncate:
    """Pass on only the first `size` bytes of the answer's body, then reset."""

    size: int


Fault = Answer | Delay | LoseAnswer | Reset | Truncate


class FaultProxy:
    """See the module docstring."""

    def __init__(self, kubeconfig: str | Path) -> None:
        self.fault: Callable[[Asked], Fault | None] = lambda _: None
        self.calls: Counter[tuple[str, str]] = Counter()
        self._kubeconfig = str(kubeconfig)
        self._open: set[asyncio.Transport] = set()
        self._site: web.TCPSite | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> FaultProxy:
        configuration: Any = client.Configuration()
        await config.load_kube_config(config_file=self._kubeconfig, client_configuration=configuration)
        self._server, self._token = configuration.host, configuration.api_key.get("BearerToken")
        self._as_us = _tls(configuration, with_certificate=True)
        self._as_caller = _tls(configuration, with_certificate=False)
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), auto_decompress=False)
        app = web.Application(client_max_size=2**24)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await self.come_back()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.go_down()
        await self._runner.cleanup()
        await self._session.close()

    async def come_back(self) -> None:
        """Listen, on the same port as before."""
        self._site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await self._site.start()
        self.port = self._runner.addresses[0][1]

    async def go_down(self) -> None:
        """Refuse connections and reset those that are open."""
        if self._site is not None:
            await self._site.stop()
            self._site = None
        await self.cut()

    async def cut(self) -> None:
        """Reset every connection in use."""
        for transport in list(self._open):
            transport.abort()
        await asyncio.sleep(0)

    def write_kubeconfig(self, folder: Path, token: str | None = None) -> Path:
        """A kubeconfig that leads through this proxy; with `token` as that user instead of the proxy's own."""
        entry = {"clusters": [{"name": "proxy", "cluster": {"server": self.url}}]}
        user = {"users": [{"name": "caller", "user": {"token": token} if token else {}}]}
        context = {"cluster": "proxy", "user": "caller"}
        body = {
            "apiVersion": "v1",
            "kind": "Config",
            **entry,
            **user,
            "contexts": [{"name": "proxy", "context": context}],
            "current-context": "proxy",
        }
        path = folder / f"kubeconfig-{self.port}{'-token' if token else ''}"
        path.write_text(yaml.safe_dump(body))
        return path

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        connection = request.transport
        assert isinstance(connection, asyncio.Transport)
        # Until it is closed, not until it is answered: an idle kept-alive connection would outlive `go_down`.
        self._open = {one for one in self._open if not one.is_closing()} | {connection}
        return await self._answer(request, connection)

    async def _answer(self, request: web.Request, connection: asyncio.Transport) -> web.StreamResponse:
        asked = self._asked(request)
        fault = self.fault(asked)
        if isinstance(fault, Answer):
            return web.Response(
                status=fault.status, headers=fault.headers, text=fault.body, content_type="application/json"
            )
        if isinstance(fault, Reset):
            connection.abort()
            return web.Response()
        if isinstance(fault, Delay):
            await asyncio.sleep(fault.seconds)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
        anonymous = "Authorization" not in headers
        if anonymous and self._token:
            headers["Authorization"] = self._token
        upstream = self._session.request(
            request.method,
            self._server + request.raw_path,
            headers=headers,
            data=await request.read() or None,
            ssl=self._as_us if anonymous else self._as_caller,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=5),
        )
        async with upstream as answer:
            if isinstance(fault, LoseAnswer):
                await answer.read()
                connection.abort()
                return web.Response()
            left = fault.size if isinstance(fault, Truncate) else None
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in HOP_BY_HOP}
            if encoding := answer.headers.get("Content-Encoding"):
                kept["Content-Encoding"] = encoding
            response = web.StreamResponse(status=answer.status, headers=kept)
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                if left is not None and len(chunk) >= left:
                    await response.write(chunk[:left])
                    connection.abort()
                    return response
                left = None if left is None else left - len(chunk)
                await response.write(chunk)
            await response.write_eof()
            return response

    def _asked(self, request: web.Request) -> Asked:
        match = PATH.match(request.path)
        found = {key: value or "" for key, value in match.groupdict().items()} if match else {}
        plural, name, sub = found.get("plural", request.path), found.get("name", ""), found.get("sub", "")
        verbs = {"POST": "create", "PATCH": "patch", "PUT": "update", "DELETE": "delete"}
        verb = verbs.get(request.method, "get")
        if verb == "get" and not name:
            verb = "watch" if request.query.get("watch") in ("true", "1") else "list"
        resource = f"{plural}/{sub}" if sub else plural
        self.calls[(verb, resource)] += 1
        return Asked(verb, resource, found.get("namespace", ""), name, self.calls[(verb, resource)])


def _tls(configuration: Any, *, with_certificate: bool) -> ssl.SSLContext | bool:
    if not configuration.host.startswith("https"):
        return True
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert, cadata=configuration.ca_cert_data)
    if with_certificate and configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, configuration.key_file)
    if not configuration.verify_ssl:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
