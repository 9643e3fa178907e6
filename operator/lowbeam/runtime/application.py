"""One operator process: connects, starts the tasks, and ends them in order.

Decides nothing. Any task that ends by an error ends the application; Kubernetes restarts it, and it goes on from what
the cluster says.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

import structlog

from lowbeam.kube import AioTransport, Applier, EventRecorder, KubeTransport, LeaderElector, connect
from lowbeam.runtime.board_limits import BoardLimits
from lowbeam.runtime.clock import Clock, SystemClock
from lowbeam.runtime.controller import Controller
from lowbeam.runtime.executor import Executor
from lowbeam.runtime.health import Health, start_servers, watch_the_event_loop
from lowbeam.runtime.metrics import REGISTRY, ApiCalls, other_operators, unlimited_nodes
from lowbeam.runtime.mirror import Mirror
from lowbeam.runtime.object_metrics import ObjectMetrics
from lowbeam.runtime.reporter import Reporter
from lowbeam.runtime.settings import LEASE_NAME, OperatorSettings
from lowbeam.telemetry import (
    AgentFallback,
    AgentPoller,
    PrometheusFallback,
    PrometheusSource,
    Telemetry,
    WorkerPoller,
)

log = structlog.get_logger("lowbeam.application")


class Application:
    """The operator behind `lowbeam run`. `transport` and `clock` are seams for tests."""

    def __init__(
        self, settings: OperatorSettings, *, transport: KubeTransport | None = None, clock: Clock | None = None
    ) -> None:
        self.settings = settings
        self.clock = clock or SystemClock()
        self.health = Health(self.clock)
        self.transport = transport

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop` is set; raises what a task died of."""
        try:
            await self._run(stop)
        except Exception:
            log.exception("the operator ends: a task died", identity=self.settings.identity)
            raise

    async def _run(self, stop: asyncio.Event) -> None:
        async with contextlib.AsyncExitStack() as stack:
            if self.transport is None:
                self.transport = await stack.enter_async_context(await connect(self.settings.kubeconfig))
                # A connection of its own: a renewal must not wait its turn behind the writes of a whole fleet.
                lease_transport: KubeTransport = await stack.enter_async_context(
                    await connect(self.settings.kubeconfig)
                )
                lease_transport.calls = self.transport.calls
            else:
                lease_transport = self.transport
            agents = await stack.enter_async_context(
                AgentPoller(
                    monotonic_ms=self.clock.monotonic_ms,
                    now=self.clock.now,
                    token=self.settings.agent_token,
                    sleep=self.clock.sleep,
                    poll_seconds=self.settings.poll_seconds,
                )
            )
            telemetry = await self._telemetry(stack, agents)
            board_limits = BoardLimits(
                agents,
                self.clock,
                allowed=bool(self.settings.agent_token_file),
                tick_seconds=self.settings.guard_seconds,
            )
            recorder = EventRecorder(
                self.transport,
                instance=self.settings.identity,
                monotonic_ms=self.clock.monotonic_ms,
                now=self.clock.now,
            )
            elector = LeaderElector(
                lease_transport,
                namespace=self.settings.namespace,
                name=LEASE_NAME,
                identity=self.settings.identity,
                monotonic_ms=self.clock.monotonic_ms,
                now=self.clock.now,
            )
            if self.settings.leader_election and isinstance(self.transport, AioTransport):
                self.transport.may_write = lambda: elector.is_leader
            applier = Applier(self.transport)
            controller = Controller(
                settings=self.settings,
                clock=self.clock,
                poller=telemetry,
                executor=Executor(applier, telemetry, self.settings, board_limits),
                board_limits=board_limits,
                reporter=Reporter(applier, recorder, self.clock),
                health=self.health,
                leads=(lambda: elector.is_leader) if self.settings.leader_election else (lambda: True),
            )
            mirror = Mirror(
                self.transport,
                self.clock,
                controller.input_changed,
                controller.child_changed,
                controller.others_changed,
                namespace=self.settings.namespace,
            )
            controller.mirror = mirror
            self.health.unsynced = lambda: [*mirror.unsynced(), *([elector.message] if elector.message else [])]
            other_operators.set_function(lambda: len(elector.rivals))
            unlimited_nodes.set_function(board_limits.nodes_in_trouble)
            for collector in (ApiCalls(self.transport.calls), ObjectMetrics(mirror.objects)):
                REGISTRY.register(collector)
                stack.callback(REGISTRY.unregister, collector)
            runners = await start_servers(self.health, self.settings.health_port, self.settings.metrics_port)
            for runner in runners:
                stack.push_async_callback(runner.cleanup)
            log.info("started", identity=self.settings.identity)
            # In the order in which they end: the Lease is given back when nothing of ours can write any longer.
            await _until(
                stop,
                controller.run(),
                telemetry.run(),
                mirror.run(),
                recorder.run(),
                watch_the_event_loop(),
                *([elector.run()] if self.settings.leader_election else []),
            )
            log.info("stopped", identity=self.settings.identity)

    async def _telemetry(self, stack: contextlib.AsyncExitStack, agents: AgentPoller) -> Telemetry:
        """The workers' own ports, behind them the agents of their nodes, and Prometheus where one is configured."""
        workers = await stack.enter_async_context(
            WorkerPoller(
                monotonic_ms=self.clock.monotonic_ms,
                now=self.clock.now,
                sleep=self.clock.sleep,
                poll_seconds=self.settings.poll_seconds,
            )
        )
        of_pods = AgentFallback(workers, agents, monotonic_ms=self.clock.monotonic_ms)
        if not self.settings.prometheus_url:
            return of_pods
        prometheus = await stack.enter_async_context(
            PrometheusSource(self.settings.prometheus_url, monotonic_ms=self.clock.monotonic_ms, now=self.clock.now)
        )
        return PrometheusFallback(of_pods, prometheus, monotonic_ms=self.clock.monotonic_ms, sleep=self.clock.sleep)


async def _until(stop: asyncio.Event, *coroutines: Coroutine[Any, Any, None]) -> None:
    """Run all until `stop`, or until one ends by an error; then cancel them one after the other, waiting for each."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    stopping = asyncio.ensure_future(stop.wait())
    try:
        done, _ = await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (stopping, *tasks):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    for task in done:
        if task is not stopping:
            task.result()
            raise RuntimeError(f"{task} ended before its time")
