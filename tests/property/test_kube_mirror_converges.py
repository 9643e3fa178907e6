"""Whatever the server, its history and the network do: after quiet, mirror and server are equal, and the changes that
were reported, replayed, give the same objects."""

from __future__ import annotations

import asyncio
import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from lowbeam.kube import PODS, Change, Gone, Informer, KubeObject, Request, Resource, ServerUnavailable
from tests.fakes.clock import VirtualClock, settle
from tests.fakes.transport import FakeTransport

NAMES = st.sampled_from("abcdef")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), NAMES),
        st.tuples(st.just("remove"), NAMES),
        st.tuples(st.just("remake"), NAMES),
        st.tuples(
            st.sampled_from(["cut", "end", "compact", "settle", "fail", "gone", "nonsense", "heal"]), st.just("")
        ),
        st.tuples(st.just("pass"), st.sampled_from(["1", "8"])),
    ),
    max_size=25,
)


@settings(max_examples=100, deadline=None)
@given(steps=STEPS, streaming=st.booleans())
def test_the_mirror_converges_to_the_server_and_reports_every_difference(
    steps: list[tuple[str, str]], streaming: bool
) -> None:
    with capture_logs():
        asyncio.run(_scenario(steps, streaming))


async def _scenario(steps: list[tuple[str, str]], streaming: bool) -> None:
    server, clock = FakeTransport(streaming_lists=streaming), VirtualClock()
    replayed: dict[str, KubeObject] = {}

    def replay(_: Resource, change: Change, old: KubeObject | None, new: KubeObject | None) -> None:
        if change is Change.ADDED:
            assert new is not None
            assert new["metadata"]["uid"] not in replayed
        else:
            assert old is not None
            assert replayed[old["metadata"]["uid"]] == old
        if change is Change.DELETED:
            assert old is not None
            del replayed[old["metadata"]["uid"]]
        else:
            assert new is not None
            replayed[new["metadata"]["uid"]] = new

    informer = Informer(server, PODS, monotonic_ms=clock.monotonic_ms, sleep=clock.sleep, jitter=lambda: 0.5)
    informer.on_change(replay)
    task = asyncio.create_task(informer.run())
    for number, (step, argument) in enumerate(steps):
        _act(server, step, argument, number)
        if step == "settle":
            await settle()
        elif step == "pass":
            await clock.advance(float(argument))
    server.fault = lambda _: None
    await clock.advance(30)
    want = {obj["metadata"]["uid"]: obj for obj in server.stored(PODS)}
    assert {obj["metadata"]["uid"]: obj for obj in informer.objects()} == want
    assert replayed == want
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def _act(server: FakeTransport, step: str, name: str, number: int) -> None:
    exists = (PODS, "ns", name) in server._store
    if step in ("remove", "remake") and exists:
        server.remove(PODS, "ns", name)
    if step in ("put", "remake"):
        server.put(PODS, {"metadata": {"name": name, "namespace": "ns"}, "spec": {"number": number}})
    elif step == "cut":
        server.cut_watches()
    elif step == "end":
        server.end_watches()
    elif step == "compact":
        server.compact()
    elif step in ("fail", "gone", "nonsense"):
        server.fault = lambda request: _error(step, request)
    elif step == "heal":
        server.fault = lambda _: None


def _error(step: str, request: Request) -> Exception:
    if step == "gone":
        return Gone(request, "too old", 410)
    return ServerUnavailable(request, "down") if step == "fail" else ValueError("nonsense")
