"""A port answers on every address of the machine, and on machines without IPv6 too."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from lowbeam_worker.control.app import control_app
from lowbeam_worker.energy.ledger import Ledger
from lowbeam_worker.listening import listen
from lowbeam_worker.metrics import Metrics
from lowbeam_worker.options import Task
from lowbeam_worker.serving import server
from lowbeam_worker.worker import Worker
from tests.worker.conftest import LLAMA, needs_ipv6, options


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """The control port of a worker that loads nothing."""
    one = server(control_app(Worker(options(Task.TEXT_GENERATION, "tiny", LLAMA), Ledger(), Metrics())), 0)
    running = asyncio.create_task(one.serve())
    while not one.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    yield int(one.servers[0].sockets[0].getsockname()[1])
    one.should_exit = True
    await running


async def answers(port: int, *hosts: str) -> list[int]:
    async with httpx.AsyncClient(trust_env=False) as client:
        return [(await client.get(f"http://{host}:{port}/telemetry")).status_code for host in hosts]


@needs_ipv6
async def test_a_worker_answers_on_ipv6_and_on_ipv4(port: int) -> None:
    assert await answers(port, "[::1]", "127.0.0.1") == [200, 200]


class SwitchedOff(socket.socket):
    """A socket of a machine that has IPv6 and no address of it."""

    def bind(self, address: Any, /) -> None:
        if self.family == socket.AF_INET6:
            raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
        super().bind(address)


class NotInTheKernel(socket.socket):
    """A socket of a kernel that was started without IPv6."""

    def __init__(self, family: int = -1, *more: Any, **named: Any) -> None:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        super().__init__(family, *more, **named)


@pytest.mark.parametrize("kind", [SwitchedOff, NotInTheKernel])
def test_without_ipv6_a_port_answers_on_ipv4(kind: type[socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", kind)
    with listen(0) as listening:
        assert listening.family == socket.AF_INET
        with socket.create_connection(("127.0.0.1", listening.getsockname()[1]), timeout=5):
            pass


def test_a_port_that_was_just_closed_can_be_had_again_and_a_taken_one_cannot() -> None:
    with listen(0) as listening:
        port = listening.getsockname()[1]
        with pytest.raises(OSError, match="already in use") as raised:
            listen(port)
        assert raised.value.errno == errno.EADDRINUSE
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            listening.accept()[0].close()  # closed on this side first: it lingers
    listen(port).close()
