"""What is written of a decision whose nodes have become those of another pool meanwhile."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest.mock import AsyncMock, MagicMock

import pytest

from lowbeam.api.wire import WorkerState
from lowbeam.kube import DEPLOYMENTS, Applier
from lowbeam.planning.committed import Target
from lowbeam.planning.plan import sizer_for
from lowbeam.render import Placement, labels
from lowbeam.runtime.executor import BOARD_LIMITS, MOVE_TO_ITS_NODES, Executor
from lowbeam.runtime.replicas import WorkloadKey
from lowbeam.runtime.settings import OperatorSettings
from lowbeam.runtime.world import Objects, Parser, World, build_world
from lowbeam.sizing import Option
from tests.fakes.agents import no_agents
from tests.raw_objects import TODAY, iw, node, pcap, replica

KEY: WorkloadKey = ("team", "w")
OBSERVED = pcap("obspool", mode="Observe", scope={"nodePool": {"nodeSelector": {"pool": "pool-b"}}})


def world(*deployments: dict[str, Any], caps: tuple[dict[str, Any], ...] = ()) -> World:
    objects = Objects(
        workloads=(iw("w"),), nodes=(node("n1", pool="pool-b"),), power_caps=caps, deployments=deployments
    )
    return build_world(objects, TODAY, Parser())


class Written:
    """A transport that takes every apply of a Deployment down."""

    def __init__(self) -> None:
        self.deployments: list[dict[str, Any]] = []

    async def apply(self, resource: object, desired: dict[str, Any], **_: object) -> dict[str, Any]:
        if resource == DEPLOYMENTS:
            self.deployments.append(desired)
        return {**desired, "metadata": {"uid": "u", **desired["metadata"]}}


def executor(written: Written) -> Executor:
    transport: Any = written
    return Executor(Applier(transport), MagicMock(), OperatorSettings("tests"), no_agents())


def heard(batch_limit: int, limit_milliwatts: int | None = None) -> Any:
    """A sample of a worker on one board."""
    profile = MagicMock(batch_limit=batch_limit, generation=1)
    limited = int(limit_milliwatts is not None)
    limits = {"limit_milliwatts": limit_milliwatts or 0, "limited_boards": limited}
    return MagicMock(state=WorkerState.READY, received_at_ms=1, profile=profile, **limits)


def runs(replicas: int) -> Option:
    seen = world()
    sizer = sizer_for(MagicMock(catalogue=seen.catalogue, inventory=seen.inventory))
    return replace(sizer.options_for(seen.requirements[KEY]).options[0], replicas=replicas)


def live(option: Option) -> dict[str, Any]:
    made = executor(Written()).manifest(world(), KEY, option, option.replicas)
    made["metadata"] |= {"uid": "u", "generation": 1}
    return {**made, "status": {"observedGeneration": 1, "updatedReplicas": 9, "readyReplicas": option.replicas}}


@pytest.mark.parametrize("replicas", [2, 3])
async def test_a_deployment_is_left_as_it_is_while_its_nodes_are_those_of_another_pool(replicas: int) -> None:
    option, written = runs(replicas), Written()
    seen = world(live(runs(2)), caps=(OBSERVED,))
    outcome = await executor(written).carry_out(seen, KEY, Target(option), {})
    assert written.deployments == []
    assert outcome.waiting_for == MOVE_TO_ITS_NODES
    assert not outcome.through, "nodes may come back without a word"

    before = await executor(written).carry_out(world(live(runs(2))), KEY, Target(runs(2)), {})
    assert (written.deployments, before.waiting_for, before.through) == ([], "", True)


@pytest.mark.parametrize(
    ("taken", "own", "kept"), [(3, True, True), (2, True, False), (0, True, False), (3, False, False)]
)
async def test_pods_stay_where_they_are_until_the_nodes_of_their_pool_have_room(
    taken: int, own: bool, kept: bool
) -> None:
    before, written = live(runs(2)), Written()
    others = [replica(node="n2") for _ in range(taken)] + [replica(node="n2", terminating=True)]
    objects = Objects(
        workloads=(iw("w"),),
        nodes=(node("n1", pool="pool-b"), node("n2")),
        power_caps=(OBSERVED,),
        deployments=(before,),
    )
    digest = before["metadata"]["labels"][labels.PLACEMENT] if own else "of-the-old-placement"
    pods = {KEY: [replica(node="n1", placement_digest=digest)]}
    seen = replace(build_world(objects, TODAY, Parser()), replicas={**pods, ("team", "other"): others})
    outcome = await executor(written).carry_out(seen, KEY, Target(runs(2)), {})
    assert (written.deployments == []) is kept
    assert (outcome.waiting_for == MOVE_TO_ITS_NODES) is kept


async def test_what_was_shed_goes_also_when_its_nodes_are_those_of_another_pool() -> None:
    written, before = Written(), live(runs(2))
    await executor(written).carry_out(world(before, caps=(OBSERVED,)), KEY, Target(runs(1)), {})
    (fewer,) = written.deployments
    assert fewer["spec"]["replicas"] == 1
    assert fewer["spec"]["template"] == before["spec"]["template"], "the pod that stays is not replaced"


async def test_a_deployment_that_is_not_there_is_written_for_nodes_that_may_come() -> None:
    written = Written()
    await executor(written).carry_out(world(caps=(OBSERVED,)), KEY, Target(runs(2)), {})
    assert [it["spec"]["replicas"] for it in written.deployments] == [2]


@pytest.mark.parametrize(("wanted", "asked"), [(3, False), (2, True)], ids=["not seen yet", "seen"])
async def test_a_batch_limit_rises_when_no_surplus_pod_is_made_again(wanted: int, asked: bool) -> None:
    """One of three was evicted just when two were decided: its Deployment makes it again until it has been told."""
    option, written = replace(runs(2), batch_limit=8), Written()
    digest = Placement.of(option).digest(KEY[1])
    two = [replica(uid=f"p{n}", node="n1", placement_digest=digest) for n in range(2)]
    seen = replace(world(live(replace(option, replicas=wanted))), replicas={KEY: two})
    told: Any = MagicMock(
        state=WorkerState.READY, received_at_ms=1, limited_boards=0, profile=MagicMock(batch_limit=1, generation=1)
    )
    acting = executor(written)
    acting._poller.change_profile = AsyncMock()  # type: ignore[method-assign]
    await acting.carry_out(seen, KEY, Target(option), {"p0": told, "p1": told})
    assert acting._poller.change_profile.called is asked
    assert [it["spec"]["replicas"] for it in written.deployments] == ([2] if wanted == 3 else [])


@pytest.mark.parametrize(("limit", "may_rise", "asked"), [(1, True, True), (1, False, False), (99, False, True)])
async def test_a_batch_limit_rises_only_where_it_may_and_falls_at_once(limit: int, may_rise: bool, asked: bool) -> None:
    option, written = replace(runs(1), batch_limit=8), Written()
    digest = Placement.of(option).digest(KEY[1])
    seen = replace(world(live(option)), replicas={KEY: [replica(uid="p0", node="n1", placement_digest=digest)]})
    told: Any = MagicMock(
        state=WorkerState.READY, received_at_ms=1, limited_boards=0, profile=MagicMock(batch_limit=limit, generation=1)
    )
    acting = executor(written)
    acting._poller.change_profile = AsyncMock()  # type: ignore[method-assign]
    outcome = await acting.carry_out(seen, KEY, Target(option), {"p0": told}, may_rise=may_rise)
    assert acting._poller.change_profile.called is asked
    assert ("fresh readings" in outcome.waiting_for) is not asked, "its status says so"


@pytest.mark.parametrize(
    ("batch_limit", "pods", "may"),
    [(8, 2, True), (4, 2, True), (9, 2, False), (None, 2, False), (8, 3, False)],
    ids=["as decided", "smaller", "a larger batch still runs", "nobody knows", "a pod too many"],
)
def test_boards_draw_more_when_nobody_else_does(batch_limit: int | None, pods: int, may: bool) -> None:
    option = replace(runs(2), batch_limit=8)
    digest = Placement.of(option).digest("w")
    seen = replace(world(), replicas={KEY: [replica(uid=f"u{n}", placement_digest=digest) for n in range(pods)]})
    told: Any = MagicMock(profile=MagicMock(batch_limit=batch_limit))
    samples = {} if batch_limit is None else {f"u{n}": told for n in range(pods)}
    assert executor(Written()).may_draw_more(seen, KEY, option, samples) is may


@pytest.mark.parametrize(
    ("told_milliwatts", "running", "asked"),
    [(None, 1, False), (60_000, 1, False), (50_000, 1, True), (None, 16, True)],
    ids=["no limit yet", "a higher one", "the limit", "a lower batch does not wait"],
)
async def test_a_batch_limit_waits_for_the_power_limit_of_its_boards(
    told_milliwatts: int | None, running: int, asked: bool
) -> None:
    option, written = replace(runs(1), batch_limit=8, board_limit_watts=50), Written()
    digest = Placement.of(option).digest(KEY[1])
    seen = replace(world(live(option)), replicas={KEY: [replica(uid="p0", placement_digest=digest)]})
    told = heard(running, told_milliwatts)
    acting = executor(written)
    acting._poller.change_profile = AsyncMock()  # type: ignore[method-assign]
    outcome = await acting.carry_out(seen, KEY, Target(option), {"p0": told})
    assert acting._poller.change_profile.called is asked
    assert (outcome.waiting_for == BOARD_LIMITS) is (told_milliwatts != 50_000), "its status says so"


async def test_a_ready_worker_that_never_said_how_it_runs_is_named() -> None:
    """The agent of its node tells its watts, and the operator does not reach its control port."""
    option, written = replace(runs(1), batch_limit=8), Written()
    digest = Placement.of(option).digest(KEY[1])
    seen = replace(world(live(option)), replicas={KEY: [replica(uid="p0", placement_digest=digest)]})
    told: Any = MagicMock(profile=None, limited_boards=0)
    outcome = await executor(written).carry_out(seen, KEY, Target(option), {"p0": told})
    assert outcome.waiting_for == "port 9465 of pod w-1 to answer (docs/operations.md)"
    assert (await executor(written).carry_out(seen, KEY, Target(option), {})).waiting_for == "", "it may come yet"


def test_a_pod_is_asked_with_its_own_token_until_it_is_gone() -> None:
    """Its workload may be deleted while it drains, its spec be refused, or another object have taken its name."""
    settings = OperatorSettings("tests", control_key=b"0123456789abcdef")
    asks = Executor(MagicMock(), MagicMock(), settings, no_agents())

    def token(*workloads: dict[str, Any], by: Executor = asks) -> str | None:
        seen = build_world(Objects(workloads=workloads, nodes=(node("n1"),)), TODAY, Parser())
        (endpoint,) = by.endpoints(replace(seen, replicas={KEY: [replica()]}))
        return endpoint.token

    first = iw("w")
    own = token(first)
    assert own is not None
    refused = {**first, "spec": {**first["spec"], "load": {"requestsPerMinute": -5}}}
    other = {**first, "metadata": {**first["metadata"], "uid": "another"}}
    assert [token(), token(refused), token(other)] == [own] * 3
    successor = Executor(MagicMock(), MagicMock(), settings, no_agents())
    assert token(refused, by=successor) == own
    asks.endpoints(build_world(Objects(), TODAY, Parser()))
    assert token(other) not in {None, own}, "another pod"
