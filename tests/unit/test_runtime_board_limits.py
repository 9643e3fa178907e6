"""Which board is to have which power limit, and how that is carried to the agents."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from lowbeam.api.wire import (
    BoardReading,
    DeviceHolder,
    LimitChange,
    LimitOrigin,
    LimitReport,
    LimitState,
    LimitWish,
    NodeTelemetry,
)
from lowbeam.planning.committed import Target
from lowbeam.power.trust import STALE_MS
from lowbeam.render import Placement
from lowbeam.runtime.board_limits import (
    ALL_BOARDS,
    GIVEN_UP_MS,
    GONE_MS,
    RENEW_MS,
    BoardLimits,
    Held,
    Wishes,
    limit_is_pending,
    sets_limits,
    wishes_of,
)
from lowbeam.runtime.fleet import Fleet
from lowbeam.runtime.world import Objects, Parser, World, build_world
from lowbeam.telemetry import (
    AgentEndpoint,
    AgentPoller,
    LimitRefusal,
    NodeReading,
    Sample,
    SampleError,
    SampleProblem,
    SampleSource,
)
from tests.fakes.clock import VirtualClock, settle
from tests.fakes.power_fleet import option
from tests.raw_objects import TODAY, iw, node, replica

KEY = ("team", "w")
LIMITED = replace(option(), board_limit_watts=490)
DIGEST = Placement.of(LIMITED).digest("w")
POD = replica(placement_digest=DIGEST)
AGENT = AgentEndpoint("a", "lowbeam-system", "agent-x", "n1", "http://10.0.0.9:9466")


def board(number: int = 0, *pods: str, limit: float = 700, origin: LimitOrigin = LimitOrigin.DEFAULT) -> BoardReading:
    holders = tuple(DeviceHolder(namespace="team", pod=pod, container="worker") for pod in pods)
    return BoardReading(
        uuid=f"GPU-{number}",
        watts=300,
        holders=holders,
        power_limit_watts=limit,
        min_limit_watts=200,
        max_limit_watts=700,
        limit_origin=origin,
    )


def ours(limit: float, number: int = 0, *pods: str) -> BoardReading:
    return board(number, *pods, limit=limit, origin=LimitOrigin.AGENT)


def reading(*boards: BoardReading, at_ms: int = 0, allowed: bool = True) -> NodeReading:
    telemetry = NodeTelemetry(node="n1", sampled_at_seconds=1, devices=boards, limits_allowed=allowed)
    return NodeReading(telemetry, at_ms, at_ms)


def wishes(*boards: BoardReading, pod: Any = POD, target: Any = LIMITED, rising: bool = True) -> Wishes:
    held = Held(KEY, pod, Target(target))
    return wishes_of(reading(*boards), {("team", "w-1"): held}, lambda _: rising)[0]


def wish(watts: float | None, number: int = 0) -> LimitWish:
    return LimitWish(uuid=f"GPU-{number}", watts=watts, safe_watts=watts)


def test_the_boards_of_a_pod_get_the_limit_of_its_option_and_others_none() -> None:
    assert wishes(board(0, "w-1"), board(1, "w-1"), board(2, "other"), board(3)) == (wish(490), wish(490, 1))
    assert wishes(ours(490, 0, "w-1")) == (wish(490),), "and keep it"


def test_a_limit_is_within_what_the_board_takes() -> None:
    assert wishes(board(0, "w-1"), target=replace(LIMITED, board_limit_watts=150)) == (wish(200),)
    assert wishes(board(0, "w-1"), target=replace(LIMITED, board_limit_watts=900)) == (wish(700),)


def test_a_board_that_is_shared_or_whose_holders_are_unknown_is_left_alone() -> None:
    assert wishes(board(0, "w-1", "other")) == ()
    unknown = ours(490).model_copy(update={"holders": None})
    assert wishes(unknown) == ()


def test_a_board_is_given_back_when_nobody_of_ours_holds_it_alone() -> None:
    gone = (wish(None, 0), wish(None, 1), wish(None, 2))
    assert wishes(ours(490, 0), ours(490, 1, "other"), ours(490, 2, "w-1", "other")) == gone
    assert wishes(board(0, limit=490, origin=LimitOrigin.OTHER)) == (), "who set it takes it back"


def test_a_limit_falls_at_once_and_rises_only_when_it_may() -> None:
    higher, none = replace(LIMITED, board_limit_watts=600), replace(LIMITED, board_limit_watts=0)
    for target, wanted in ((higher, wish(600)), (none, wish(None))):
        assert wishes(ours(490, 0, "w-1"), target=target) == (wanted,)
        assert wishes(ours(490, 0, "w-1"), target=target, rising=False) == (wish(490),)
    assert wishes(ours(600, 0, "w-1"), rising=False) == (wish(490),)
    assert wishes(board(0, "w-1"), rising=False) == (wish(490),), "the first limit is no rise"


@pytest.mark.parametrize("pod", [replace(POD, terminating=True), replace(POD, placement_digest="before")])
def test_a_pod_that_goes_keeps_the_limit_it_has(pod: Any) -> None:
    assert wishes(ours(550, 0, "w-1"), pod=pod) == (wish(550),)
    assert wishes(board(0, "w-1"), pod=pod) == ()
    assert wishes(ours(550, 0, "w-1"), target=None) == (wish(550),), "nor is one of a workload that is paused let loose"


def sample(limit: int, boards: int = 2) -> Sample:
    return Sample("pod-1", None, 0, 0, 1, None, None, limit_milliwatts=limit, limited_boards=boards)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("limit_watts", "told", "pending"),
    [
        (490, None, True),
        (490, sample(0, 0), True),
        (490, sample(490_000, 1), True),
        (490, sample(2 * 490_000), False),
        (490, sample(2 * 490_000 + 1), True),
        (0, None, False),
        (0, sample(0, 0), False),
        (0, sample(490_000, 1), True),
    ],
)
def test_a_limit_is_pending_until_the_boards_say_it(limit_watts: int, told: Sample | None, pending: bool) -> None:
    decided = replace(LIMITED, board_limit_watts=limit_watts)
    assert limit_is_pending(decided, replica(accelerators=2), told) is pending


class Agents(AgentPoller):
    """Agents that answer as the test says, without a network."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(monotonic_ms=clock.monotonic_ms, now=clock.now, sleep=clock.sleep)
        self.said: dict[str, NodeReading] = {}
        self.asked: list[LimitChange] = []
        self.answer: Callable[[LimitChange], LimitReport | LimitRefusal] = report
        self.hangs: asyncio.Event | None = None
        self.set_endpoints([AGENT])

    def answers(self) -> dict[str, NodeReading]:
        return self.said

    async def set_limits(self, endpoint: AgentEndpoint, change: LimitChange) -> LimitReport | LimitRefusal:
        self.asked.append(change)
        if self.hangs is not None:
            await self.hangs.wait()
        return self.answer(change)


def report(change: LimitChange, problem: str | None = None) -> LimitReport:
    states = (
        LimitState(
            uuid=it.uuid,
            watts=it.watts,
            enforced_watts=it.watts,
            found_watts=700,
            lease_ends_in_seconds=30,
            problem=problem,
        )
        for it in change.limits
    )
    return LimitReport(generation=change.generation, limits=tuple(states))


class Scene:
    """A node with one pod of ours, and the limits of its boards."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.agents = Agents(self.clock)
        self.limits = BoardLimits(self.agents, self.clock, allowed=True, tick_seconds=2)
        world = build_world(Objects(workloads=(iw("w"),), nodes=(node("n1"),)), TODAY, Parser())
        self.world: World = replace(world, replicas={KEY: [POD]})
        self.fleet = Fleet()
        self.fleet.of(KEY).target = Target(LIMITED)

    def hears(self, *boards: BoardReading, allowed: bool = True) -> None:
        self.agents.said = {"a": reading(*boards, at_ms=self.clock.monotonic_ms(), allowed=allowed)}

    async def keep(self) -> list[LimitChange]:
        self.agents.asked = []
        await asyncio.gather(*self.limits.start(self.world, self.fleet, lambda _: True))
        return self.agents.asked


@pytest.fixture
def scene() -> Scene:
    made = Scene()
    made.hears(board(0, "w-1"))
    return made


async def test_a_limit_is_set_once_and_its_lease_renewed_with_the_same_body(scene: Scene) -> None:
    (first,) = await scene.keep()
    assert first.limits == (wish(490),)
    assert await scene.keep() == []
    await scene.clock.advance(RENEW_MS / 1000)
    scene.hears(ours(490, 0, "w-1"))
    assert await scene.keep() == [first]


async def test_another_decision_has_a_larger_generation_also_after_a_restart(scene: Scene) -> None:
    (first,) = await scene.keep()
    scene.fleet.of(KEY).target = Target(replace(LIMITED, board_limit_watts=600))
    (second,) = await scene.keep()
    assert second.generation > first.generation
    await scene.clock.advance(5)
    scene.limits = BoardLimits(scene.agents, scene.clock, allowed=True, tick_seconds=2)
    (third,) = await scene.keep()
    assert third.generation > second.generation


async def test_a_generation_that_the_agent_calls_old_is_passed_by_at_the_next_tick(scene: Scene) -> None:
    far = 10**15  # written by an operator whose clock was wrong
    scene.agents.answer = lambda _: LimitRefusal("generation is not newer", far)
    (refused,) = await scene.keep()
    assert "is not newer" in scene.limits.problem("n1")
    assert scene.limits.nodes_in_trouble() == 1
    scene.agents.answer = report
    (again,) = await scene.keep()
    assert (refused.generation < far, again.generation) == (True, far + 1)
    assert (scene.limits.problem("n1"), scene.limits.nodes_in_trouble()) == ("", 0)


async def test_a_board_that_does_not_obey_is_told_and_tried_again(scene: Scene) -> None:
    scene.agents.answer = lambda change: report(change, "Insufficient Permissions")
    (first,) = await scene.keep()
    assert scene.limits.problem("n1") == "board GPU-0 of node n1: Insufficient Permissions"
    assert await scene.keep() == [first]


async def test_a_board_that_never_shows_what_its_agent_says_is_told(scene: Scene) -> None:
    await scene.keep()
    assert scene.limits.problem("n1") == ""
    await scene.clock.advance(RENEW_MS / 1000)
    scene.hears(board(0, "w-1", limit=700))
    await scene.keep()
    said = "it enforces 700 W where its agent says it has set 490 W"
    assert scene.limits.problem("n1") == f"board GPU-0 of node n1: {said}"
    await scene.clock.advance(RENEW_MS / 1000)
    scene.hears(ours(490, 0, "w-1"))
    await scene.keep()
    assert scene.limits.problem("n1") == ""


async def test_a_reading_from_before_a_limit_was_set_says_nothing_against_it(scene: Scene) -> None:
    await scene.clock.advance(5)
    scene.hears(board(0, "w-1"))
    await scene.clock.advance(3)
    await scene.keep()
    await scene.clock.advance(RENEW_MS / 1000 + 0.1)
    await scene.keep()
    assert scene.limits.problem("n1") == ""


async def test_an_agent_that_is_not_heard_or_may_not_is_not_asked(scene: Scene) -> None:
    await scene.clock.advance((STALE_MS + 1000) / 1000)
    assert await scene.keep() == []
    scene.hears(board(0, "w-1"), allowed=False)
    assert await scene.keep() == []


async def test_nothing_is_asked_where_nothing_is_limited(scene: Scene) -> None:
    scene.fleet.of(KEY).target = Target(option())
    assert await scene.keep() == []
    scene.hears(ours(490, 0, "w-1"))
    (back,) = await scene.keep()
    assert back.limits == (wish(None),)


async def test_limits_are_planned_where_every_board_takes_them_and_not_given_up_for_a_moment(scene: Scene) -> None:
    assert scene.limits.nodes() == {"n1": 1}
    await scene.clock.advance(GONE_MS / 1000)
    assert scene.limits.nodes() == {"n1": 1}, "an agent that is updated"
    await scene.clock.advance(1)
    assert scene.limits.nodes() == {}
    scene.hears(board(0, "w-1"), board(1))
    assert scene.limits.nodes() == {"n1": 2}
    bare = BoardLimits(scene.agents, scene.clock, allowed=False, tick_seconds=2)
    assert bare.nodes() == {}, "without a token"


async def test_an_agent_that_says_no_is_believed_at_once_and_one_that_does_not_know_yet_is_silent(scene: Scene) -> None:
    mute = board(1).model_copy(update={"min_limit_watts": None})
    for boards in ((board(0), mute), (board(0).model_copy(update={"holders": None}),)):
        assert scene.limits.nodes() == {"n1": 1}
        scene.hears(*boards)
        assert scene.limits.nodes() == {"n1": 1}, "an agent that has just started"
    scene.hears(board(0, "w-1", "x"))
    assert scene.limits.nodes() == {}
    scene.hears(board(0))
    assert scene.limits.nodes() == {"n1": 1}
    scene.hears(board(0), allowed=False)
    assert scene.limits.nodes() == {}


async def test_a_node_with_an_agent_that_is_to_come_is_planned_with_for_a_while(scene: Scene) -> None:
    """It joins, or its agent is updated while this process comes to lead."""
    scene.limits.set_agents([AGENT], {"n1", "n2"})
    assert scene.limits.nodes() == {"n1": 1, "n2": ALL_BOARDS}
    await scene.clock.advance((GONE_MS + 1000) / 1000)
    scene.limits.set_agents([AGENT], {"n1", "n2"})
    assert scene.limits.nodes() == {}, "once"


async def test_boards_that_do_not_obey_for_long_are_not_planned_with_until_another_agent_comes(scene: Scene) -> None:
    scene.agents.answer = lambda _: LimitRefusal("a valid bearer token is needed", 0)
    for _ in range(GONE_MS // RENEW_MS):
        assert scene.limits.nodes() == {"n1": 1}
        assert len(await scene.keep()) == 1
        await scene.clock.advance(RENEW_MS / 1000)
        scene.hears(board(0, "w-1"))
    assert scene.limits.nodes() == {}
    scene.limits.set_agents([replace(AGENT, pod_uid="b")])
    scene.agents.said = {"b": scene.agents.said["a"]}
    assert scene.limits.nodes() == {"n1": 1}, "it may know better"
    scene.limits.set_agents([AGENT])
    scene.hears(board(0, "w-1"))
    assert scene.limits.nodes() == {}
    await scene.clock.advance(GIVEN_UP_MS / 1000)
    scene.hears(board(0, "w-1"))
    assert scene.limits.nodes() == {"n1": 1}
    await scene.keep()
    assert scene.limits.nodes() == {"n1": 1}, "and has as long again"


async def test_a_limit_below_what_the_board_takes_is_told(scene: Scene) -> None:
    scene.fleet.of(KEY).target = Target(replace(LIMITED, board_limit_watts=150))
    (change,) = await scene.keep()
    assert change.limits == (wish(200),)
    assert (
        scene.limits.problem("n1") == "board GPU-0 of node n1: it takes no less than 200 W, and the option names 150 W"
    )


async def test_a_node_that_hangs_is_asked_once_and_holds_up_no_other(scene: Scene) -> None:
    scene.agents.hangs = asyncio.Event()
    (hanging,) = scene.limits.start(scene.world, scene.fleet, lambda _: True)
    await settle()
    assert scene.limits.start(scene.world, scene.fleet, lambda _: True) == []
    scene.agents.hangs.set()
    await hanging
    assert [change.limits for change in scene.agents.asked] == [(wish(490),)]


async def test_every_agent_has_been_heard_when_it_answered_or_failed_to(scene: Scene) -> None:
    assert scene.limits.has_heard()
    scene.agents.said = {}
    assert not scene.limits.has_heard()
    scene.agents._errors["a"] = SampleError("a", SampleSource.AGENT, 0, SampleProblem.UNREACHABLE, "no answer")
    assert scene.limits.has_heard()
    del scene.agents._errors["a"]
    assert BoardLimits(scene.agents, scene.clock, allowed=False, tick_seconds=2).has_heard(), "it does not matter"


@pytest.mark.parametrize(
    ("arguments", "ready", "sets"),
    [
        (["--limit-token-file=/t"], "True", True),
        (["--limit-token-file=/t"], "False", False),
        (["--port=1"], "True", False),
    ],
)
def test_who_cannot_ask_an_agent_reads_its_arguments(arguments: list[str], ready: str, sets: bool) -> None:
    conditions = [{"type": "Ready", "status": ready}]
    pod = {"spec": {"containers": [{"name": "agent", "args": arguments}]}, "status": {"conditions": conditions}}
    assert sets_limits(pod) is sets


async def test_the_loop_asks_at_once_when_something_was_decided_and_survives_a_bug(scene: Scene) -> None:
    answers: list[Any] = [ValueError("no one thought of this"), None, (scene.world, scene.fleet, lambda _: True)]

    def decided() -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    loop = asyncio.create_task(scene.limits.run(decided))
    while answers:
        scene.limits.hurry()
        await settle()
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)
    assert [change.limits for change in scene.agents.asked] == [(wish(490),)]
