"""Time as a dependency: the loops ask a Clock, so that tests can run them on virtual time.

Wall time is for stamps that people read; monotonic time is for ages and deadlines and never goes back.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What the runtime needs to know about time."""

    def now(self) -> datetime:
        """Wall time, UTC."""

    def monotonic_ms(self) -> int:
        """Milliseconds that only grow."""

    async def sleep(self, seconds: float) -> None:
        """Wait without blocking the loop."""


class SystemClock:
    """The machine's own time."""

    def now(self) -> datetime:
        """Wall time, UTC."""
        return datetime.now(UTC)

    def monotonic_ms(self) -> int:
        """Milliseconds since an arbitrary start."""
        return time.monotonic_ns() // 1_000_000

    async def sleep(self, seconds: float) -> None:
        """Wait without blocking the loop."""
        await asyncio.sleep(seconds)


def timestamp(moment: datetime) -> str:
    """Kubernetes' RFC 3339 form in whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
