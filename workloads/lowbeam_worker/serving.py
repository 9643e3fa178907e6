"""The life of the process: listen, load, warm up, serve, drain, exit.

Both ports listen before the model is loaded, so that probes and the operator see LOADING instead of a refused
connection. SIGTERM or SIGINT: /ready turns 503, new requests are refused with `Connection: close`, requests in flight
finish (at most `DRAIN_SECONDS`), exit code 0. The ports close only after nothing has come for `QUIET_SECONDS`, so that
a client on a connection from before gets an answer and not a broken connection. A model that cannot be loaded: the
reason on stderr, exit code 1.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Iterator

import uvicorn
from starlette.applications import Starlette
from transformers.utils.logging import disable_progress_bar

from lowbeam_worker.building import prepare
from lowbeam_worker.connections import Connection
from lowbeam_worker.control.app import control_app
from lowbeam_worker.energy.boards import visible_devices
from lowbeam_worker.energy.ledger import Ledger, Phase
from lowbeam_worker.energy.meter import open_meter
from lowbeam_worker.front.app import serving_app
from lowbeam_worker.listening import listen
from lowbeam_worker.memory import resident_bytes
from lowbeam_worker.metrics import Metrics
from lowbeam_worker.models import CannotLoadError, choose_device
from lowbeam_worker.options import WorkerOptions
from lowbeam_worker.worker import Worker

log = logging.getLogger(__name__)

DRAIN_SECONDS = 50
"""Longest wait for requests in flight after SIGTERM; below the grace period that the operator gives a pod."""
QUIET_SECONDS = 1.0
"""Twice the time in which a busy client on a kept connection comes back."""
_KEEP_ALIVE_SECONDS = 75
"""Longer than a proxy keeps an idle connection (nginx: 60 s), so that the proxy closes first and no request meets a
connection that is just being closed here."""
_LAST_BYTES_SECONDS = 5


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers, because two servers share this process and draining is ours; and on
    IPv6 and IPv4 at once, for which it has no setting."""

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        await super().serve(sockets or [listen(self.config.port)])

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(options: WorkerOptions) -> int:
    """Run until a signal; returns the exit code."""
    worker = Worker(options, Ledger(), Metrics())
    show_on(worker)
    told_to_end = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told_to_end.set)
    disable_progress_bar()
    servers = [server(serving_app(worker), options.port), server(control_app(worker), options.control_port)]
    listening = [asyncio.create_task(one.serve()) for one in servers]
    starting = asyncio.create_task(bring_up(worker))
    ending = asyncio.create_task(told_to_end.wait())
    code = 0
    try:
        await asyncio.wait({ending, *listening, starting}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done() and not ending.done():
            starting.result()
            await asyncio.wait({ending, *listening}, return_when=asyncio.FIRST_COMPLETED)
        if ending.done():
            await _drain(worker)
        else:
            problems = [error for one in listening if one.done() and (error := one.exception())]
            log.error("lowbeam-worker ends: a port cannot be opened: %s", problems[0] if problems else "see above")
            code = 1
    except CannotLoadError as error:
        log.error("lowbeam-worker ends: %s", error)  # noqa: TRY400 - the message says it all, a traceback hides it
        code = 1
    finally:
        starting.cancel()
        for one in servers:
            one.should_exit = True
        await asyncio.gather(*listening, return_exceptions=True)
        ending.cancel()
        await asyncio.gather(starting, return_exceptions=True)  # it may be stopping a half-made engine
        await worker.stop()
        worker.meter.stop()
    return code


def show_on(worker: Worker) -> None:
    """Connect a worker's telemetry to its /metrics."""
    worker.metrics.show(lambda: (worker.telemetry(), worker.engine.stats() if worker.engine else None, worker.meter))


async def bring_up(worker: Worker) -> None:
    """Meter, model, engine, warm-up; the worker is READY afterwards. Raises CannotLoadError."""
    options, began = worker.options, time.monotonic()
    device = choose_device(options.device)
    worker.meter = open_meter(visible_devices(os.environ.get("CUDA_VISIBLE_DEVICES")), worker.ledger)
    worker.meter.start()
    with worker.ledger.phase(Phase.LOAD):
        worker.runtime_bytes = resident_bytes()
        worker.take_over(await prepare(worker, worker.source, device))
    log.info(
        "ready: %s as %s, %s on %s, energy by %s, %.1f s after start, at most %d MiB of memory",
        options.task,
        options.model,
        options.precision,
        device,
        worker.meter.method,
        time.monotonic() - began,
        worker.memory_promised_bytes >> 20,
    )


async def _drain(worker: Worker) -> None:
    worker.drain()
    began = time.monotonic()
    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            await worker.idle.wait()
            while (quiet_at := max(began, worker.last_request_s) + QUIET_SECONDS) > time.monotonic():
                await asyncio.sleep(quiet_at - time.monotonic())
                await worker.idle.wait()
    except TimeoutError:
        cut_off = worker.requests_in_flight()
        log.warning("%d requests did not finish within %.0f s and are cut off", len(cut_off), DRAIN_SECONDS)


def server(app: Starlette, port: int) -> _Server:
    """A port of this worker, as uvicorn serves it; 0: any free one."""
    return _Server(
        uvicorn.Config(
            app,
            port=port,
            http=Connection,
            loop="uvloop",
            ws="none",
            lifespan="off",
            log_level="warning",
            access_log=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=_LAST_BYTES_SECONDS,
        )
    )
