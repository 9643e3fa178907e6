"""What a new leader tells: nothing before its workers had the chance to answer it."""

from __future__ import annotations

from unittest.mock import MagicMock

import pytest

from lowbeam.power.trust import LATE_MS
from lowbeam.runtime.observer import Observer
from lowbeam.telemetry import WorkerEndpoint
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
    poller.samples.return_value = dict.fromkeys(answered)
    poller.errors.return_value = dict.fromkeys(failed)
    assert Observer(MagicMock(), VirtualClock()).can_tell(ENDPOINTS, poller) is tells


def test_without_workers_it_tells_at_once() -> None:
    assert Observer(MagicMock(), VirtualClock()).can_tell([], MagicMock())


async def test_a_worker_that_never_answers_does_not_keep_it_silent() -> None:
    clock, poller = VirtualClock(), MagicMock()
    poller.samples.return_value = poller.errors.return_value = {}
    observer = Observer(MagicMock(), clock)
    await clock.advance(LATE_MS / 1000 - 0.1)
    assert not observer.can_tell(ENDPOINTS, poller)
    await clock.advance(0.1)
    assert observer.can_tell(ENDPOINTS, poller)
