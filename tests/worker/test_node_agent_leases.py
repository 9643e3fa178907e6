"""Leases on power limits, with a clock of the test's own: renewed, lapsed, given back, orphaned, refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lowbeam.api.wire import LimitChange, LimitOrigin, LimitState, LimitWish
from lowbeam_agent.boardlimits import BoardError, LimitFacts
from lowbeam_agent.leases import ImpossibleLimitError, Leases, NotRecordedError, OldChangeError
from lowbeam_agent.record import FILE, Record, RecordFile

LEAST, MOST = 100_000, 400_000


class FakeBoards:
    """Boards of 100 to 400 W that keep their limit whatever happens to the agent."""

    def __init__(self, *uuids: str) -> None:
        self.limits = dict.fromkeys(uuids, MOST)
        self.refusing: set[str] = set()
        self.ignoring: set[str] = set()
        self.lost: set[str] = set()

    def limit(self, uuid: str) -> int:
        if uuid in self.lost:
            raise BoardError("nvmlDeviceGetHandleByUUID: GPU is lost")
        return self.limits[uuid]

    def enforced(self, uuid: str) -> int:
        return self.limit(uuid)

    def span(self, uuid: str) -> tuple[int, int]:
        self.limit(uuid)
        return LEAST, MOST

    def set(self, uuid: str, milliwatts: int) -> None:
        self.limit(uuid)
        if uuid in self.refusing:
            raise BoardError("nvmlDeviceSetPowerManagementLimit: Insufficient Permissions")
        if uuid not in self.ignoring:
            self.limits[uuid] = milliwatts


class MemoryStore:
    """A disk that can be full, and that survives the agent."""

    def __init__(self) -> None:
        self.record = Record()
        self.full = False

    def load(self) -> Record:
        return self.record

    def save(self, record: Record) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        self.record = Record.model_validate_json(record.model_dump_json())


class Node:
    """A node whose agent can die and come back."""

    def __init__(self, *uuids: str) -> None:
        self.boards, self.store, self.now_s = FakeBoards(*uuids), MemoryStore(), 1000.0
        self.agent = self.start()

    def start(self) -> Leases:
        self.agent = Leases(self.boards, tuple(self.boards.limits), self.store, lambda: self.now_s)
        return self.agent

    def passes(self, seconds: float) -> None:
        self.now_s += seconds
        self.agent.tick()

    def ask(
        self, generation: int, watts: float | None, safe: float | None = None, uuid: str = "GPU-a", lease: float = 30
    ) -> LimitState:
        (state,) = self.agent.change(change(generation, (uuid, watts, safe), lease=lease)).limits
        return state


def change(generation: int, *limits: tuple[str, float | None, float | None], lease: float = 30) -> LimitChange:
    wishes = tuple(LimitWish(uuid=uuid, watts=watts, safe_watts=safe) for uuid, watts, safe in limits)
    return LimitChange(generation=generation, lease_seconds=lease, limits=wishes)


@pytest.fixture
def node() -> Node:
    return Node("GPU-a", "GPU-b")


def test_a_limit_is_set_and_what_is_reported_was_read_back(node: Node) -> None:
    state = node.ask(1, 250)
    assert node.boards.limits == {"GPU-a": 250_000, "GPU-b": MOST}
    assert (state.watts, state.enforced_watts, state.found_watts, state.problem) == (250, 250, 400, None)
    assert state.lease_ends_in_seconds == 30


def test_the_same_change_renews_the_lease_and_without_it_the_board_gets_back_what_it_had(node: Node) -> None:
    node.ask(1, 250)
    for _ in range(5):
        node.passes(20)
        node.ask(1, 250)
    assert node.boards.limits["GPU-a"] == 250_000
    node.passes(29)
    assert node.boards.limits["GPU-a"] == 250_000
    node.passes(1)
    assert node.boards.limits["GPU-a"] == MOST
    assert node.store.record.holds == {}


@pytest.mark.parametrize("restarts", [False, True])
def test_a_renewal_holds_for_the_boards_that_answer_and_says_which_one_does_not(node: Node, restarts: bool) -> None:
    both = change(1, ("GPU-a", 250, None), ("GPU-b", 250, None))
    node.agent.change(both)
    node.boards.lost.add("GPU-b")
    if restarts:
        node.agent = Leases(node.boards, ("GPU-a",), node.store, lambda: node.now_s)
    for _ in range(8):
        node.passes(10)
        renewed, lost = node.agent.change(both).limits
        assert (renewed.enforced_watts, renewed.lease_ends_in_seconds, renewed.problem) == (250, 30, None)
        assert ("GPU is lost" in (lost.problem or ""), lost.enforced_watts) == (True, None)
    with pytest.raises(ImpossibleLimitError, match=r"limits\.1: GPU-b does not tell"):
        node.start().change(change(2, ("GPU-a", 200, None), ("GPU-b", 200, None)))
    node.boards.lost.clear()
    assert [state.problem for state in node.agent.change(both).limits] == [None, None]
    node.agent.give_all_back()
    assert node.boards.limits == {"GPU-a": MOST, "GPU-b": MOST}


def test_a_board_that_was_never_held_and_is_lost_does_not_stop_the_renewal_of_the_others(node: Node) -> None:
    both = change(1, ("GPU-a", 250, None), ("GPU-b", 250, None))
    node.boards.refusing.add("GPU-b")
    assert "Insufficient Permissions" in (node.agent.change(both).limits[1].problem or "")
    node.boards.lost.add("GPU-b")
    for _ in range(4):
        node.passes(10)
        renewed, lost = node.agent.change(both).limits
        assert (renewed.enforced_watts, "GPU is lost" in (lost.problem or ""), lost.watts) == (250, True, None)
    node.boards.lost = node.boards.refusing = set()
    assert [state.problem for state in node.agent.change(both).limits] == [None, None]


def test_a_lease_with_a_safe_limit_falls_to_it_stays_there_and_is_still_given_back_at_the_end(node: Node) -> None:
    node.ask(1, 350, safe=200)
    node.passes(30)
    assert node.boards.limits["GPU-a"] == 200_000
    node.passes(1000)
    assert node.boards.limits["GPU-a"] == 200_000
    node.agent.give_all_back()
    assert node.boards.limits["GPU-a"] == MOST


def test_a_renewal_after_the_lease_ended_sets_the_limit_again(node: Node) -> None:
    node.ask(1, 350, safe=200)
    node.passes(31)
    assert node.ask(1, 350, safe=200).enforced_watts == 350
    node.passes(30)
    assert node.boards.limits["GPU-a"] == 200_000


def test_a_board_that_a_newer_change_leaves_out_keeps_its_own_lease(node: Node) -> None:
    node.ask(1, 250)
    node.passes(20)
    node.ask(2, 300, uuid="GPU-b")
    node.passes(10)
    assert node.boards.limits == {"GPU-a": MOST, "GPU-b": 300_000}


def test_giving_up_a_limit_returns_the_one_found_before_the_first_change(node: Node) -> None:
    node.boards.limits["GPU-a"] = 380_000
    node.ask(1, 250)
    node.ask(2, 150)
    state = node.ask(3, None)
    assert node.boards.limits["GPU-a"] == 380_000
    assert (state.watts, state.enforced_watts, state.lease_ends_in_seconds) == (None, 380, None)


def test_two_writers_the_older_generation_and_a_different_body_of_the_same_are_refused(node: Node) -> None:
    node.ask(5, 250)
    for generation, watts in ((4, 300), (5, 300)):
        with pytest.raises(OldChangeError, match="not newer than 5"):
            node.ask(generation, watts)
    assert node.boards.limits["GPU-a"] == 250_000
    node.start()
    with pytest.raises(OldChangeError):
        node.ask(4, 300)


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ([("GPU-a", 99.9, None)], r"limits.0.watts: GPU-a takes 100 W to 400 W, not 99.9 W"),
        ([("GPU-b", 200, None), ("GPU-a", 401, None)], r"limits.1.watts: GPU-a takes 100 W to 400 W, not 401 W"),
        ([("GPU-b", 200, None), ("GPU-a", 200, 50)], r"limits.1.safeWatts: GPU-a takes 100 W to 400 W, not 50 W"),
        ([("GPU-b", 200, None), ("GPU-x", 200, None)], r"no board GPU-x; it has GPU-a, GPU-b"),
        ([("GPU-b", 200, None), ("GPU-b", 300, None)], r"GPU-b is named twice"),
        ([("GPU-b", None, 200)], r"limits.0.safeWatts: GPU-b is given back"),
    ],
)
def test_what_a_board_cannot_have_is_refused_with_the_range_and_nothing_changes(
    node: Node, limits: list[tuple[str, float | None, float | None]], says: str
) -> None:
    with pytest.raises(ImpossibleLimitError, match=says):
        node.agent.change(change(1, *limits))
    assert node.boards.limits == {"GPU-a": MOST, "GPU-b": MOST}
    assert node.agent.generation == 0


def test_a_limit_that_the_driver_takes_and_does_not_apply_is_reported(node: Node) -> None:
    node.boards.ignoring.add("GPU-a")
    state = node.ask(1, 250)
    assert state.enforced_watts == 400
    assert state.problem == "the driver took 250 W and the board enforces 400 W"
    node.boards.ignoring.clear()
    assert node.ask(1, 250).problem is None, "repeating the change tries again"
    assert node.boards.limits["GPU-a"] == 250_000


def test_without_permission_the_board_is_not_held_and_an_older_lease_goes_on(node: Node) -> None:
    node.boards.refusing.add("GPU-b")
    report = node.agent.change(change(1, ("GPU-a", 250, None), ("GPU-b", 250, None)))
    assert [state.problem is None for state in report.limits] == [True, False]
    assert "Insufficient Permissions" in (report.limits[1].problem or "")
    assert report.limits[1].watts is None
    assert set(node.store.record.holds) == {"GPU-a"}
    node.boards.refusing.add("GPU-a")
    assert node.ask(2, 150).watts == 250
    node.boards.refusing.clear()
    node.passes(30)
    assert node.boards.limits["GPU-a"] == MOST


def test_a_change_that_cannot_be_written_down_is_not_made(node: Node) -> None:
    node.store.full = True
    with pytest.raises(NotRecordedError, match="No space left"):
        node.ask(1, 250)
    assert node.boards.limits["GPU-a"] == MOST
    node.store.full = False
    assert node.ask(1, 250).problem is None


def test_an_orphan_gets_one_lease_for_its_owner_to_come_back(node: Node) -> None:
    node.ask(3, 250, lease=10)
    node.now_s += 500
    node.start()
    node.passes(9)
    assert node.boards.limits["GPU-a"] == 250_000
    assert node.ask(3, 250, lease=10).problem is None
    node.start()
    node.passes(10)
    assert node.boards.limits["GPU-a"] == MOST


def test_an_orphan_falls_to_the_safe_limit_that_was_agreed(node: Node) -> None:
    node.ask(1, 350, safe=200)
    node.start()
    node.passes(30)
    assert node.boards.limits["GPU-a"] == 200_000
    node.start()
    node.passes(300)
    assert node.boards.limits["GPU-a"] == 200_000, "a safe limit has no lease"
    node.agent.give_all_back()
    assert node.boards.limits["GPU-a"] == MOST


def test_an_agent_that_dies_between_record_and_board_leaves_nothing_behind(node: Node) -> None:
    node.ask(1, 250)
    node.boards.ignoring.add("GPU-a")
    node.ask(2, 150)
    node.boards.ignoring.clear()
    assert node.boards.limits["GPU-a"] == 250_000
    node.start()
    node.passes(30)
    assert node.boards.limits["GPU-a"] == MOST


def test_an_agent_that_dies_while_a_lease_falls_ends_it_the_next_time(node: Node) -> None:
    node.ask(1, 350, safe=200)
    node.boards.refusing.add("GPU-a")
    node.passes(30)
    node.boards.refusing.clear()
    node.start()
    assert node.boards.limits["GPU-a"] == 350_000
    node.passes(30)
    assert node.boards.limits["GPU-a"] == 200_000


def test_what_somebody_else_set_is_left_alone(node: Node) -> None:
    node.ask(1, 250)
    node.boards.limits["GPU-a"] = 180_000
    node.agent.give_all_back()
    assert node.boards.limits["GPU-a"] == 180_000
    node.ask(2, 250)
    node.boards.limits["GPU-a"] = 170_000
    node.start()
    node.passes(100)
    assert node.boards.limits["GPU-a"] == 170_000


def test_a_board_that_refuses_at_the_end_is_asked_again(node: Node) -> None:
    node.ask(1, 250)
    node.boards.refusing.add("GPU-a")
    node.passes(30)
    assert "cannot be given back" in (node.agent.report().limits[0].problem or "")
    node.boards.refusing.clear()
    node.passes(1)
    assert node.boards.limits["GPU-a"] == MOST
    assert node.agent.report().limits[0].problem is None


def test_it_is_told_whose_limit_a_board_has(node: Node) -> None:
    def origin(milliwatts: int | None) -> LimitOrigin | None:
        return node.agent.origin("GPU-a", LimitFacts(set_milliwatts=milliwatts, default_milliwatts=MOST))

    assert origin(MOST) is LimitOrigin.DEFAULT
    assert origin(300_000) is LimitOrigin.OTHER
    assert origin(None) is None
    node.ask(1, 250)
    assert origin(250_000) is LimitOrigin.AGENT
    assert origin(300_000) is LimitOrigin.OTHER


def test_the_record_survives_on_a_real_disk_and_a_broken_one_is_set_aside(tmp_path: Path) -> None:
    boards, folder = FakeBoards("GPU-a"), tmp_path / "state"
    Leases(boards, ("GPU-a",), RecordFile(folder)).change(change(7, ("GPU-a", 250, None)))
    again = Leases(boards, ("GPU-a",), RecordFile(folder))
    assert (again.generation, again.report().limits[0].watts) == (7, 250)
    (folder / FILE).write_text('{"holds": {"GPU-a": {')
    blind = Leases(boards, ("GPU-a",), RecordFile(folder))
    assert (blind.generation, blind.report().limits[0].watts) == (0, None)
    assert boards.limits["GPU-a"] == 250_000, "a limit that no record explains is not touched"
    assert (folder / FILE).with_suffix(".unreadable").exists()


class AnyLife(RuleBasedStateMachine):
    """Changes, deaths, refusals and time in any order, on boards that nobody else touches."""

    def __init__(self) -> None:
        super().__init__()
        self.node, self.generation = Node("GPU-a", "GPU-b"), 0
        self.allowed = {uuid: {MOST} for uuid in self.node.boards.limits}

    @rule(
        uuid=st.sampled_from(["GPU-a", "GPU-b"]),
        watts=st.none() | st.sampled_from([100, 250, 399]),
        safe=st.none() | st.sampled_from([150, 350]),
        lease=st.sampled_from([1, 30]),
    )
    def ask(self, uuid: str, watts: float | None, safe: float | None, lease: float) -> None:
        self.generation += 1
        safe = None if watts is None else safe
        self.allowed[uuid] |= {round(it * 1000) for it in (watts, safe) if it is not None}
        self.node.ask(self.generation, watts, safe, uuid, lease)

    @rule(seconds=st.sampled_from([1, 29, 31]))
    def passes(self, seconds: float) -> None:
        self.node.passes(seconds)

    @rule()
    def dies(self) -> None:
        self.node.start()

    @rule()
    def ends(self) -> None:
        self.node.agent.give_all_back()
        self.node.start()

    @rule(uuid=st.sampled_from(["GPU-a", "GPU-b"]), refuses=st.booleans())
    def refuses(self, uuid: str, refuses: bool) -> None:
        (self.node.boards.refusing.add if refuses else self.node.boards.refusing.discard)(uuid)

    @invariant()
    def a_board_has_only_limits_that_were_asked_for(self) -> None:
        for uuid, limit in self.node.boards.limits.items():
            assert limit in self.allowed[uuid]

    @invariant()
    def a_board_that_is_not_held_has_what_it_had(self) -> None:
        for state in self.node.agent.report().limits:
            if state.watts is None:
                assert self.node.boards.limits[state.uuid] == MOST

    @precondition(lambda self: not self.node.boards.refusing)
    @rule()
    def all_is_given_back(self) -> None:
        self.node.agent.give_all_back()
        assert set(self.node.boards.limits.values()) == {MOST}
        assert self.node.store.record.holds == {}


TestAnyLife = AnyLife.TestCase
TestAnyLife.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)
