"""Limits that somebody else set on a board, and those of an agent that died, which must not be taken for such."""

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


def test_a_renewal_that_replaces_a_limit_of_somebody_else_says_so(caplog: pytest.LogCaptureFixture) -> None:
    node = Node("GPU-a")
    node.ask(1, 250)
    node.ask(1, 250)
    node.ask(2, 200)
    assert "somebody else" not in caplog.text
    node.boards.limits["GPU-a"] = 150_000
    assert node.ask(2, 200).enforced_watts == 200
    assert "set 150000 mW meanwhile: it gets 200000 mW again" in caplog.text


def test_a_safe_limit_that_a_full_disk_did_not_take_is_still_known_for_the_agents_own() -> None:
    node = Node("GPU-a")
    node.ask(1, 250, 200)
    node.store.full = True
    node.passes(30)
    assert node.boards.limits["GPU-a"] == 200_000
    node.store.full = False
    node.start()
    node.passes(30)
    node.agent.give_all_back()
    assert node.boards.limits["GPU-a"] == 400_000


def test_an_agent_that_dies_twice_between_record_and_board_knows_its_limit_the_third_time() -> None:
    node = Node("GPU-a")
    node.ask(1, 250)
    for _ in range(2):
        node.boards.set = dies
        with pytest.raises(KeyboardInterrupt):
            node.ask(2, 200)
        del node.boards.set
        node.start()
    assert node.boards.limits["GPU-a"] == 250_000
    node.passes(30)
    assert node.boards.limits["GPU-a"] == 400_000


@pytest.mark.parametrize("safe", [None, 120])
def test_a_limit_that_stays_because_the_driver_takes_no_other_is_given_back_at_the_end(safe: float | None) -> None:
    node = Node("GPU-a")
    node.ask(1, 250, safe)
    node.boards.ignoring.add("GPU-a")
    for generation, watts in ((2, 200), (2, 200), (3, 150)):
        assert "the board enforces 250 W" in (node.ask(generation, watts, safe).problem or "")
    if safe:
        node.passes(30)
    node.boards.ignoring.clear()
    node.passes(30)
    node.agent.give_all_back()
    assert node.boards.limits["GPU-a"] == 400_000


def dies(*_: object) -> None:
    raise KeyboardInterrupt
