"""Limits that somebody else set on a board while the agent held it."""

from __future__ import annotations

import pytest

from tests.worker.test_node_agent_leases import Node


@pytest.mark.parametrize(("theirs", "stays", "given_back"), [(150, 150, 150), (350, 200, 400)])
def test_a_lease_that_ends_lowers_a_limit_of_somebody_else_to_the_safe_one_and_never_raises_it(
    theirs: int, stays: int, given_back: int, caplog: pytest.LogCaptureFixture
) -> None:
    node = Node("GPU-a")
    node.ask(1, 250, 200)
    node.boards.limits["GPU-a"] = theirs * 1000
    node.passes(30)
    assert node.boards.limits["GPU-a"] == stays * 1000
    assert ("somebody else set 150000 mW" in caplog.text) is (theirs == 150)
    node.agent.give_all_back()
    assert node.boards.limits["GPU-a"] == given_back * 1000
    assert node.store.record.holds == {}


def test_a_board_that_is_lost_when_its_lease_ends_falls_to_the_safe_limit_when_it_is_back() -> None:
    node = Node("GPU-a")
    node.ask(1, 250, 200)
    node.boards.lost.add("GPU-a")
    node.passes(30)
    node.passes(30)
    assert node.boards.limits["GPU-a"] == 250_000
    node.boards.lost.clear()
    node.passes(1)
    assert node.boards.limits["GPU-a"] == 200_000
