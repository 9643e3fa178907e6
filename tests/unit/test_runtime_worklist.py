from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from lowbeam.runtime.clock import SystemClock
from lowbeam.runtime.worklist import GATHER_SECONDS, LONGEST_REST_SECONDS, LONGEST_RETRY_SECONDS, Worklist
from tests.fakes.clock import settle

A, B = ("team", "a"), ("team", "b")


class SteppedClock(SystemClock):
    """Sleeps pass at once; monotonic time is what the test says."""

    def __init__(self) -> None:
        self.ms = 0
        self.slept: list[float] = []

    def monotonic_ms(self) -> int:
        return self.ms

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)


class Handler:
    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.refuses: set[tuple[str, str]] = set()
        self.hangs: dict[tuple[str, str], asyncio.Event] = {}

    async def __call__(self, key: tuple[str, str]) -> bool:
        self.calls.append(key)
        if key in self.hangs:
            await self.hangs[key].wait()
        if key in self.refuses:
            raise RuntimeError("refused")
        return True


@asynccontextmanager
async def running(look_seconds: float = 0.0) -> AsyncIterator[tuple[Worklist, Handler, SteppedClock]]:
    clock, handler = SteppedClock(), Handler()
    worklist = Worklist(handler, clock, lambda: look_seconds)
    task = asyncio.create_task(worklist.run())
    yield worklist, handler, clock
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_workload_that_hangs_delays_no_other() -> None:
    async with running() as (worklist, handler, _):
        handler.hangs[A] = asyncio.Event()
        worklist.add(A)
        await settle()
        worklist.add(A, B)
        await settle()
        assert handler.calls == [A, B], "b goes on, a is not handled twice at once"
        handler.hangs.pop(A).set()
        await settle()
        assert handler.calls == [A, B, A], "what came meanwhile is handled afterwards"


async def test_a_refused_workload_is_tried_again_ever_more_slowly_and_at_once_when_it_changes() -> None:
    async with running() as (worklist, handler, clock):
        handler.refuses.add(A)
        worklist.add(A)
        await settle()
        tries = [len(handler.calls)]
        for _ in range(4 * LONGEST_RETRY_SECONDS):
            clock.ms += 1000
            worklist.add(B)  # wakes the loop, which looks at the clock
            await settle()
            tries.append(handler.calls.count(A))
        assert tries[1] == 2, "after one second"
        assert 6 <= tries[-1] <= 9, "then after 2, 4, 8 and 16 seconds"
        handler.refuses.clear()
        worklist.add(A)
        await settle()
        done = handler.calls.count(A)
        clock.ms += 60_000
        worklist.add(B)
        await settle()
        assert handler.calls.count(A) == done


@pytest.mark.parametrize(
    ("look_seconds", "rests"),
    [(0.0, GATHER_SECONDS), (0.002, GATHER_SECONDS), (0.03, 0.3), (2.0, LONGEST_REST_SECONDS)],
)
async def test_looks_at_a_big_fleet_leave_most_of_the_time_to_others_and_hold_up_no_write_for_long(
    look_seconds: float, rests: float
) -> None:
    async with running(look_seconds) as (worklist, _, clock):
        worklist.add(A)
        await settle()
    assert set(clock.slept) == {rests}


async def test_a_pass_that_hangs_on_what_no_longer_counts_gives_way_at_once() -> None:
    async with running() as (worklist, handler, _):
        handler.hangs[A] = asyncio.Event()
        worklist.add(A, B)
        await settle()
        handler.hangs.clear()
        worklist.supersede(A, B)
        await settle()
        assert sorted(handler.calls) == [A, A, B, B], "nobody had to answer first"
        worklist.supersede(A)
        worklist.supersede(A)  # before its pass has begun
        await settle()
        assert handler.calls[4:] == [A]
