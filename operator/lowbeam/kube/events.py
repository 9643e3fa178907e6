"""Events on objects: said once, never in the way.

Decides what is worth repeating: the same sentence about the same object is posted again only after it was not said for
`TTL_MS`. Never blocks or fails a loop: `record` only queues; what the server does not take is dropped and counted.

Invariants: at most one Event per (uid, reason, note) while it keeps being said; at most `BURST` at once and
`PER_SECOND` on average; types are Normal and Warning only.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

import structlog

from lowbeam.kube.errors import AlreadyExists, KubeError
from lowbeam.kube.resources import EVENTS, Resource
from lowbeam.kube.transport import KubeObject, KubeTransport

TTL_MS = 10 * 60 * 1000
REMEMBERED = 20_000
"""Sentences remembered; beyond that the oldest is forgotten and might be posted a second time."""
QUEUE_LENGTH = 1000
BURST = 100
PER_SECOND = 10
ATTEMPTS = 3
NOTE_LIMIT = 1024
"""Bytes that events.k8s.io/v1 allows in a note."""
CONTROLLER = "lowbeam.dev/operator"

log = structlog.get_logger(__name__)

EventType = Literal["Normal", "Warning"]


class EventRecorder:
    """Posts Events from a queue. `record` from anywhere on the event loop; run `run()` as a task."""

    def __init__(
        self,
        transport: KubeTransport,
        *,
        instance: str,
        monotonic_ms: Callable[[], int],
        now: Callable[[], datetime],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.dropped = 0
        """Events that were never posted: queue full, or refused by the server."""
        self._transport = transport
        self._instance = instance
        self._monotonic_ms = monotonic_ms
        self._now = now
        self._sleep = sleep
        self._queue: asyncio.Queue[tuple[str, KubeObject]] = asyncio.Queue(QUEUE_LENGTH)
        self._said_at_ms: OrderedDict[str, int] = OrderedDict()
        self._tokens = float(BURST)
        self._tokens_at_ms = monotonic_ms()

    def record(
        self, resource: Resource, obj: Mapping[str, Any], kind: EventType, *, reason: str, action: str, note: str
    ) -> bool:
        """Say it; False when it was said already and nothing has changed, or the queue is full.

        `reason` and `action` are CamelCase words; `note` is the sentence a user reads.
        """
        event_time = micro_time(self._now())
        regarding = resource.reference(obj)
        event: KubeObject = {
            "apiVersion": EVENTS.api_version,
            "kind": EVENTS.kind,
            # Events of cluster-scoped objects live in "default", where kubectl describe looks for them.
            "metadata": {"name": "", "namespace": regarding.get("namespace", "default")},
            "eventTime": event_time,
            "reportingController": CONTROLLER,
            "reportingInstance": self._instance[:128],
            "type": kind,
            "reason": reason,
            "action": action,
            "note": note.encode()[:NOTE_LIMIT].decode(errors="ignore"),
            "regarding": regarding,
        }
        said = f"{regarding.get('uid')}/{reason}/{note}"
        digest = hashlib.sha256(f"{said}/{event_time}".encode()).hexdigest()[:16]
        event["metadata"]["name"] = f"{regarding['name'][:200].rstrip('-.')}.{digest}"
        now_ms = self._monotonic_ms()
        before_ms = self._said_at_ms.get(said)
        self._said_at_ms[said] = now_ms
        self._said_at_ms.move_to_end(said)
        if len(self._said_at_ms) > REMEMBERED:
            self._said_at_ms.popitem(last=False)
        if before_ms is not None and now_ms - before_ms < TTL_MS:
            return False
        try:
            self._queue.put_nowait((said, event))
        except asyncio.QueueFull:
            self._drop(said, "the queue is full")
            return False
        return True

    async def run(self) -> None:
        """Post what is queued, until cancelled."""
        while True:
            said, event = await self._queue.get()
            try:
                await self._within_rate()
                await self._post(said, event)
            except Exception:
                log.exception("an Event could not be posted", reason=event["reason"])
                self._drop(said, "unexpected error")
            finally:
                self._queue.task_done()

    async def flush(self) -> None:
        """Return once everything recorded so far is posted or dropped. Needs `run()` running."""
        await self._queue.join()

    async def _post(self, said: str, event: KubeObject) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                await self._transport.create(EVENTS, event)
            except AlreadyExists:
                return  # Our own earlier attempt, whose answer was lost: the name is made from the content.
            except KubeError as error:
                if not error.retriable or attempt == ATTEMPTS:
                    self._drop(said, str(error))
                    return
                await self._sleep(attempt)
            else:
                return

    def _drop(self, said: str, why: str) -> None:
        """Forget it, so that it is posted when it is said again."""
        self.dropped += 1
        self._said_at_ms.pop(said, None)
        log.info("an Event was dropped", said=said, why=why)

    async def _within_rate(self) -> None:
        now_ms = self._monotonic_ms()
        self._tokens = min(BURST, self._tokens + (now_ms - self._tokens_at_ms) / 1000 * PER_SECOND)
        self._tokens_at_ms = now_ms
        if self._tokens < 1:
            await self._sleep((1 - self._tokens) / PER_SECOND)
        self._tokens -= 1


def micro_time(moment: datetime) -> str:
    """Kubernetes' MicroTime."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
