"""The transport over HTTP: `kubernetes.aio` finds the server, the certificates and the token; the calls are raw JSON.

Decides retries and how many writes are in flight. The generated client validates and drops unknown fields, so it is
used for configuration, authentication and TLS only.

Invariants
- At most `WRITERS` writes are in flight: beyond that an API server only adds latency. A write that waits to be retried
  holds no slot.
- Retried are 429, 5xx and lost connections, on calls that may be repeated; `create` only when the server refused it
  unprocessed (429).
- Credentials that the server refuses are read again once. A watch is never retried after that: only its reader knows
  what it has seen.
"""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
import orjson
import yaml
from kubernetes.aio import client, config
from yarl import URL

from lowbeam.kube.errors import (
    Deposed,
    KubeError,
    Request,
    ServerUnavailable,
    TooManyRequests,
    Unauthorized,
    error_from_status,
)
from lowbeam.kube.resources import LEASES, Resource
from lowbeam.kube.transport import FIELD_MANAGER, PAGE_SIZE, KubeObject, ListPage, WatchEvent

WRITERS = 16
"""Measured: a kube-apiserver on two cores saturates at about 16 status patches in flight."""
ATTEMPTS = 5
FIRST_BACKOFF_SECONDS = 0.2
LONGEST_BACKOFF_SECONDS = 5.0
CALL_TIMEOUT = aiohttp.ClientTimeout(total=30, sock_connect=5)
LIST_TIMEOUT = aiohttp.ClientTimeout(total=120, sock_connect=5)
WATCH_SILENCE_SECONDS = 200
"""The server sends a bookmark about every 60 s, but now and then skips one; silence for longer is a dead server."""
KEEPALIVE_IDLE_SECONDS, KEEPALIVE_INTERVAL_SECONDS, KEEPALIVE_PROBES = 10, 5, 3
"""A connection whose other end vanished without a word is noticed after 25 s, also in a quiet watch."""
INITIAL_EVENTS_END = "k8s.io/initial-events-end"
APPLY_PATCH = "application/apply-patch+yaml"

_UNREADABLE = (config.ConfigException, OSError, ValueError, TypeError, AttributeError, yaml.YAMLError)
"""What `kubernetes.aio` raises for a kubeconfig that is missing, half-written, or something else."""

_POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

LoadConfiguration = Callable[[Any], Awaitable[None]]
"""Fills a `kubernetes.aio` Configuration: server, certificates, token."""


@dataclass(frozen=True, slots=True)
class _Http:
    """One HTTP request."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: KubeObject | None = None
    media: str = "application/json"
    timeout: aiohttp.ClientTimeout = CALL_TIMEOUT


class AioTransport:
    """`KubeTransport` over HTTP(S). Make it with `connect`; close it with `close()` or `async with`."""

    def __init__(
        self,
        configuration: Any,
        reload: LoadConfiguration,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.calls: Counter[tuple[str, str]] = Counter()
        self.may_write: Callable[[], bool] = lambda: True
        """Asked before each attempt of each write but the Lease's own: a retry may come after another one took over."""
        self._configuration = configuration
        self._reload = reload
        self._sleep = sleep
        self._jitter = jitter
        self._auth = client.ApiClient(configuration)
        self._writers = asyncio.Semaphore(WRITERS)
        tls: ssl.SSLContext = self._auth.rest_client.ssl_context
        # No limit of connections: watches hold one each for their whole life and must not starve the writes.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=tls, socket_factory=_keepalive_socket),
            trust_env=True,
            headers={"User-Agent": "lowbeam"},
        )

    async def __aenter__(self) -> AioTransport:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections; calls in flight fail."""
        await self._session.close()
        await self._auth.close()

    async def list_pages(
        self,
        resource: Resource,
        *,
        namespace: str | None = None,
        label_selector: str = "",
        field_selector: str = "",
        limit: int = PAGE_SIZE,
    ) -> AsyncIterator[ListPage]:
        """See `KubeTransport`."""
        asked = self._count("list", resource, target=namespace or "")
        query = {"limit": str(limit), "labelSelector": label_selector, "fieldSelector": field_selector}
        query = {name: value for name, value in query.items() if value}
        while True:
            answer = await self._call(asked, _Http("GET", resource.path(namespace), query, timeout=LIST_TIMEOUT))
            metadata = answer.get("metadata") or {}
            items = tuple(_typed(resource, item) for item in answer.get("items") or ())
            yield ListPage(items, metadata.get("resourceVersion", ""))
            if not (token := metadata.get("continue")):
                return
            query["continue"] = token

    async def watch(
        self,
        resource: Resource,
        *,
        namespace: str | None = None,
        label_selector: str = "",
        resource_version: str = "",
        initial_events: bool = False,
        timeout_seconds: int = 300,
    ) -> AsyncIterator[WatchEvent]:
        """See `KubeTransport`."""
        asked = self._count("watch", resource, target=namespace or "")
        query = {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(timeout_seconds)}
        if label_selector:
            query["labelSelector"] = label_selector
        initial = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
        query |= initial if initial_events else {"resourceVersion": resource_version}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=WATCH_SILENCE_SECONDS)
        http, renewed = _Http("GET", resource.path(namespace), query, timeout=timeout), False
        while True:
            try:
                async with self._send(asked, http) as response:
                    renewed = True
                    async for line in _lines(response.content):
                        yield _watch_event(asked, resource, line)
            except Unauthorized:
                if renewed:
                    raise
                renewed = True
                await self._renew_credentials(asked)
            else:
                return

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> KubeObject:
        """See `KubeTransport`."""
        asked = self._count("get", resource, target=_target(namespace, name))
        return _typed(resource, await self._call(asked, _Http("GET", resource.path(namespace, name))))

    async def create(self, resource: Resource, body: KubeObject) -> KubeObject:
        """See `KubeTransport`."""
        namespace, name = _named(resource, body)
        asked = self._count("create", resource, target=_target(namespace, name))
        query = {"fieldManager": FIELD_MANAGER}
        return _typed(resource, await self._call(asked, _Http("POST", resource.path(namespace), query, body)))

    async def apply(
        self, resource: Resource, body: KubeObject, *, field_manager: str = FIELD_MANAGER, force: bool = True
    ) -> KubeObject:
        """See `KubeTransport`."""
        return await self._apply(resource, body, "", field_manager, force=force)

    async def apply_status(
        self, resource: Resource, body: KubeObject, *, field_manager: str = FIELD_MANAGER
    ) -> KubeObject:
        """See `KubeTransport`."""
        return await self._apply(resource, body, "status", field_manager)

    async def delete(self, resource: Resource, name: str, namespace: str | None = None, *, uid: str) -> None:
        """See `KubeTransport`."""
        asked = self._count("delete", resource, target=_target(namespace, name))
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": {"uid": uid},
        }
        await self._call(asked, _Http("DELETE", resource.path(namespace, name), body=body))

    async def _apply(
        self, resource: Resource, body: KubeObject, subresource: str, field_manager: str, *, force: bool = True
    ) -> KubeObject:
        namespace, name = _named(resource, body)
        asked = self._count("patch", resource, subresource, target=_target(namespace, name))
        query = {"fieldManager": field_manager, "force": str(force).lower()}
        path = resource.path(namespace, name, subresource)
        typed = {**body, "apiVersion": resource.api_version, "kind": resource.kind}
        return _typed(resource, await self._call(asked, _Http("PATCH", path, query, typed, APPLY_PATCH)))

    def _count(self, verb: str, resource: Resource, subresource: str = "", *, target: str) -> Request:
        label = resource.label(subresource)
        self.calls[(verb, label)] += 1
        return Request(verb, label, target)

    async def _call(self, asked: Request, http: _Http) -> KubeObject:
        """One call with retries; the parsed answer. Raises KubeError."""
        # Renewing the lease never waits behind other writes: a busy leader must not lose its leadership by it.
        slot = self._writers if http.method != "GET" and asked.resource != LEASES.plural else None
        backoff, renewed = FIRST_BACKOFF_SECONDS, False
        for attempt in range(1, ATTEMPTS + 1):
            try:
                if slot is None:
                    return await self._answer(asked, http)
                async with slot:
                    if not self.may_write():
                        raise Deposed(asked, "this process does not lead any longer")
                    return await self._answer(asked, http)
            except Unauthorized:
                if renewed:
                    raise
                renewed = True
                await self._renew_credentials(asked)
            except KubeError as error:
                repeatable = http.method != "POST" or isinstance(error, TooManyRequests)
                if not (error.retriable and repeatable) or attempt == ATTEMPTS:
                    raise
                wait = error.retry_after_seconds if isinstance(error, TooManyRequests) else None
                await self._sleep(min(wait or backoff, LONGEST_BACKOFF_SECONDS) * (0.5 + self._jitter()))
                backoff = min(backoff * 2, LONGEST_BACKOFF_SECONDS)
        raise ServerUnavailable(asked, f"no answer after {ATTEMPTS} attempts")

    async def _answer(self, asked: Request, http: _Http) -> KubeObject:
        async with self._send(asked, http) as response:
            return _parse(asked, await response.read())

    @asynccontextmanager
    async def _send(self, asked: Request, http: _Http) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request; a response with a 2xx status. Transport trouble, also while reading, is ServerUnavailable."""
        headers = {"Accept": "application/json", "Content-Type": http.media}
        await self._auth.update_params_for_auth(headers, [], ["BearerToken"], http.path, http.method, None)
        try:
            async with self._session.request(
                http.method,
                URL(f"{self._configuration.host}{http.path}?{urlencode(http.query)}", encoded=True),
                data=None if http.body is None else orjson.dumps(http.body),
                headers=headers,
                timeout=http.timeout,
                proxy=self._configuration.proxy,
                server_hostname=self._configuration.tls_server_name,
            ) as response:
                if not 200 <= response.status < 300:
                    status = _status_object(await response.read())
                    raise error_from_status(asked, response.status, status, _retry_after(response.headers))
                yield response
        except TimeoutError as error:
            raise ServerUnavailable(asked, "no answer in time") from error
        except (aiohttp.ClientError, OSError) as error:
            raise ServerUnavailable(asked, f"{type(error).__name__}: {error}") from error

    async def _renew_credentials(self, asked: Request) -> None:
        try:
            await self._reload(self._configuration)
        except _UNREADABLE as error:
            raise Unauthorized(asked, f"the credentials cannot be read again: {error}", 401) from error


async def connect(kubeconfig: str | None = None, *, context: str | None = None) -> AioTransport:
    """A transport for `kubeconfig`; None: the pod's service account, else the user's default kubeconfig.

    A `context` is always one of a kubeconfig. Raises Unauthorized that says which configuration could not be read. Does
    not call the server.
    """

    async def load(into: Any) -> None:
        if kubeconfig is None and context is None:
            try:
                config.load_incluster_config(client_configuration=into)
            except config.ConfigException:
                await config.load_kube_config(client_configuration=into, persist_config=False)
        else:
            await config.load_kube_config(
                config_file=kubeconfig, context=context, client_configuration=into, persist_config=False
            )

    configuration = client.Configuration()
    try:
        await load(configuration)
        return AioTransport(configuration, load)
    except _UNREADABLE as error:
        where = kubeconfig or "with the pod's service account or the default kubeconfig"
        raise Unauthorized(Request("connect", where), f"{type(error).__name__}: {error}") from error


def namespace_of(kubeconfig: str | None = None, *, context: str | None = None) -> str:
    """The namespace that is meant where none is named, with the configuration that `connect` would take."""
    try:
        if kubeconfig is None and context is None:
            try:
                config.load_incluster_config(client_configuration=client.Configuration())
                return _POD_NAMESPACE.read_text().strip() or "default"
            except config.ConfigException:
                pass
        contexts, current = config.list_kube_config_contexts(kubeconfig)
        asked = next((it for it in contexts if it["name"] == context), current)
        return asked["context"].get("namespace") or "default"
    except _UNREADABLE as error:
        raise Unauthorized(Request("read", kubeconfig or "the default kubeconfig"), str(error)) from error


def _keepalive_socket(address: Any) -> socket.socket:
    """A TCP socket that probes an idle connection; the finer settings are Linux'."""
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE_SECONDS),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL_SECONDS),
        ("TCP_KEEPCNT", KEEPALIVE_PROBES),
    ):
        if hasattr(socket, option):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return made


async def _lines(stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Whole lines of any length. A last line without its end was cut off by the server: it is dropped."""
    pending: list[bytes] = []
    async for chunk in stream.iter_any():
        first, *others = chunk.split(b"\n")
        pending.append(first)
        for rest in others:
            if line := b"".join(pending):
                yield line
            pending = [rest]


def _watch_event(asked: Request, resource: Resource, line: bytes) -> WatchEvent:
    event = _parse(asked, line)
    kind, obj = event.get("type", ""), event.get("object") or {}
    if kind == "ERROR":
        raise error_from_status(asked, int(obj.get("code") or 500), obj)
    annotations = (obj.get("metadata") or {}).get("annotations") or {}
    initial_end = kind == "BOOKMARK" and annotations.get(INITIAL_EVENTS_END) == "true"
    return WatchEvent(kind, _typed(resource, obj), initial_end)


def _parse(asked: Request, data: bytes) -> KubeObject:
    try:
        parsed = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ServerUnavailable(asked, f"the answer is not JSON ({error})") from error
    if not isinstance(parsed, dict):
        raise ServerUnavailable(asked, "the answer is not an object")
    return parsed


def _status_object(data: bytes) -> Mapping[str, Any] | None:
    try:
        parsed = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return parsed if isinstance(parsed, dict) else None


def _retry_after(headers: Mapping[str, str]) -> float | None:
    value = headers.get("Retry-After", "")
    return float(value) if value.isdigit() else None


def _typed(resource: Resource, obj: KubeObject) -> KubeObject:
    """Items of built-in lists come without apiVersion and kind."""
    if "kind" not in obj:
        obj["apiVersion"], obj["kind"] = resource.api_version, resource.kind
    return obj


def _named(resource: Resource, body: KubeObject) -> tuple[str | None, str]:
    metadata = body["metadata"]
    return (metadata.get("namespace") if resource.namespaced else None), metadata["name"]


def _target(namespace: str | None, name: str) -> str:
    return f"{namespace}/{name}" if namespace else name
