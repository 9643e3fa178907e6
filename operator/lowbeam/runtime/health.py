"""Liveness and readiness from what the loops really did, served as /livez and /readyz; metrics at /metrics.

Live: no loop is silent for much longer than its interval. Ready: every informer that it may read is in sync (a standby
is ready too: it could take over at once), and no operator of another namespace keeps this one from leading.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import orjson
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from lowbeam.runtime.clock import Clock
from lowbeam.runtime.metrics import REGISTRY, loop_lag_seconds

SILENT_LOOP_MS = 120_000
"""Longer than any guard tick and any retry; a loop that is silent for so long is stuck."""
LONGEST_WORK_SECONDS = 900
"""A thread that plans for longer is stuck: 1,000 workloads of as many priorities take some minutes."""
BEAT_SECONDS = 10

LAG_INTERVAL_SECONDS = 0.25


@dataclass(slots=True)
class Health:
    """Beats of the loops, and what is not in sync."""

    clock: Clock
    is_leader: bool = False
    beats_ms: dict[str, int] = field(default_factory=dict)
    unsynced: Callable[[], list[str]] = list

    def beat(self, loop: str) -> None:
        """A loop came around."""
        self.beats_ms[loop] = self.clock.monotonic_ms()

    @asynccontextmanager
    async def working(self, loop: str) -> AsyncIterator[None]:
        """A loop may be busy for so long as this block takes, but for `LONGEST_WORK_SECONDS` at most."""
        self.beat(loop)  # a standby's cycle is over before the task has begun
        heart = asyncio.create_task(self._beat_on(loop))
        try:
            yield
        finally:
            heart.cancel()

    async def _beat_on(self, loop: str) -> None:
        for _ in range(LONGEST_WORK_SECONDS // BEAT_SECONDS):
            self.beat(loop)
            await self.clock.sleep(BEAT_SECONDS)

    def planner_age_seconds(self) -> float | None:
        """Seconds since the planner loop last came around; None before the first time."""
        beat = self.beats_ms.get("planner")
        return None if beat is None else (self.clock.monotonic_ms() - beat) / 1000

    def silent(self) -> list[str]:
        """Loops that are stuck."""
        now_ms = self.clock.monotonic_ms()
        return sorted(name for name, beat in self.beats_ms.items() if now_ms - beat > SILENT_LOOP_MS)


async def watch_the_event_loop() -> None:
    """Measure how late it wakes, for ever: the Lease, the guard and the probes all wait for it."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LAG_INTERVAL_SECONDS
        await asyncio.sleep(LAG_INTERVAL_SECONDS)
        loop_lag_seconds.observe(max(0.0, loop.time() - due))


async def start_servers(health: Health, health_port: int, metrics_port: int) -> list[web.AppRunner]:
    """Serve probes and metrics; a port of 0 turns one off. Stop with `runner.cleanup()`."""

    async def livez(_: web.Request) -> web.Response:
        return _answer(health.silent(), "silent loops")

    async def readyz(_: web.Request) -> web.Response:
        return _answer(health.unsynced(), "not in sync")

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST})

    runners = []
    for port, routes in ((health_port, {"/livez": livez, "/readyz": readyz}), (metrics_port, {"/metrics": metrics})):
        if port:
            app = web.Application()
            app.add_routes([web.get(path, handler) for path, handler in routes.items()])
            runner = web.AppRunner(app, access_log=None)
            await runner.setup()
            await web.TCPSite(runner, None, port).start()
            runners.append(runner)
    return runners


def _answer(problems: list[str], title: str) -> web.Response:
    body = orjson.dumps({"ok": not problems, title: problems} if problems else {"ok": True})
    return web.Response(body=body, status=503 if problems else 200, content_type="application/json")
