"""Work per workload: one pass at a time for each, side by side, and again later where a pass did not get through.

Decides when a workload is handled, never what is done. A workload whose writes hang or are refused delays no other.

Invariants: at most one pass per key at a time; a key that is added during its pass is handled once more; a failed pass
is repeated after 1, 2, 4, ... `LONGEST_RETRY_SECONDS`, or at once when the key is added again. A pass that carries out
what no longer counts is ended: passes can be begun anew at any point.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import structlog

from lowbeam.runtime.clock import Clock
from lowbeam.runtime.replicas import WorkloadKey

FIRST_RETRY_SECONDS = 1
LONGEST_RETRY_SECONDS = 16
"""A granted permission or a repaired webhook takes effect within this time."""
GATHER_SECONDS = 0.1
"""Changes of children come in bursts: a few passes instead of many."""
LOOKS_TO_REST = 10
"""A pass looks at the world anew after a change: of a big fleet no more than a tenth of the time ..."""
LONGEST_REST_SECONDS = 1.0
"""... as long as that holds up no write, a shed among them, for longer."""

log = structlog.get_logger("lowbeam.worklist")


class Worklist:
    """Keys to handle. `handle` answers whether it got through; what it raises is logged and counts as no.

    `look_seconds`: what the last look at the world took.
    """

    def __init__(
        self,
        handle: Callable[[WorkloadKey], Awaitable[bool]],
        clock: Clock,
        look_seconds: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._handle = handle
        self._look_seconds = look_seconds
        self._clock = clock
        self._due: set[WorkloadKey] = set()
        self._busy: dict[WorkloadKey, asyncio.Task[None]] = {}
        self._failures: dict[WorkloadKey, int] = {}
        self._retry_at_ms: dict[WorkloadKey, int] = {}
        self._wake = asyncio.Event()

    def add(self, *keys: WorkloadKey) -> None:
        """Handle these soon."""
        if keys:
            self._due.update(keys)
            self._wake.set()

    def supersede(self, *keys: WorkloadKey) -> None:
        """Handle these soon, as something else was decided: a shed must not wait for an answer to what it undoes."""
        for key in keys:
            if (busy := self._busy.get(key)) is not None:
                busy.cancel()
        self.add(*keys)

    async def run(self) -> None:
        """Handle what is added, until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._until_due()
                for key in sorted(self._due - self._busy.keys()):
                    self._due.discard(key)
                    self._retry_at_ms.pop(key, None)
                    task = self._busy[key] = group.create_task(self._pass(key), name=f"workload {'/'.join(key)}")
                    task.add_done_callback(partial(self._done, key))
                rest = max(GATHER_SECONDS, LOOKS_TO_REST * self._look_seconds())
                await self._clock.sleep(min(rest, LONGEST_REST_SECONDS))

    async def _until_due(self) -> None:
        """Return when something is due; what is due again by now is among it."""
        while not self._due - self._busy.keys():
            self._wake.clear()
            waits = [at - self._clock.monotonic_ms() for at in self._retry_at_ms.values()]
            try:
                async with asyncio.timeout(max(0, min(waits)) / 1000 if waits else None):
                    await self._wake.wait()
            except TimeoutError:
                pass
            now_ms = self._clock.monotonic_ms()
            self._due.update(key for key, at in self._retry_at_ms.items() if at <= now_ms)

    async def _pass(self, key: WorkloadKey) -> None:
        through = False
        try:
            through = await self._handle(key)
        except Exception:
            log.exception("pass failed and is tried again", workload="/".join(key))
        if through:
            self._failures.pop(key, None)
        else:
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            seconds = min(FIRST_RETRY_SECONDS << min(failures - 1, 8), LONGEST_RETRY_SECONDS)
            self._retry_at_ms[key] = self._clock.monotonic_ms() + seconds * 1000

    def _done(self, key: WorkloadKey, _: asyncio.Task[None]) -> None:
        del self._busy[key]
        self._wake.set()
