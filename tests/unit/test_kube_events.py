"""Events are said once, by a queue that never stands in the way."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator

import pytest

from lowbeam.kube import (
    EVENTS,
    INFERENCE_WORKLOADS,
    POWER_CAPS,
    EventRecorder,
    Forbidden,
    KubeObject,
    ServerUnavailable,
)
from tests.fakes.clock import VirtualClock, settle
from tests.fakes.transport import FakeTransport

WORKLOAD: KubeObject = {"metadata": {"name": "triage", "namespace": "team-a", "uid": "u1"}}


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def server() -> FakeTransport:
    return FakeTransport()


@pytest.fixture
async def recorder(server: FakeTransport, clock: VirtualClock) -> AsyncIterator[EventRecorder]:
    recorder = EventRecorder(
        server, instance="pod-1", monotonic_ms=clock.monotonic_ms, now=clock.now, sleep=clock.sleep
    )
    task = asyncio.create_task(recorder.run())
    yield recorder
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def say(recorder: EventRecorder, note: str = "dimmed to 40 W", obj: KubeObject = WORKLOAD) -> bool:
    return recorder.record(INFERENCE_WORKLOADS, obj, "Normal", reason="Dimmed", action="Shed", note=note)


async def test_an_event_tells_who_what_and_why(recorder: EventRecorder, server: FakeTransport) -> None:
    say(recorder)
    await settle()
    [event] = server.stored(EVENTS)
    assert event["regarding"] == {
        "apiVersion": "lowbeam.dev/v1alpha1",
        "kind": "InferenceWorkload",
        "namespace": "team-a",
        "name": "triage",
        "uid": "u1",
    }
    assert (event["type"], event["reason"], event["action"], event["note"]) == (
        "Normal",
        "Dimmed",
        "Shed",
        "dimmed to 40 W",
    )
    assert event["metadata"]["namespace"] == "team-a"
    assert event["eventTime"] == "2026-11-21T09:00:00.000000Z"


@pytest.mark.parametrize("cut_at", [".", "-"])
async def test_an_event_about_a_long_name_has_a_name_that_the_api_allows(
    recorder: EventRecorder, server: FakeTransport, cut_at: str
) -> None:
    say(recorder, obj={"metadata": {**WORKLOAD["metadata"], "name": f"{'a' * 199}{cut_at}{'b' * 53}"}})
    await settle()
    name = server.stored(EVENTS)[0]["metadata"]["name"]
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", name)


async def test_events_of_cluster_wide_objects_are_where_kubectl_describe_looks(
    recorder: EventRecorder, server: FakeTransport
) -> None:
    recorder.record(
        POWER_CAPS, {"metadata": {"name": "cluster", "uid": "c"}}, "Warning", reason="X", action="Y", note="z"
    )
    await settle()
    assert server.stored(EVENTS)[0]["metadata"]["namespace"] == "default"


async def test_the_same_sentence_is_not_repeated_while_it_keeps_being_said(
    recorder: EventRecorder, server: FakeTransport, clock: VirtualClock
) -> None:
    assert say(recorder)
    for _ in range(120):
        await clock.advance(15)
        assert not say(recorder)
    assert len(server.stored(EVENTS)) == 1
    await clock.advance(600)
    assert say(recorder), "after ten minutes of silence it is news again"


async def test_another_note_or_another_object_of_the_same_name_is_news(
    recorder: EventRecorder, server: FakeTransport
) -> None:
    successor = {"metadata": {**WORKLOAD["metadata"], "uid": "u2"}}
    assert say(recorder)
    assert say(recorder, "dimmed to 30 W")
    assert say(recorder, obj=successor)
    await settle()
    assert len(server.stored(EVENTS)) == 3


async def test_a_refused_event_is_dropped_counted_and_said_again_later(
    recorder: EventRecorder, server: FakeTransport
) -> None:
    server.fault = lambda request: Forbidden(request, "no", 403)
    say(recorder)
    await settle()
    assert (recorder.dropped, server.stored(EVENTS)) == (1, [])
    server.fault = lambda _: None
    assert say(recorder)
    await settle()
    assert len(server.stored(EVENTS)) == 1


async def test_an_event_whose_answer_was_lost_is_not_posted_twice(
    recorder: EventRecorder, server: FakeTransport, clock: VirtualClock
) -> None:
    lost = iter([True])
    server.after_write = lambda request: ServerUnavailable(request, "reset") if next(lost, False) else None
    say(recorder)
    await clock.advance(5)
    assert len(server.stored(EVENTS)) == 1
    assert recorder.dropped == 0


async def test_a_storm_is_slowed_down_and_never_blocks_who_speaks(
    recorder: EventRecorder, server: FakeTransport, clock: VirtualClock
) -> None:
    queued = sum(say(recorder, f"note {number}") for number in range(1500))
    assert queued == 1000
    assert recorder.dropped == 500
    await clock.advance(1)
    assert len(server.stored(EVENTS)) <= 112
    await clock.advance(10)
    assert 190 <= len(server.stored(EVENTS)) <= 215


async def test_a_note_is_cut_at_what_the_api_allows_without_breaking_a_character(
    recorder: EventRecorder, server: FakeTransport
) -> None:
    say(recorder, "é" * 1000)
    await settle()
    note = server.stored(EVENTS)[0]["note"]
    assert note == "é" * 512
