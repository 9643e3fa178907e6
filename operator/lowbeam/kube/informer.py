"""A mirror of one kind: list, watch, and on every re-list a comparison that also finds what was deleted unseen.

Decides what is in the mirror and which changes to report. Never decides what they mean, and never writes to the server.
For a watt ledger a deleted pod that is still remembered is a wrong answer, so truth is always the last complete list.

Invariants
- After every completed list `objects()` equals that list; each difference was reported once, deletions included.
- An object that was deleted and made again under its name is reported as DELETED, then ADDED: a uid never changes.
- No trouble ends `run()`: no permission, no such kind, no server, nonsense in the stream. It says so in `state` and
  `message`, keeps the last known objects (their age is `last_sync_age_ms`), and tries again.
- Objects are shared, not copied: readers must not change them.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from enum import StrEnum

import structlog

from lowbeam.kube.errors import (
    Forbidden,
    Gone,
    Invalid,
    KubeError,
    NotFound,
    Request,
    ServerUnavailable,
    Unauthorized,
)
from lowbeam.kube.resources import Resource, object_key
from lowbeam.kube.transport import KubeObject, KubeTransport, WatchEvent

FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 5.0
"""After an API server restart every kind is watched again within this time."""
PERMISSION_BACKOFF_SECONDS = 15.0
"""Somebody has to change RBAC or install a CRD: asking more often does not help."""
WATCH_SECONDS = 300
SHORT_WATCH_MS = 1000
SHORT_WATCHES = 3
"""After so many in a row something closes streams at once, and would be asked again for ever without a pause."""
RELIST_AFTER_MS = 10 * 60 * 1000
"""A restored etcd can go back in time without any watch noticing; a complete list this often bounds the error."""

log = structlog.get_logger(__name__)

Transform = Callable[[KubeObject], KubeObject]
Wanted = Callable[[KubeObject], bool]


class Change(StrEnum):
    """What happened to an object in the mirror."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"


OnChange = Callable[[Resource, Change, KubeObject | None, KubeObject | None], None]
"""(kind, change, old, new). Called on the event loop; must not block. What it raises is logged."""


class InformerState(StrEnum):
    """How the mirror stands with the server."""

    STARTING = "starting"
    WATCHING = "watching"
    FORBIDDEN = "forbidden"
    MISSING_KIND = "missing-kind"
    UNREACHABLE = "unreachable"


class Informer:
    """Mirror of one kind in one namespace or all. Register `on_change` callbacks, then run `run()` as a task.

    `wanted`: which objects it holds, where no selector of the server can say so. Asked before `transform`.
    `streaming_lists`: begin with the state as watch events, which spares the server memory. Off: pages, which it
    compresses (a twentieth of the bytes) for those who are far away.
    """

    def __init__(
        self,
        transport: KubeTransport,
        resource: Resource,
        *,
        monotonic_ms: Callable[[], int],
        namespace: str | None = None,
        label_selector: str = "",
        transform: Transform | None = None,
        wanted: Wanted = lambda _: True,
        streaming_lists: bool = True,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.resource = resource
        self.state = InformerState.STARTING
        self.error: KubeError | None = None
        """Why `state` is not `watching`; None when it is, or nothing was tried yet."""
        self._transport = transport
        self._namespace = namespace
        self._label_selector = label_selector
        self._transform = transform or keep_fields_of("lowbeam")
        self._wanted = wanted
        self._monotonic_ms = monotonic_ms
        self._sleep = sleep
        self._jitter = jitter
        self._callbacks: list[OnChange] = []
        self._objects: dict[tuple[str, str], KubeObject] = {}
        self._shown: tuple[KubeObject, ...] | None = None
        """What `objects` answered; None after a change."""
        self._keys_by_uid: dict[str, tuple[str, str]] = {}
        self._version = ""
        """Where the watch goes on after a clean end; empty: list first."""
        self._listed_at_ms = 0
        self._in_touch_at_ms: int | None = None
        self._synced = asyncio.Event()
        self._watch_list = streaming_lists
        self._backoff_seconds = FIRST_BACKOFF_SECONDS

    @property
    def message(self) -> str:
        """Why `state` is not `watching`, and what to do; empty when it is."""
        return "" if self.error is None else str(self.error)

    @property
    def synced(self) -> bool:
        """Whether at least one complete list was seen. Stays true: how old it is says `last_sync_age_ms`."""
        return self._synced.is_set()

    async def wait_synced(self) -> None:
        """Return once the first complete list is in the mirror."""
        await self._synced.wait()

    def last_sync_age_ms(self) -> int | None:
        """Milliseconds since the mirror last certainly equalled the server; None before the first list.

        In a quiet, healthy watch it grows to the server's bookmark interval, 60 s, and to 120 s when it skips one.
        """
        return None if self._in_touch_at_ms is None else self._monotonic_ms() - self._in_touch_at_ms

    def objects(self) -> tuple[KubeObject, ...]:
        """All objects now, in no particular order; the very same tuple until something changes."""
        if self._shown is None:
            self._shown = tuple(self._objects.values())
        return self._shown

    def get(self, namespace: str, name: str) -> KubeObject | None:
        """The object of this name ("" as namespace for cluster-scoped kinds)."""
        return self._objects.get((namespace, name))

    def by_uid(self, uid: str) -> KubeObject | None:
        """The object with this uid."""
        key = self._keys_by_uid.get(uid)
        return None if key is None else self._objects[key]

    def on_change(self, callback: OnChange) -> None:
        """Call `callback` for every later change of the mirror."""
        self._callbacks.append(callback)

    async def run(self) -> None:
        """Keep the mirror true until cancelled."""
        short = 0
        while True:
            began_ms = self._monotonic_ms()
            try:
                await self._list_and_watch()
                short = short + 1 if self._monotonic_ms() - began_ms < SHORT_WATCH_MS else 0
                if short <= SHORT_WATCHES:
                    self._backoff_seconds = FIRST_BACKOFF_SECONDS
                    continue
            except Gone:
                # Not a failure: the server has forgotten our version, the next round lists and compares.
                self._version = ""
            except KubeError as error:
                self._note(error)
            except Exception:
                # A bug or an answer of unknown form; the mirror of the other kinds must live on.
                self._version = ""
                log.exception("informer failed and starts again", kind=self.resource.kind)
            await self._pause()

    async def _list_and_watch(self) -> None:
        """One list where needed, then one watch until the server ends it."""
        if self._monotonic_ms() - self._listed_at_ms >= RELIST_AFTER_MS:
            self._version = ""
        if self._version:
            await self._follow()
        elif self._watch_list:
            try:
                await self._follow()
            except Invalid:
                log.info("no streaming lists on this server, paged lists instead", kind=self.resource.kind)
                self._watch_list = False
        else:
            await self._list_pages()
            await self._follow()

    async def _list_pages(self) -> None:
        listed: dict[tuple[str, str], KubeObject] = {}
        version = ""
        pages = self._transport.list_pages(
            self.resource, namespace=self._namespace, label_selector=self._label_selector
        )
        async for page in pages:
            for item in page.items:
                if self._wanted(item):
                    listed[object_key(item)] = self._transform(item)
            version = page.resource_version
        self._replace(listed, version)

    async def _follow(self) -> None:
        """Watch from `_version`, or from the initial state when there is none."""
        listed: dict[tuple[str, str], KubeObject] | None = None if self._version else {}
        stream = self._transport.watch(
            self.resource,
            namespace=self._namespace,
            label_selector=self._label_selector,
            resource_version=self._version,
            initial_events=listed is not None,
            timeout_seconds=int(WATCH_SECONDS * (1 + self._jitter())),
        )
        async with aclosing(stream) as events:  # type: ignore[type-var]  # the port promises an iterator, both are generators
            async for event in events:
                if listed is None:
                    self._take(event)
                elif event.initial_end:
                    self._replace(listed, event.object["metadata"]["resourceVersion"])
                    listed = None
                elif event.type != "BOOKMARK" and self._wanted(event.object):
                    listed[object_key(event.object)] = self._transform(event.object)
        if listed is not None:
            request = Request("watch", self.resource.label(), self._namespace or "")
            raise ServerUnavailable(request, "the stream ended before the initial list was complete")
        self._in_touch()

    def _replace(self, listed: dict[tuple[str, str], KubeObject], version: str) -> None:
        """The mirror becomes exactly `listed`; every difference is reported."""
        for key in [key for key in self._objects if key not in listed]:
            self._remove(key)
        for key, new in listed.items():
            self._put(key, new)
        self._version = version
        self._listed_at_ms = self._monotonic_ms()
        self._synced.set()
        self._in_touch()

    def _take(self, event: WatchEvent) -> None:
        """One event of a watch that goes on from a complete list."""
        if event.type in ("ADDED", "MODIFIED") and self._wanted(event.object):
            self._put(object_key(event.object), self._transform(event.object))
        elif event.type != "BOOKMARK":  # deleted, or as good as that: nobody wants it any longer
            old = self._objects.get(key := object_key(event.object))
            if old is not None and old["metadata"].get("uid") == event.object["metadata"].get("uid"):
                self._remove(key)
        # Last: an event that could not be taken is asked for again.
        self._version = event.object["metadata"]["resourceVersion"]
        self._in_touch()

    def _put(self, key: tuple[str, str], new: KubeObject) -> None:
        old = self._objects.get(key)
        metadata = new["metadata"]
        if old is not None and old["metadata"].get("uid") != metadata.get("uid"):
            self._remove(key)
            old = None
        self._objects[key], self._shown = new, None
        self._keys_by_uid[metadata.get("uid", "")] = key
        if old is None:
            self._report(Change.ADDED, None, new)
        elif old["metadata"].get("resourceVersion") != metadata.get("resourceVersion"):
            self._report(Change.MODIFIED, old, new)

    def _remove(self, key: tuple[str, str]) -> None:
        old, self._shown = self._objects.pop(key), None
        self._keys_by_uid.pop(old["metadata"].get("uid", ""), None)
        self._report(Change.DELETED, old, None)

    def _report(self, change: Change, old: KubeObject | None, new: KubeObject | None) -> None:
        for callback in self._callbacks:
            try:
                callback(self.resource, change, old, new)
            except Exception:
                log.exception("a change callback failed", kind=self.resource.kind, change=change.value)

    def _in_touch(self) -> None:
        self._in_touch_at_ms = self._monotonic_ms()
        self._backoff_seconds = FIRST_BACKOFF_SECONDS
        if self.state is not InformerState.WATCHING:
            if self.error is not None:
                log.info("watching again", kind=self.resource.kind, objects=len(self._objects))
            self.state, self.error = InformerState.WATCHING, None

    def _note(self, error: KubeError) -> None:
        """Remember what is wrong; say it once in the log, not at every attempt."""
        if isinstance(error, Forbidden | Unauthorized):
            state = InformerState.FORBIDDEN
        elif isinstance(error, NotFound):
            state = InformerState.MISSING_KIND
        else:
            state = InformerState.UNREACHABLE
        # After any trouble the next round lists and compares: a resumed watch on a quiet kind would leave open for a
        # minute whether the mirror is true, and a restored etcd may not know our version.
        self._version = ""
        if state is not self.state:
            level = log.info if state is InformerState.UNREACHABLE else log.warning
            level("cannot watch", kind=self.resource.kind, state=state.value, error=str(error))
        self.state, self.error = state, error.with_traceback(None)  # its frames would live on

    async def _pause(self) -> None:
        if self.state in (InformerState.FORBIDDEN, InformerState.MISSING_KIND):
            seconds = PERMISSION_BACKOFF_SECONDS
        else:
            seconds = self._backoff_seconds
            self._backoff_seconds = min(self._backoff_seconds * 2, LONGEST_BACKOFF_SECONDS)
        await self._sleep(seconds * (0.5 + 0.5 * self._jitter()))


def keep_fields_of(field_manager: str) -> Transform:
    """A transform that drops the bookkeeping of other field managers: it is often a third of an object.

    Our own stays, because `apply.differs` reads there which fields we once wrote and no longer want.
    """

    def transform(obj: KubeObject) -> KubeObject:
        metadata = obj["metadata"]
        entries = metadata.get("managedFields")
        if entries is not None:
            metadata["managedFields"] = [entry for entry in entries if entry.get("manager") == field_manager]
        return obj

    return transform


def keep_only(*paths: str) -> Transform:
    """A transform that keeps metadata (without managedFields) and the given dotted paths, e.g. "status.conditions"."""
    split = [path.split(".") for path in paths]

    def transform(obj: KubeObject) -> KubeObject:
        metadata = {key: value for key, value in obj["metadata"].items() if key != "managedFields"}
        kept: KubeObject = {"apiVersion": obj["apiVersion"], "kind": obj["kind"], "metadata": metadata}
        for path in split:
            found: object = obj
            for part in path:
                found = found.get(part) if isinstance(found, dict) else None
            if found is not None:
                target = kept
                for part in path[:-1]:
                    target = target.setdefault(part, {})
                target[path[-1]] = found
        return kept

    return transform
