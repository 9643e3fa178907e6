"""Power limits of boards: which board is to have which, and the leases that keep them there.

Decides nothing about watts: the option that is in force for a workload names the limit of its boards. Carries that to
the node agents, renews it, and gives a board back when its pod is gone.

Invariants: a board that several pods hold, or somebody else's, is never limited; a pod that is being replaced or drains
keeps the limit it has; a limit falls at once and rises only when a batch limit may; what an agent says it did is no
confirmation, only what its boards say afterwards is.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import structlog

from lowbeam.api.wire import BoardReading, LimitChange, LimitOrigin, LimitWish
from lowbeam.planning.committed import Target
from lowbeam.power.trust import STALE_MS
from lowbeam.render import Placement
from lowbeam.runtime.clock import Clock
from lowbeam.runtime.fleet import Fleet
from lowbeam.runtime.replicas import Replica, WorkloadKey
from lowbeam.runtime.world import World
from lowbeam.sizing import Option
from lowbeam.telemetry import AgentEndpoint, AgentPoller, LimitRefusal, NodeReading, Sample
from lowbeam.telemetry.agent_fallback import pods_on

RENEW_MS = 10_000
"""A third of the agents' lease."""
GONE_MS = 120_000
"""A node whose agent is not heard for so long is not planned with limits any longer. Shorter than that is an update of
the agent, which must not move workloads."""

log = structlog.get_logger("lowbeam.limits")

Wishes = tuple[LimitWish, ...]


def limit_is_pending(option: Option, replica: Replica, sample: Sample | None) -> bool:
    """Whether the boards of a replica of an option do not have its power limit yet, as they say themselves."""
    held = sample.limit_milliwatts if sample is not None else None
    if not option.board_limit_watts:
        return held is not None
    return held is None or held > option.board_limit_watts * 1000 * max(1, replica.accelerators)


def sets_limits(agent: Mapping[str, Any]) -> bool:
    """Whether the pod of a node agent is there and may set limits, as its arguments say: for whoever cannot ask it."""
    ready = any(
        it["type"] == "Ready" and it["status"] == "True" for it in agent.get("status", {}).get("conditions", ())
    )
    arguments = (arg for container in agent["spec"]["containers"] for arg in container.get("args", ()))
    return ready and any(arg.startswith("--limit-token-file") for arg in arguments)


class Held(NamedTuple):
    """A pod of ours on a node, and what is in force for its workload."""

    key: WorkloadKey
    replica: Replica
    target: Target | None


Pods = Mapping[tuple[str, str], Held]
"""By (namespace, pod)."""


def wishes_of(reading: NodeReading, pods: Pods, rising: Callable[[WorkloadKey], bool]) -> Wishes:
    """What the boards of one node are to have. `rising`: whether a limit of a workload may be raised or given back."""
    found = []
    for board in reading.telemetry.devices:
        if board.holders is None:
            continue
        current = board.power_limit_watts if board.limit_origin is LimitOrigin.AGENT else None
        holders = pods_on(board)
        held = pods.get(holders[0]) if len(holders) == 1 else None
        wanted = None
        if held is not None:
            wanted = _wanted(held, current)
            rises = current is not None and (wanted is None or wanted > current)
            if rises and not rising(held.key):
                wanted = current
        if wanted is not None:
            watts = _within(board, wanted)
            # The safe limit is the same: an operator that is gone for long must not let a dimmed board loose.
            found.append(LimitWish(uuid=board.uuid, watts=watts, safe_watts=watts))
        elif current is not None:
            found.append(LimitWish(uuid=board.uuid, watts=None))
    return tuple(found)


def _wanted(held: Held, current: float | None) -> float | None:
    option = held.target.option if held.target is not None else None
    leaves = option is None or held.replica.terminating
    if option is None or leaves or held.replica.placement_digest != Placement.of(option).digest(held.key[1]):
        return current
    return option.board_limit_watts or None


def _within(board: BoardReading, watts: float) -> float:
    """The nearest limit that the board takes."""
    return min(max(watts, board.min_limit_watts or watts), board.max_limit_watts or watts)


@dataclass(slots=True)
class _Lease:
    """What an agent was last asked for."""

    wishes: Wishes
    generation: int
    renew_at_ms: int


class BoardLimits:
    """The limits of a fleet. `run` carries them to the agents, as long as this process leads."""

    def __init__(self, agents: AgentPoller, clock: Clock, *, allowed: bool, tick_seconds: float) -> None:
        """`allowed`: whether this operator has a token for the agents' limits."""
        self._agents = agents
        self._clock = clock
        self._allowed = allowed
        self._tick_seconds = tick_seconds
        self._leases: dict[str, _Lease] = {}
        self._generations: dict[str, int] = {}
        self._able_ms: dict[str, int] = {}
        """When the agent of a node last said that it can limit every board there."""
        self._problems: dict[str, str] = {}
        """By node."""
        self._changed = asyncio.Event()

    def set_agents(self, endpoints: Iterable[AgentEndpoint]) -> None:
        """Ask exactly these from now on."""
        self._agents.set_endpoints(endpoints)

    def has_heard(self) -> bool:
        """Whether every agent has answered or failed to: before that nobody knows which limits there are."""
        heard = self._agents.answers().keys() | self._agents.errors().keys()
        return not self._allowed or all(it.pod_uid in heard for it in self._agents.endpoints())

    def nodes(self) -> frozenset[str]:
        """Nodes on whose boards power limits may be planned."""
        if not self._allowed:
            return frozenset()
        now_ms = self._clock.monotonic_ms()
        for node, reading in self._readings().items():
            if reading.age_ms(now_ms) > STALE_MS:
                continue
            if _able(reading):
                self._able_ms[node] = now_ms
            else:
                self._able_ms.pop(node, None)
        self._able_ms = {node: at_ms for node, at_ms in self._able_ms.items() if now_ms - at_ms <= GONE_MS}
        return frozenset(self._able_ms)

    def problem(self, node: str) -> str:
        """Why the boards of a node do not have their limits; empty where nothing is known to be wrong."""
        return self._problems.get(node, "")

    def hurry(self) -> None:
        """Something was decided: do not wait for the next tick."""
        self._changed.set()

    async def run(
        self, decided: Callable[[], tuple[World, Fleet] | None], rising: Callable[[WorkloadKey], bool]
    ) -> None:
        """Keep the boards at what is `decided` until cancelled; None: nothing may be written now."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._tick_seconds):
                    await self._changed.wait()
            self._changed.clear()
            try:
                if self._allowed and (now := decided()) is not None:
                    await self.keep(*now, rising)
            except Exception:
                log.exception("cycle failed and is tried again", loop="board limits")

    async def keep(self, world: World, fleet: Fleet, rising: Callable[[WorkloadKey], bool]) -> None:
        """One round over all nodes."""
        targets = fleet.targets()
        by_node: dict[str, dict[tuple[str, str], Held]] = {}
        for key, replicas in world.replicas.items():
            for replica in replicas:
                if replica.node:
                    by_node.setdefault(replica.node, {})[key[0], replica.name] = Held(key, replica, targets.get(key))
        now_ms = self._clock.monotonic_ms()
        endpoints = {endpoint.node: endpoint for endpoint in self._agents.endpoints()}
        readings = self._readings()
        for node in self._leases.keys() - readings.keys():
            del self._leases[node]
        await asyncio.gather(
            *(
                self._ask(endpoints[node], reading, wishes_of(reading, by_node.get(node, {}), rising))
                for node, reading in readings.items()
                if reading.telemetry.limits_allowed and reading.age_ms(now_ms) <= STALE_MS and node in endpoints
            )
        )

    def _readings(self) -> dict[str, NodeReading]:
        return {reading.telemetry.node: reading for reading in self._agents.answers().values()}

    async def _ask(self, endpoint: AgentEndpoint, reading: NodeReading, wishes: Wishes) -> None:
        """Ask for these, or renew their leases when it is time."""
        node, now_ms = endpoint.node, self._clock.monotonic_ms()
        lease = self._leases.get(node)
        if not wishes:
            self._leases.pop(node, None)
            self._problems.pop(node, None)
            return
        if lease is None or lease.wishes != wishes:
            # The agents remember the largest one, over restarts of the operator too.
            generation = max(self._generations.get(node, 0) + 1, int(self._clock.now().timestamp() * 1000))
            lease = _Lease(wishes, generation, now_ms)
            log.info("power limits", node=node, limits={it.uuid: it.watts for it in wishes})
        elif now_ms < lease.renew_at_ms:
            return
        self._generations[node] = lease.generation
        answer = await self._agents.set_limits(endpoint, LimitChange(generation=lease.generation, limits=wishes))
        if isinstance(answer, LimitRefusal):
            self._leases.pop(node, None)  # a new generation next time
            self._generations[node] = max(lease.generation, answer.generation or 0)
            self._tell(node, answer.message)
            return
        told = {it.uuid: it.problem for it in answer.limits if it.problem}
        if lease is self._leases.get(node):  # a renewal: what was asked for must show by now
            told = _disobedient(reading, wishes) | told
        problems = [f"board {uuid} of node {node}: {problem}" for uuid, problem in told.items()]
        self._leases[node] = lease
        lease.renew_at_ms = now_ms if problems else now_ms + RENEW_MS
        self._tell(node, "; ".join(problems))

    def _tell(self, node: str, problem: str) -> None:
        if problem != self._problems.get(node, ""):
            if problem:
                log.warning("power limits are not set", node=node, problem=problem)
            self._problems[node] = problem


def _disobedient(reading: NodeReading, wishes: Wishes) -> dict[str, str]:
    """Boards that say something else than what their agent says it has set."""
    wanted = {it.uuid: it.watts for it in wishes if it.watts is not None}
    higher = {
        board.uuid: board.power_limit_watts
        for board in reading.telemetry.devices
        if board.uuid in wanted and (board.power_limit_watts or 0) > wanted[board.uuid]
    }
    said = "it enforces {:g} W where its agent says it has set {:g} W"
    return {uuid: said.format(watts, wanted[uuid]) for uuid, watts in higher.items()}


def _able(reading: NodeReading) -> bool:
    """Whether the agent may set limits, and every board takes them and is no more than one pod's."""
    return reading.telemetry.limits_allowed and all(
        board.min_limit_watts is not None
        and board.max_limit_watts is not None
        and board.holders is not None
        and len(pods_on(board)) <= 1
        for board in reading.telemetry.devices
    )
