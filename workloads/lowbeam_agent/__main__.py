"""`lowbeam-agent`: NVML readings of a whole node, over HTTP.

Decides nothing and changes nothing on a board. The last reading is served with its own time, so that an old one is seen
to be old; a figure that a board does not tell is null (and has no series), never 0.

    GET /telemetry  -> lowbeam.api.wire.NodeTelemetry
    GET /metrics    -> lowbeam_agent_* for Prometheus
    GET /health     -> 200 while the readings are fresh, else 503
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence

import uvicorn
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from lowbeam.api.wire import AGENT_PORT, NodeTelemetry
from lowbeam_worker.energy.boards import Boards, NoMeterError, Reading

log = logging.getLogger(__name__)

READ_SECONDS = 1.0
FRESH_SECONDS = 10.0
NO_METER_EXIT_CODE = 3


class Sampler:
    """Reads the boards in a thread of its own."""

    def __init__(self, boards: Boards) -> None:
        self._boards = boards
        self._stopping = threading.Event()
        self._last = boards.read()
        self._thread = threading.Thread(target=self._run, name="boards", daemon=True)

    @property
    def last(self) -> Reading:
        """The newest reading."""
        return self._last

    def start(self) -> None:
        """Start reading once a second."""
        self._thread.start()

    def stop(self) -> None:
        """Stop reading and give NVML back."""
        self._stopping.set()
        self._thread.join(timeout=5)
        self._boards.close()

    def _run(self) -> None:
        while not self._stopping.wait(READ_SECONDS):
            self._last = self._boards.read()


def agent_app(node: str, sampler: Sampler) -> Starlette:
    """The ASGI application."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_AtScrape(sampler))

    async def telemetry(_: Request) -> Response:
        reading = sampler.last
        sample = NodeTelemetry(node=node, sampled_at_seconds=reading.at_unix_s, devices=reading.devices)
        return Response(sample.model_dump_json(by_alias=True), media_type="application/json")

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(registry), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def health(_: Request) -> Response:
        age = time.monotonic() - sampler.last.at_monotonic_s
        if age < FRESH_SECONDS:
            return PlainTextResponse("ok\n")
        return PlainTextResponse(f"the last NVML reading is {age:.0f} s old\n", 503)

    return Starlette(routes=[Route("/telemetry", telemetry), Route("/metrics", metrics), Route("/health", health)])


class _AtScrape:
    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        watts = GaugeMetricFamily("lowbeam_agent_device_power_watts", "Power of a board", labels=["uuid"])
        limit = GaugeMetricFamily("lowbeam_agent_device_power_limit_watts", "Enforced power limit", labels=["uuid"])
        joules = CounterMetricFamily("lowbeam_agent_device_energy_joules", "Energy since driver load", labels=["uuid"])
        for device in self._sampler.last.devices:
            for family, value in (
                (watts, device.watts),
                (limit, device.power_limit_watts),
                (joules, device.joules_total),
            ):
                if value is not None:
                    family.add_metric([device.uuid], value)
        yield from (watts, limit, joules)
        age = GaugeMetricFamily("lowbeam_agent_sample_age_seconds", "Age of the last reading")
        age.add_metric([], time.monotonic() - self._sampler.last.at_monotonic_s)
        yield age


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; exits 0 after SIGTERM, 1 when the port is taken, 3 when NVML is missing."""
    parser = argparse.ArgumentParser(prog="lowbeam-agent", description="Tell what the GPUs of this node draw.")
    parser.add_argument("--port", type=int, default=AGENT_PORT, help=f"default {AGENT_PORT}")
    parser.add_argument(
        "--node", default=os.environ.get("NODE_NAME") or socket.gethostname(), help="default: NODE_NAME"
    )
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        sampler = Sampler(Boards())
    except NoMeterError as error:
        sys.stderr.write(f"lowbeam-agent: {error}\n")
        sys.exit(NO_METER_EXIT_CODE)
    sampler.start()
    log.info("lowbeam-agent reads %d boards of node %s", len(sampler.last.devices), given.node)
    config = uvicorn.Config(
        agent_app(given.node, sampler),
        host="0.0.0.0",  # noqa: S104 - the operator asks from another node
        port=given.port,
        log_level="warning",
        access_log=False,
        lifespan="off",
    )
    server = uvicorn.Server(config)
    # uvicorn ends at the first signal, and then raises it again: that would end us with code 143.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    server.run()
    sampler.stop()
    sys.exit(0 if server.started else 1)


if __name__ == "__main__":
    main()
