"""Polls many pods and remembers the newest answer of each.

Decides when whom to ask. Never decides what an old answer counts as: it keeps the last good sample of a pod, whose age
grows, and the error of the last attempt beside it.

Invariants
- Each endpoint is asked once per period, at its own moment within it (from its uid): never all at once. One that timed
  out is asked half as often each time, down to once in `LONGEST_PERIOD_SECONDS`, until it answers.
- A pod that timed out is asked again in one of `RETRY_PLACES`, for which only its like wait. So a dead one holds a
  place of the living for the read time-out, once.
- A pod that is no longer among the endpoints is forgotten at once.
"""

from __future__ import annotations

import asyncio
import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, Generic, Protocol, Self, TypeVar

import structlog

from lowbeam.telemetry.samples import SampleError, SampleProblem

CONCURRENCY = 512
"""700 workers that fall silent at once hold about so many, for one read time-out; a healthy fleet holds a handful."""
RETRY_PLACES = 128
"""700 dead ones hold 105, each asked once in `LONGEST_PERIOD_SECONDS`: who is back does not wait for them."""
LONGEST_PERIOD_SECONDS = 10.0
"""Until a pod that is back is heard; less than the age at which a reading is stale."""

log = structlog.get_logger(__name__)


class Endpoint(Protocol):
    """One pod that is asked."""

    @property
    def pod_uid(self) -> str:
        """Its key."""

    @property
    def namespace(self) -> str:
        """For messages."""

    @property
    def pod(self) -> str:
        """For messages."""


_Endpoint = TypeVar("_Endpoint", bound=Endpoint)
_Answer = TypeVar("_Answer")


class Poller(ABC, Generic[_Endpoint, _Answer]):
    """Answers of many pods. `async with` opens its connections; run `run()` as a task."""

    def __init__(
        self,
        connections: AbstractAsyncContextManager[Any],
        *,
        monotonic_ms: Callable[[], int],
        sleep: Callable[[float], Awaitable[None]],
        poll_seconds: float,
    ) -> None:
        self.errors_total: Counter[SampleProblem] = Counter()
        """Failed attempts since start, for the metrics."""
        self._connections = connections
        self._monotonic_ms = monotonic_ms
        self._sleep = sleep
        self._period_ms = round(poll_seconds * 1000)
        self._stack = AsyncExitStack()
        self._places = asyncio.Semaphore(CONCURRENCY)
        self._retry_places = asyncio.Semaphore(RETRY_PLACES)
        self._endpoints: dict[str, _Endpoint] = {}
        self._due_ms: dict[str, int] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._answers: dict[str, _Answer] = {}
        self._errors: dict[str, SampleError] = {}
        self._timeouts: dict[str, int] = {}
        """In a row, of each endpoint whose last attempt timed out."""

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._connections)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop_asking(list(self._asking))
        await self._stack.aclose()

    @abstractmethod
    async def _read(self, endpoint: _Endpoint) -> _Answer | SampleError:
        """Ask one pod."""

    def set_endpoints(self, endpoints: Iterable[_Endpoint]) -> None:
        """Ask exactly these from now on; new ones within a period, at their own moment."""
        wanted = {endpoint.pod_uid: endpoint for endpoint in endpoints}
        for uid in [uid for uid in self._endpoints if wanted.get(uid) != self._endpoints[uid]]:
            self._forget(uid)
        now_ms = self._monotonic_ms()
        for uid, endpoint in wanted.items():
            if uid not in self._endpoints:
                self._endpoints[uid] = endpoint
                self._due_ms[uid] = now_ms + zlib.crc32(uid.encode()) % self._period_ms

    def answers(self) -> Mapping[str, _Answer]:
        """Last good answer of each pod that ever gave one, by pod uid; check its age."""
        return dict(self._answers)

    def errors(self) -> Mapping[str, SampleError]:
        """Pods whose last attempt failed, by pod uid, and why."""
        return dict(self._errors)

    async def run(self) -> None:
        """Poll until cancelled."""
        try:
            while True:
                now_ms = self._monotonic_ms()
                for uid, due_ms in list(self._due_ms.items()):
                    if due_ms <= now_ms:
                        # From the due moment, not from now: the rhythm does not drift. Turns missed are not made up.
                        period_ms = self._period_ms_of(uid)
                        missed = (now_ms - due_ms) // period_ms
                        self._due_ms[uid] = due_ms + (missed + 1) * period_ms
                        self._start_asking(uid)
                await self._sleep(self._period_ms / 1000 / 20)
        finally:
            await self._stop_asking(list(self._asking))

    async def poll_now(self) -> None:
        """Ask every endpoint once and wait for all answers."""
        for uid in self._endpoints:
            self._start_asking(uid)
        await asyncio.gather(*self._asking.values())

    def _period_ms_of(self, uid: str) -> int:
        longest_ms = max(self._period_ms, round(LONGEST_PERIOD_SECONDS * 1000))
        doublings = min(self._timeouts.get(uid, 0), longest_ms.bit_length())
        return min(longest_ms, self._period_ms << doublings)

    def _start_asking(self, uid: str) -> None:
        if uid in self._asking:
            return
        task = asyncio.create_task(self._ask(self._endpoints[uid]), name=f"telemetry {uid}")
        self._asking[uid] = task
        task.add_done_callback(lambda _: self._asking.pop(uid, None) if self._asking.get(uid) is task else None)

    async def _ask(self, endpoint: _Endpoint) -> None:
        uid = endpoint.pod_uid
        async with self._retry_places if uid in self._timeouts else self._places:
            answer = await self._read(endpoint)
        if self._endpoints.get(uid) != endpoint:
            return
        self._count_timeout(uid, isinstance(answer, SampleError) and answer.problem is SampleProblem.TIMEOUT)
        if not isinstance(answer, SampleError):
            self._answers[uid] = answer
            if self._errors.pop(uid, None) is not None:
                log.debug("telemetry is back", pod=f"{endpoint.namespace}/{endpoint.pod}")
            return
        self.errors_total[answer.problem] += 1
        before = self._errors.get(uid)
        if before is None or before.problem is not answer.problem:
            log.debug("no telemetry", pod=f"{endpoint.namespace}/{endpoint.pod}", error=answer.message)
        self._errors[uid] = answer
        if answer.disproves:
            self._answers.pop(uid, None)

    def _count_timeout(self, uid: str, timed_out: bool) -> None:
        if timed_out:
            self._timeouts[uid] = self._timeouts.get(uid, 0) + 1
        elif self._timeouts.pop(uid, None) is not None:
            self._due_ms[uid] = min(self._due_ms[uid], self._monotonic_ms() + self._period_ms)

    def _forget(self, uid: str) -> None:
        for memory in (self._endpoints, self._due_ms, self._answers, self._errors, self._timeouts):
            memory.pop(uid, None)
        if task := self._asking.pop(uid, None):
            task.cancel()

    async def _stop_asking(self, uids: list[str]) -> None:
        tasks = [task for uid in uids if (task := self._asking.pop(uid, None)) is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
