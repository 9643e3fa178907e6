"""The replicas' own word: telemetry of every worker pod, and the way to its profile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime

from lowbeam.api.wire import ProfileChange, ProfileChangeResult
from lowbeam.telemetry.control_client import ControlClient, WorkerEndpoint
from lowbeam.telemetry.polling import Poller
from lowbeam.telemetry.samples import Sample, SampleError


class WorkerPoller(Poller[WorkerEndpoint, Sample]):
    """Telemetry of many replicas."""

    def __init__(
        self,
        *,
        monotonic_ms: Callable[[], int],
        now: Callable[[], datetime],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        poll_seconds: float = 2.0,
    ) -> None:
        self._client = ControlClient(monotonic_ms=monotonic_ms, now=now)
        super().__init__(self._client, monotonic_ms=monotonic_ms, sleep=sleep, poll_seconds=poll_seconds)

    def samples(self) -> Mapping[str, Sample]:
        """Last good sample of each pod that ever gave one, by pod uid; check its age."""
        return self.answers()

    async def change_profile(
        self, endpoint: WorkerEndpoint, change: ProfileChange
    ) -> ProfileChangeResult | SampleError:
        """PATCH the worker's profile; an error value says why it did not happen."""
        return await self._client.change_profile(endpoint, change)

    async def _read(self, endpoint: WorkerEndpoint) -> Sample | SampleError:
        return await self._client.read(endpoint)
