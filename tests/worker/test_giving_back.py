"""What Python's collector looks at while requests are served, and that a model which is gone does not stay for that."""

from __future__ import annotations

import gc
import weakref

import pytest

from lowbeam_worker.memory import give_back
from tests.worker.conftest import LocalWorker


class Ring:
    """Refers to itself, as an engine and its model do."""

    def __init__(self) -> None:
        self.itself = self


def test_what_stays_is_not_looked_at_again_and_goes_when_it_is_given_back() -> None:
    ring = Ring()
    gone = weakref.ref(ring)
    give_back()
    assert gc.get_freeze_count() > 1000
    del ring
    gc.collect()
    assert gone() is not None
    give_back()
    assert gone() is None


@pytest.mark.asyncio(loop_scope="session")
async def test_a_worker_that_is_ready_leaves_the_collector_little_to_look_at(llama: LocalWorker) -> None:
    assert llama.worker.takes_requests
    assert gc.get_freeze_count() > 100_000
