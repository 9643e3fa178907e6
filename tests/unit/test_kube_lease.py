"""At most one leader at any moment, whatever fails."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import structlog

from lowbeam.kube import (
    LEASES,
    Forbidden,
    KubeObject,
    LeaderElector,
    ListPage,
    NotFound,
    Request,
    Resource,
    ServerUnavailable,
)
from tests.fakes.clock import VirtualClock
from tests.fakes.transport import FakeTransport


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def server() -> FakeTransport:
    return FakeTransport()


class Partition:
    """The server as one process sees it: may be cut off from it, or hang."""

    def __init__(self, server: FakeTransport) -> None:
        self.server = server
        self.cut = False
        self.hang = False

    async def _reach(self, verb: str, resource: Resource) -> None:
        if self.hang:
            await asyncio.Event().wait()
        if self.cut:
            raise ServerUnavailable(Request(verb, resource.plural), "no route to host")

    async def list_pages(self, resource: Resource, **options: Any) -> AsyncIterator[ListPage]:
        await self._reach("list", resource)
        async for page in self.server.list_pages(resource, **options):
            yield page

    def __getattr__(self, name: str) -> Any:
        call = getattr(self.server, name)

        async def through(resource: Resource, *args: Any, **options: Any) -> KubeObject:
            await self._reach(name, resource)
            answer: KubeObject = await call(resource, *args, **options)
            return answer

        return through


class Process:
    def __init__(self, server: FakeTransport, clock: VirtualClock, identity: str) -> None:
        self.network: Any = Partition(server)
        self.elector = LeaderElector(
            self.network,
            namespace="lowbeam-system",
            name="lowbeam-operator",
            identity=identity,
            monotonic_ms=clock.monotonic_ms,
            now=clock.now,
            sleep=clock.sleep,
            jitter=lambda: 0.5,
        )
        self.task = asyncio.create_task(self.elector.run())

    async def stop(self) -> None:
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task


@pytest.fixture
async def two(server: FakeTransport, clock: VirtualClock) -> AsyncIterator[tuple[Process, Process]]:
    processes = Process(server, clock, "one"), Process(server, clock, "two")
    await clock.advance(3)
    yield processes
    for process in processes:
        await process.stop()


def leaders(*processes: Process) -> list[str]:
    return [process.elector.identity for process in processes if process.elector.is_leader]


async def test_the_lease_is_made_when_missing_and_one_of_two_leads(
    two: tuple[Process, Process], server: FakeTransport
) -> None:
    assert leaders(*two) == ["one"]
    assert two[1].elector.holder == "one"
    [lease] = server.stored(LEASES)
    assert lease["spec"]["holderIdentity"] == "one"
    assert lease["spec"]["leaseTransitions"] == 0


async def test_the_leader_renews_and_stays(two: tuple[Process, Process], clock: VirtualClock) -> None:
    for _ in range(60):
        await clock.advance(1)
        assert leaders(*two) == ["one"]


async def test_a_stopped_leader_gives_the_lease_back_and_the_other_need_not_wait(
    two: tuple[Process, Process], clock: VirtualClock, server: FakeTransport
) -> None:
    await two[0].stop()
    assert leaders(*two) == []
    await clock.advance(3)
    assert leaders(*two) == ["two"]
    assert server.stored(LEASES)[0]["spec"]["leaseTransitions"] == 1


@pytest.mark.parametrize("how", ["cut", "hang"])
async def test_a_leader_that_lost_the_server_stops_before_another_may_start(
    two: tuple[Process, Process], clock: VirtualClock, how: str
) -> None:
    setattr(two[0].network, how, True)
    seen = []
    for _ in range(300):
        await clock.advance(0.1)
        now = leaders(*two)
        assert len(now) <= 1
        seen.append(now)
    assert seen[-1] == ["two"]
    gap = seen.index(["two"]) - seen.index([])
    assert gap >= 30, "at least 3 s without any leader: the margin against clocks of different speed"


async def test_a_deposed_leader_that_comes_back_follows(two: tuple[Process, Process], clock: VirtualClock) -> None:
    two[0].network.cut = True
    await clock.advance(30)
    two[0].network.cut = False
    await clock.advance(30)
    assert leaders(*two) == ["two"]
    assert two[0].elector.holder == "two"


async def test_a_follower_with_a_wrong_clock_does_not_steal_the_lease(
    server: FakeTransport, clock: VirtualClock
) -> None:
    """Another holder whose renewTime looks a year old, but which keeps renewing."""
    lease: KubeObject = {
        "metadata": {"name": "lowbeam-operator", "namespace": "lowbeam-system"},
        "spec": {"holderIdentity": "far", "leaseDurationSeconds": 15, "renewTime": "2025-01-01T00:00:00.000000Z"},
    }
    server.put(LEASES, lease)
    process = Process(server, clock, "near")
    for number in range(20):
        await clock.advance(5)
        server.put(LEASES, {**lease, "spec": {**lease["spec"], "renewTime": f"2025-01-01T00:00:{number:02}.000000Z"}})
        assert not process.elector.is_leader
    await clock.advance(20)
    assert process.elector.is_leader, "once it stops renewing, the lease is taken"
    await process.stop()


async def test_a_lost_answer_to_our_own_renewal_does_not_cost_the_leadership(
    two: tuple[Process, Process], clock: VirtualClock, server: FakeTransport
) -> None:
    answers = iter([True])
    server.after_write = lambda request: ServerUnavailable(request, "reset") if next(answers, False) else None
    for _ in range(20):
        await clock.advance(1)
        assert leaders(*two) == ["one"]


async def test_a_lease_deleted_by_hand_is_made_again(
    two: tuple[Process, Process], clock: VirtualClock, server: FakeTransport
) -> None:
    server.remove(LEASES, "lowbeam-system", "lowbeam-operator")
    await clock.advance(20)
    assert len(leaders(*two)) == 1


@pytest.mark.parametrize(("cut", "then"), [(False, "one"), (True, "two")], ids=["in-touch", "cut-off"])
async def test_a_lease_deleted_under_its_leader_makes_no_second_one_before_that_has_noticed(
    two: tuple[Process, Process], clock: VirtualClock, server: FakeTransport, *, cut: bool, then: str
) -> None:
    two[0].network.cut = cut
    server.remove(LEASES, "lowbeam-system", "lowbeam-operator")
    for _ in range(300):
        await clock.advance(0.1)
        assert len(leaders(*two)) <= 1
    assert leaders(*two) == [then]


async def test_a_server_that_does_not_answer_is_said_once(
    two: tuple[Process, Process], clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lowbeam.kube.lease.RENEW_DEADLINE_SECONDS", 0.05)
    two[0].network.hang = True
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            await clock.advance(2)
            await asyncio.sleep(0.1)  # that deadline is kept by the event loop
    said = [row["error"] for row in logs if row["event"] == "the lease cannot be renewed"]
    assert said == ["lease lowbeam-system/lowbeam-operator: no answer within the renewal deadline"]


async def test_missing_permission_is_said_and_healed(server: FakeTransport, clock: VirtualClock) -> None:
    server.fault = lambda request: Forbidden(request, "no", 403)
    process = Process(server, clock, "one")
    await clock.advance(5)
    assert not process.elector.is_leader
    assert 'add verb "get" on "leases"' in process.elector.message
    server.fault = lambda _: None
    await clock.advance(5)
    assert process.elector.is_leader
    assert process.elector.message == ""
    await process.stop()


async def test_a_namespace_that_is_missing_is_said(server: FakeTransport, clock: VirtualClock) -> None:
    server.fault = lambda request: NotFound(request, 'namespaces "lowbeam-system" not found', 404)
    process = Process(server, clock, "one")
    await clock.advance(5)
    assert 'namespaces "lowbeam-system" not found' in process.elector.message
    await process.stop()
