"""When `lowbeam top` says that the operator is silent, and when it had better say nothing."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from lowbeam.cli import main
from lowbeam.cli.top.reading import LeaseSight, Live, Question, read_once
from lowbeam.kube import INFERENCE_WORKLOADS, LEASES, POWER_CAPS, Forbidden, KubeError, Request
from lowbeam.runtime.settings import LEASE_NAME, LEASE_NAMESPACE
from tests.fakes.clock import VirtualClock, settle
from tests.fakes.transport import FakeTransport
from tests.raw_objects import iw, pcap

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
QUESTION = Question(None, LEASE_NAMESPACE, "watts")


def renewed(at: datetime, holder: str = "pod-1") -> dict[str, Any]:
    return {"holderIdentity": holder, "renewTime": f"{at:%Y-%m-%dT%H:%M:%S.%fZ}"}


def seen(*reads: tuple[int, dict[str, Any]]) -> LeaseSight:
    sight = LeaseSight()
    for second, record in reads:
        sight.take(record, second * 1000)
    return sight


def test_a_lease_that_is_renewed_is_no_news_whatever_its_clock_says() -> None:
    hour = timedelta(hours=1)
    assert seen((0, renewed(NOW - hour)), (5, renewed(NOW - hour + timedelta(seconds=4)))).warning(NOW) == ""
    assert LeaseSight().warning(NOW) == "", "never read: nobody can tell"


def test_a_lease_that_stands_still_is_a_silent_operator() -> None:
    record = renewed(NOW - timedelta(seconds=41))
    assert seen((0, record), (15, record)).warning(NOW) == ""
    said = "the operator has not renewed its Lease for 41s: the figures are from before"
    assert seen((0, record), (20, record)).warning(NOW) == said


def test_a_stamp_of_a_clock_that_is_ahead_does_not_shorten_the_silence() -> None:
    record = renewed(NOW + timedelta(hours=1))
    assert "for 25s" in seen((0, record), (25, record)).warning(NOW)
    assert "for 25s" in seen((0, {"holderIdentity": "x"}), (25, {"holderIdentity": "x"})).warning(NOW)


def test_time_in_which_we_did_not_look_is_no_silence() -> None:
    record = renewed(NOW)
    sight = seen((0, record), (5, record))
    assert sight.warning(NOW + timedelta(hours=1)) == "", "stopped with Ctrl-Z, or without a connection"


def test_a_lease_that_was_given_back_is_no_operator() -> None:
    assert "no operator is running" in seen((0, renewed(NOW, ""))).warning(NOW)


def fleet() -> FakeTransport:
    server = FakeTransport()
    server.put(INFERENCE_WORKLOADS, iw("a"))
    server.put(POWER_CAPS, pcap("c"))
    return server


def lease(server: FakeTransport, record: dict[str, Any]) -> None:
    metadata = {"name": LEASE_NAME, "namespace": LEASE_NAMESPACE}
    server.put(LEASES, {"metadata": metadata, "spec": record})


async def test_once_an_old_stamp_is_looked_at_twice() -> None:
    clock, server = VirtualClock(), fleet()
    lease(server, renewed(clock.now() - timedelta(minutes=10)))

    waited = Waiting(clock)
    assert "for 10m" in (await read_once(server, QUESTION, waited)).warning
    assert waited.slept == [5.0]
    waited = Waiting(clock, then=lambda: lease(server, renewed(clock.now() - timedelta(minutes=9))))
    assert (await read_once(server, QUESTION, waited)).warning == "", "it lives, and its clock is behind"
    lease(server, renewed(clock.now()))
    waited = Waiting(clock)
    assert (await read_once(server, QUESTION, waited)).warning == ""
    assert waited.slept == []


class Waiting(VirtualClock):
    """A clock whose sleeps pass at once."""

    def __init__(self, clock: VirtualClock, then: Any = lambda: None) -> None:
        super().__init__(clock.now())
        self.slept: list[float] = []
        self._then = then

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self._elapsed_ms += round(seconds * 1000)
        self._then()


@asynccontextmanager
async def watching(server: FakeTransport, clock: VirtualClock) -> AsyncIterator[Live]:
    """A live reading with its first picture."""
    live = Live(server, QUESTION, clock)
    entering = asyncio.create_task(live.__aenter__())
    while not entering.done():
        await clock.advance(0.05)
    try:
        yield await entering
    finally:
        await live.__aexit__()


async def test_live_a_silent_operator_is_named_after_its_lease_has_expired() -> None:
    clock, server = VirtualClock(), fleet()
    lease(server, renewed(clock.now()))
    async with watching(server, clock) as live:
        assert [row.name for row in live.picture().workloads] == ["a"]
        await clock.advance(19)
        assert live.picture().warning == ""
        await clock.advance(6)
        assert "has not renewed its Lease for 2" in live.picture().warning
        lease(server, renewed(clock.now()))
        await clock.advance(5)
        assert live.picture().warning == ""


async def test_live_without_the_right_to_read_the_lease_nothing_is_said_and_nothing_asked_again() -> None:
    clock, server = VirtualClock(), fleet()

    def refuse(request: Request) -> KubeError | None:
        return Forbidden(request, "not allowed", 403) if request.resource == "leases" else None

    server.fault = refuse
    async with watching(server, clock) as live:
        await clock.advance(60)
        assert live.picture().warning == ""
        assert server.calls["get", "leases"] == 1


async def test_live_caps_that_become_readable_appear() -> None:
    clock, server = VirtualClock(), fleet()
    server.fault = lambda request: Forbidden(request, "no", 403) if request.resource == "powercaps" else None
    async with watching(server, clock) as live:
        assert "not readable for you" in live.picture().caps_problem
        server.fault = lambda _: None
        await clock.advance(16)
        await settle()
        assert [row.name for row in live.picture().caps] == ["c"]
        assert live.picture().caps_problem == ""


@pytest.mark.parametrize("flags", [["--limit", "-1"], ["--limit", "all"], ["-n", "a", "-A"], ["--sort", "stars"]])
def test_wrong_flags_are_said_before_anything_is_asked(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["top", *flags])
    assert ended.value.code == 2
    assert "lowbeam top: error" in capsys.readouterr().err


def test_a_kubeconfig_that_is_not_there_ends_before_the_screen_changes() -> None:
    command = [sys.executable, "-m", "lowbeam", "top", "-A", "--kubeconfig", "/not/there"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.splitlines()[-1].startswith("read /not/there: Invalid kube-config file")
    assert "Traceback" not in done.stderr
