"""Virtual time: nothing passes until a test says so.

`advance` wakes sleepers in the order of their deadlines and lets every task run in between, so the loops of the
operator run hours in milliseconds and always in the same order.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from datetime import UTC, datetime, timedelta

SETTLE_ROUNDS = 50
"""Turns of the event loop that tasks get between two moments; more than the longest chain of awaits in our loops."""


class VirtualClock:
    """Fits wherever `monotonic_ms`, `now` and `sleep` are injected."""

    def __init__(self, start: datetime = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)) -> None:
        self._start = start
        self._elapsed_ms = 0
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def now(self) -> datetime:
        return self._start + timedelta(milliseconds=self._elapsed_ms)

    def monotonic_ms(self) -> int:
        return 1_000_000 + self._elapsed_ms

    async def sleep(self, seconds: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        deadline_ms = self._elapsed_ms + round(max(0.0, seconds) * 1000)
        heapq.heappush(self._sleepers, (deadline_ms, next(self._order), future))
        await future

    async def advance(self, seconds: float) -> None:
        """Let this much time pass, and everything happen that was due in it."""
        end_ms = self._elapsed_ms + round(seconds * 1000)
        await settle()
        while self._sleepers and self._sleepers[0][0] <= end_ms:
            deadline_ms, _, future = heapq.heappop(self._sleepers)
            self._elapsed_ms = max(self._elapsed_ms, deadline_ms)
            if not future.done():
                future.set_result(None)
                await settle()
        self._elapsed_ms = end_ms
        await settle()


async def settle() -> None:
    """Let every task that can go on do so."""
    for _ in range(SETTLE_ROUNDS):
        await asyncio.sleep(0)
