"""What a new leader tells: nothing before its workers had the chance to answer it."""

from __future__ import annotations

from unittest.mock import MagicMock

import pytest

from lowbeam.api.v1alpha1 import Engine
from lowbeam.power.trust import LATE_MS
from lowbeam.runtime.observer import Observer, _why_not_measured
from lowbeam.runtime.replicas import Replica
from lowbeam.telemetry import SampleError, SampleProblem, SampleSource, WorkerEndpoint
from tests.fakes.clock import VirtualClock

ENDPOINTS = [WorkerEndpoint(uid, "shop", uid, f"http://10.0.0.{n}:9465") for n, uid in enumerate(("a", "b"))]


@pytest.mark.parametrize(
    ("answered", "failed", "tells"),
    [
        (set(), set(), False),
        ({"a"}, set(), False),
        ({"a"}, {"b"}, True),
        ({"a", "b"}, set(), True),
    ],
)
def test_a_new_leader_tells_nothing_before_every_worker_was_asked(
    answered: set[str], failed: set[str], tells: bool
) -> None:
    poller = MagicMock()
    poller.samples.return_value = {uid: MagicMock() for uid in answered}
    poller.errors.return_value = dict.fromkeys(failed)
    assert Observer(MagicMock(), VirtualClock()).has_heard(ENDPOINTS, poller) is tells


@pytest.mark.parametrize(
    ("engine", "profile", "heard"), [("Native", None, False), ("Native", 1, True), ("VLLM", None, True)]
)
def test_a_worker_is_heard_when_it_has_spoken_itself(engine: str, profile: int | None, heard: bool) -> None:
    """The agent of its node tells its watts before, and not at which batch limit it draws them."""
    endpoint = WorkerEndpoint("uid", "team", "pod", "http://10.0.0.1:9465", engine=Engine(engine))
    poller = MagicMock(samples=MagicMock(return_value={"uid": MagicMock(profile=profile)}), errors=dict)
    observer = Observer(MagicMock(), VirtualClock())
    assert observer.has_heard([endpoint], poller) is heard
    poller.errors = lambda: {"uid": MagicMock()}
    assert observer.has_heard([endpoint], poller)


@pytest.mark.parametrize(
    ("ready", "answered", "engine", "problem", "says"),
    [
        (True, set(), Engine.NATIVE, SampleProblem.UNREACHABLE, True),
        (True, set(), Engine.NATIVE, SampleProblem.TIMEOUT, True),
        (True, set(), Engine.NATIVE, SampleProblem.UNAUTHORIZED, False),  # it was reached
        (False, set(), Engine.NATIVE, SampleProblem.UNREACHABLE, False),  # it still loads
        (True, {"a"}, Engine.NATIVE, SampleProblem.UNREACHABLE, False),  # its batch limit is known
        (True, set(), Engine.VLLM, SampleProblem.UNREACHABLE, False),  # it has none that changes while it runs
    ],
)
def test_a_ready_pod_whose_control_port_never_answers_is_said_to_keep_its_first_batch_limit(
    ready: bool, answered: set[str], engine: Engine, problem: SampleProblem, says: bool
) -> None:
    poller = MagicMock()
    poller.samples.return_value = dict.fromkeys(answered)
    silence = "worker shop/a at http://10.0.0.1:9465: timed out"
    poller.errors.return_value = {"a": SampleError("a", SampleSource.WORKER, 0, problem, silence)}
    replica = Replica(
        uid="a",
        name="a",
        key=("shop", "search"),
        placement_digest="",
        ip="10.0.0.1",
        node="n",
        accelerators=1,
        ready=ready,
        started=True,
        terminating=False,
        trouble="",
        engine=engine,
    )
    told = _why_not_measured([replica], MagicMock(verdicts={}), poller)
    assert told.startswith(silence)
    assert ("batch limit either, which begins at 1: let it reach port 9465" in told) is says


def test_without_workers_it_tells_at_once() -> None:
    assert Observer(MagicMock(), VirtualClock()).has_heard([], MagicMock())


async def test_a_worker_that_never_answers_does_not_keep_it_silent() -> None:
    clock, poller = VirtualClock(), MagicMock()
    poller.samples.return_value = poller.errors.return_value = {}
    observer = Observer(MagicMock(), clock)
    await clock.advance(LATE_MS / 1000 - 0.1)
    assert not observer.has_heard(ENDPOINTS, poller)
    await clock.advance(0.1)
    assert observer.has_heard(ENDPOINTS, poller)
