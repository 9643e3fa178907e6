"""One run of the emulator: watch, listen, play, until told to stop.

Decides the order only: informers change -> the fleet follows -> the sockets follow; and a tick that moves the load
along the trace. It reads pods, nodes and InferenceWorkloads and writes nothing. Part of the emulator (tests and demos
only).
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from aiohttp import web

from lowbeam.api.wire import CONTROL_PORT
from lowbeam.catalog.facts import Catalogue
from lowbeam.emulator.admin_port import admin_app
from lowbeam.emulator.agent_port import AgentPorts
from lowbeam.emulator.control_port import ControlPorts
from lowbeam.emulator.fleet import Fleet, FleetSettings
from lowbeam.emulator.members import is_agent
from lowbeam.errors import BadInput
from lowbeam.kube.informer import Informer, keep_only
from lowbeam.kube.resources import INFERENCE_WORKLOADS, NODES, PODS
from lowbeam.kube.transport import KubeTransport
from lowbeam.render import labels
from lowbeam.runtime.replicas import holds_accelerators

if TYPE_CHECKING:  # the whole operator comes with the package
    from lowbeam.runtime.clock import Clock

TICK_SECONDS = 0.5
"""How often the load is shared out anew, and addresses that could not be bound are tried again."""
DEBOUNCE_SECONDS = 0.05
"""Pods come in bursts: 500 changes become a few rounds."""

log = structlog.get_logger(__name__)


class Emulator:
    """The emulator of one cluster, or of one namespace of it; `run` until `stop` is set."""

    def __init__(
        self,
        transport: KubeTransport,
        catalogue: Catalogue,
        clock: Clock,
        settings: FleetSettings,
        *,
        namespace: str | None = None,
        admin_port: int | None = None,
        control_port: int = CONTROL_PORT,
        agent_token_file: Path | None = None,
    ) -> None:
        """`agent_token_file`: the token that the agents' power limits ask for; None = they set none."""
        self.fleet = Fleet(catalogue, clock, settings)
        self.ports = ControlPorts(self.fleet)
        self.agent_ports = AgentPorts(self.fleet, agent_token_file)
        self._control_port = control_port
        self._clock = clock
        self._admin_port = admin_port
        self._changed = asyncio.Event()
        self._pods = Informer(transport, PODS, monotonic_ms=clock.monotonic_ms, label_selector=labels.WORKER_SELECTOR)
        self._others = Informer(
            transport,
            PODS,
            monotonic_ms=clock.monotonic_ms,
            label_selector=labels.OTHERS_SELECTOR,
            wanted=lambda pod: is_agent(pod) or holds_accelerators(pod),
        )
        self._nodes = Informer(
            transport, NODES, monotonic_ms=clock.monotonic_ms, transform=keep_only("status.allocatable")
        )
        self._workloads = Informer(
            transport,
            INFERENCE_WORKLOADS,
            monotonic_ms=clock.monotonic_ms,
            namespace=namespace,
            transform=keep_only("spec"),
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Play until `stop`. Raises BadInput when the admin port is taken."""
        _allow_many_sockets()
        informers = (self._pods, self._others, self._nodes, self._workloads)
        for informer in informers:
            informer.on_change(lambda *_: self._changed.set())
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.ports)
            await stack.enter_async_context(self.agent_ports)
            if self._admin_port is not None:
                stack.push_async_callback((await _serve(admin_app(self.fleet), self._admin_port)).cleanup)
            tasks = [asyncio.create_task(informer.run()) for informer in informers]
            tasks.append(asyncio.create_task(self._play()))
            stack.push_async_callback(_end, tasks)
            await stop.wait()

    async def _play(self) -> None:
        for informer in (self._pods, self._others, self._nodes):
            await informer.wait_synced()
        while True:
            self._changed.clear()
            pods = (*self._pods.objects(), *self._others.objects())
            self.fleet.follow(pods, self._workloads.objects(), self._nodes.objects())
            before, agents_before = self.ports.listening(), self.agent_ports.listening()
            await self.ports.follow(dict.fromkeys(self.fleet.addresses(), self._control_port))
            await self.agent_ports.follow(self.fleet.nodes.agent_ports())
            if (after := self.ports.listening()) != before:
                log.info("playing workers", pods=len(after), came=len(after - before), went=len(before - after))
            if (after := self.agent_ports.listening()) != agents_before:
                log.info("playing node agents", pods=len(after))
            await self._until_changed()

    async def _until_changed(self) -> None:
        """Return soon after a change; meanwhile move the load along."""
        while not self._changed.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), TICK_SECONDS)
            self.fleet.share_load()
            if self.fleet.addresses() != self.ports.listening():
                return
            if set(self.fleet.nodes.agent_ports()) != self.agent_ports.listening():
                return
        await self._clock.sleep(DEBOUNCE_SECONDS)


async def _serve(app: web.Application, port: int) -> web.AppRunner:
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
    except OSError as error:
        await runner.cleanup()
        raise BadInput(f"--admin-port {port}: {error.strerror}; choose a free port") from error
    return runner


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _allow_many_sockets() -> None:
    """One listening socket and a few connections per pod: the usual soft limit of 1024 is too low for 500 pods."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
