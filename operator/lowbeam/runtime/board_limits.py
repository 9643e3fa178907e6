"""Power limits of boards: which board is to have which, and the leases that keep them there.

Decides nothing about watts: the option that is in force for a workload names the limit of its boards. Carries that to
the node agents, renews it, gives a board back when its pod is gone, and says on which nodes limits may be planned.

Invariants: a board that several pods hold, or somebody else's, is never limited; a pod that is being replaced or drains
keeps the limit it has; a limit falls at once and rises only when a batch limit may; what an agent says it did is no
confirmation, only what its boards say afterwards is; a slow agent holds up no other.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping
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
"""A node whose agent is not heard for so long, or whose boards do not obey for so long, is not planned with limits any
longer. Shorter than that is an update of the agent, which must not move workloads."""
GIVEN_UP_MS = 1_800_000
"""Until a node is planned with again whose boards did not obey; another pod of its agent is tried at once."""
ALL_BOARDS = 1 << 16
"""Of a node whose agent is expected to answer soon."""

MOST_WATTS = 1e5
"""That may be asked for: a board that takes no less says so in a wrong unit."""

log = structlog.get_logger("lowbeam.limits")

Wishes = tuple[LimitWish, ...]
Rising = Callable[[WorkloadKey], bool]
"""Whether a limit of a workload may be raised or given back."""


def held_milliwatts(replica: Replica, sample: Sample | None) -> int | None:
    """The power limit that all boards of a replica enforce together, as they say; None where one of them has none."""
    if sample is None or sample.limited_boards < max(1, replica.accelerators):
        return None
    return sample.limit_milliwatts


def limit_is_pending(option: Option, replica: Replica, sample: Sample | None) -> bool:
    """Whether the boards of a replica of an option do not have its power limit yet, as they say themselves."""
    if not option.board_limit_watts:
        return sample is not None and sample.limited_boards > 0
    held = held_milliwatts(replica, sample)
    return held is None or held > option.board_limit_watts * 1000 * max(1, replica.accelerators)


def may_set_limits(agent: Mapping[str, Any]) -> bool:
    """Whether the pod of a node agent has been started to set limits, as its arguments say."""
    arguments = (arg for container in agent["spec"]["containers"] for arg in container.get("args", ()))
    return any(arg.startswith("--limit-token-file") for arg in arguments)


def sets_limits(agent: Mapping[str, Any]) -> bool:
    """Whether it does so now: for whoever cannot ask it."""
    conditions = agent.get("status", {}).get("conditions", ())
    return may_set_limits(agent) and any(it["type"] == "Ready" and it["status"] == "True" for it in conditions)


class Held(NamedTuple):
    """A pod of ours on a node, and what is in force for its workload."""

    key: WorkloadKey
    replica: Replica
    target: Target | None


Pods = Mapping[tuple[str, str], Held]
"""By (namespace, pod)."""


def wishes_of(reading: NodeReading, pods: Pods, rising: Rising) -> tuple[Wishes, dict[str, str]]:
    """What the boards of one node are to have, and why one cannot have what its option names, by uuid."""
    found, problems = [], {}
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
            least, most = board.min_limit_watts or wanted, board.max_limit_watts or wanted
            if wanted < least:
                problems[board.uuid] = f"it takes no less than {least:g} W, and the option names {wanted:g} W"
            watts = min(max(wanted, least), most, MOST_WATTS)
            # The safe limit is the same: an operator that is gone for long must not let a dimmed board loose.
            found.append(LimitWish(uuid=board.uuid, watts=watts, safe_watts=watts))
        elif current is not None:
            found.append(LimitWish(uuid=board.uuid, watts=None))
    return tuple(found), problems


def _wanted(held: Held, current: float | None) -> float | None:
    option = held.target.option if held.target is not None else None
    leaves = option is None or held.replica.terminating
    if option is None or leaves or held.replica.placement_digest != Placement.of(option).digest(held.key[1]):
        return current
    return option.board_limit_watts or None


@dataclass(slots=True)
class _Lease:
    """What an agent was last asked for."""

    wishes: Wishes
    generation: int
    renew_at_ms: int
    set_at_ms: int
    """When it was first acknowledged."""


@dataclass(slots=True)
class _Trouble:
    """Boards of a node that do not have their limits."""

    message: str
    since_ms: int
    agent: str
    """Uid of its pod."""


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
        self._able: dict[str, tuple[int, int]] = {}
        """(when the agent of a node last said that it can limit every board there, how many boards)."""
        self._expected: frozenset[str] = frozenset()
        self._trouble: dict[str, _Trouble] = {}
        """By node; what is over is kept while nothing shows that it is mended."""
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()

    def set_agents(self, endpoints: Iterable[AgentEndpoint], expected: Collection[str] = ()) -> None:
        """Ask exactly these from now on. `expected`: nodes with a pod of an agent that is to set limits, though it may
        not answer yet: of a node that joins, or whose agent is updated while this process comes to lead."""
        self._agents.set_endpoints(endpoints)
        now_ms = self._clock.monotonic_ms()
        for node in frozenset(expected) - self._expected:
            self._able.setdefault(node, (now_ms, ALL_BOARDS))
        self._expected = frozenset(expected)

    def has_heard(self) -> bool:
        """Whether every agent has answered or failed to: before that nobody knows which limits there are."""
        heard = self._agents.answers().keys() | self._agents.errors().keys()
        return not self._allowed or all(it.pod_uid in heard for it in self._agents.endpoints())

    def nodes(self) -> dict[str, int]:
        """Nodes on whose boards power limits may be planned, and how many boards their agents tell of."""
        if not self._allowed:
            return {}
        now_ms = self._clock.monotonic_ms()
        for node, reading in self._readings().items():
            able = _able(reading)
            if reading.age_ms(now_ms) > STALE_MS or able is None:
                continue  # as if it were silent
            if able:
                self._able[node] = (now_ms, len(reading.telemetry.devices))
            else:
                self._able.pop(node, None)
        self._able = {node: it for node, it in self._able.items() if now_ms - it[0] <= GONE_MS}
        agents = {endpoint.node: endpoint.pod_uid for endpoint in self._agents.endpoints()}
        return {node: boards for node, (_, boards) in self._able.items() if not self._gave_up(node, agents, now_ms)}

    def problem(self, node: str) -> str:
        """Why the boards of a node do not have their limits; empty where nothing is known to be wrong."""
        return self._trouble[node].message if node in self._trouble else ""

    def nodes_in_trouble(self) -> int:
        """How many nodes have boards without the limits that were decided for them."""
        return len(self._trouble)

    def hurry(self) -> None:
        """Something was decided: do not wait for the next tick."""
        self._changed.set()

    async def run(self, decided: Callable[[], tuple[World, Fleet, Rising] | None]) -> None:
        """Keep the boards at what is `decided` until cancelled; None: nothing may be written now."""
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._tick_seconds):
                        await self._changed.wait()
                self._changed.clear()
                try:
                    if self._allowed and (now := decided()) is not None:
                        self.start(*now)
                except Exception:
                    log.exception("cycle failed and is tried again", loop="board limits")
        finally:
            for task in self._asking.values():
                task.cancel()

    def start(self, world: World, fleet: Fleet, rising: Rising) -> list[asyncio.Task[None]]:
        """Ask the agents of all nodes that are to be asked now; one that is being asked is left out."""
        targets = fleet.targets()
        by_node: dict[str, dict[tuple[str, str], Held]] = {}
        for key, replicas in world.replicas.items():
            for replica in replicas:
                if replica.node:
                    by_node.setdefault(replica.node, {})[key[0], replica.name] = Held(key, replica, targets.get(key))
        now_ms, may = self._clock.monotonic_ms(), dict[WorkloadKey, bool]()

        def may_rise(key: WorkloadKey) -> bool:
            if key not in may:
                may[key] = rising(key)
            return may[key]

        readings, endpoints = self._readings(), self._agents.endpoints()
        there = {endpoint.node for endpoint in endpoints}
        self._leases = {node: lease for node, lease in self._leases.items() if node in readings}
        self._trouble = {node: trouble for node, trouble in self._trouble.items() if node in there}
        started = []
        for endpoint in endpoints:
            node, reading = endpoint.node, readings.get(endpoint.node)
            if reading is None or reading.age_ms(now_ms) > STALE_MS or node in self._asking:
                continue
            if reading.telemetry.limits_allowed:
                wishes, problems = wishes_of(reading, by_node.get(node, {}), may_rise)
                if self._is_due(node, wishes, now_ms):
                    self._asking[node] = task = asyncio.create_task(self._ask(endpoint, wishes, problems))
                    started.append(task)
        return started

    def _readings(self) -> dict[str, NodeReading]:
        return {reading.telemetry.node: reading for reading in self._agents.answers().values()}

    def _is_due(self, node: str, wishes: Wishes, now_ms: int) -> bool:
        lease = self._leases.get(node)
        if not wishes:
            self._leases.pop(node, None)
            return False
        return lease is None or lease.wishes != wishes or now_ms >= lease.renew_at_ms

    async def _ask(self, endpoint: AgentEndpoint, wishes: Wishes, problems: dict[str, str]) -> None:
        """One node; what goes wrong there concerns no other."""
        try:
            await self._set(endpoint, wishes, problems)
        except Exception:
            log.exception("a node is left out and tried again", loop="board limits", node=endpoint.node)
        finally:
            del self._asking[endpoint.node]

    async def _set(self, endpoint: AgentEndpoint, wishes: Wishes, problems: dict[str, str]) -> None:
        """Ask for these, or renew their leases."""
        node, lease = endpoint.node, self._leases.get(endpoint.node)
        renews = lease is not None and lease.wishes == wishes
        if lease is None or not renews:
            # The agents remember the largest one, over restarts of the operator too.
            generation = max(self._generations.get(node, 0) + 1, int(self._clock.now().timestamp() * 1000))
            lease = _Lease(wishes, generation, 0, 0)
            if node not in self._trouble:
                log.info("power limits", node=node, limits={it.uuid: it.watts for it in wishes})
        self._generations[node] = lease.generation
        answer = await self._agents.set_limits(endpoint, LimitChange(generation=lease.generation, limits=wishes))
        now_ms = self._clock.monotonic_ms()
        if isinstance(answer, LimitRefusal):
            self._leases.pop(node, None)  # a new generation next time
            self._generations[node] = max(lease.generation, answer.generation or 0)
            self._tell(endpoint, answer.message)
            return
        problems |= {it.uuid: it.problem for it in answer.limits if it.problem}
        reading = self._readings().get(node)
        if not renews:
            lease.set_at_ms = now_ms
        elif reading is not None and reading.sampled_at_ms > lease.set_at_ms:  # what was asked for must show by now
            problems = _disobedient(reading, wishes) | problems
        self._leases[node] = lease
        lease.renew_at_ms = now_ms if problems else now_ms + RENEW_MS
        self._tell(endpoint, "; ".join(f"board {uuid} of node {node}: {text}" for uuid, text in problems.items()))

    def _tell(self, endpoint: AgentEndpoint, problem: str) -> None:
        node, known, now_ms = endpoint.node, self._trouble.get(endpoint.node), self._clock.monotonic_ms()
        if not problem:
            self._trouble.pop(node, None)
        elif known is None or known.agent != endpoint.pod_uid or now_ms - known.since_ms >= GONE_MS + GIVEN_UP_MS:
            self._trouble[node] = _Trouble(problem, now_ms, endpoint.pod_uid)
        else:
            known.message, problem = problem, "" if known.message == problem else problem
        if problem:
            log.warning("power limits are not set", node=node, problem=problem)

    def _gave_up(self, node: str, agents: Mapping[str, str], now_ms: int) -> bool:
        """Whether its boards have not obeyed for long. Planned with at every try, they would leave pods that wait."""
        trouble = self._trouble.get(node)
        if trouble is None or agents.get(node, trouble.agent) != trouble.agent:
            return False
        return GONE_MS <= now_ms - trouble.since_ms < GONE_MS + GIVEN_UP_MS


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


def _able(reading: NodeReading) -> bool | None:
    """Whether the agent may set limits, and every board takes them and is no more than one pod's; None: not known."""
    boards = reading.telemetry.devices
    if not reading.telemetry.limits_allowed or any(len(pods_on(board)) > 1 for board in boards):
        return False
    return None if any(_is_mute(board) for board in boards) else True


def _is_mute(board: BoardReading) -> bool:
    return board.holders is None or board.min_limit_watts is None or board.max_limit_watts is None
