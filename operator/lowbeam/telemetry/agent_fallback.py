"""Replicas first, node agents for what they cannot say: watts of other engines, and of a worker without a meter.

Decides whose watts count, and which boards of a pod are under a power limit of ours. A replica's own word counts as
long as it has one: the agent reads the same boards. A board that several pods hold is an estimate, in equal shares.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

from lowbeam.api.wire import (
    BoardReading,
    DeviceReading,
    LimitOrigin,
    MeterMethod,
    MeterScope,
    ProfileChange,
    ProfileChangeResult,
)
from lowbeam.power.trust import LATE_MS, STALE_MS
from lowbeam.telemetry.agent_source import AgentPoller, NodeReading
from lowbeam.telemetry.control_client import WorkerEndpoint
from lowbeam.telemetry.fallback import Telemetry, metered, newest
from lowbeam.telemetry.samples import Sample, SampleError, SampleSource

PodName = tuple[str, str]
"""(namespace, name)."""


class AgentFallback:
    """A `Telemetry` over another one, with what the node agents read of the same pods."""

    def __init__(self, workers: Telemetry, agents: AgentPoller, *, monotonic_ms: Callable[[], int]) -> None:
        self._workers = workers
        self._agents = agents
        self._monotonic_ms = monotonic_ms
        self._endpoints: dict[str, WorkerEndpoint] = {}
        self._read: dict[str, tuple[NodeReading, Mapping[PodName, Sample]]] = {}
        """By the agent's pod uid: worked out once for each of its answers, for the loops ask many times between two."""

    def set_endpoints(self, endpoints: Iterable[WorkerEndpoint]) -> None:
        """See `Telemetry`."""
        self._endpoints = {endpoint.pod_uid: endpoint for endpoint in endpoints}
        self._workers.set_endpoints(self._endpoints.values())

    def samples(self) -> Mapping[str, Sample]:
        """See `Telemetry`."""
        found = dict(self._workers.samples())
        nodes, now_ms = self._nodes(), self._monotonic_ms()
        for uid, endpoint in self._endpoints.items() if nodes else ():
            if (agent := nodes.get(endpoint.node, {}).get((endpoint.namespace, endpoint.pod))) is not None:
                found[uid] = _together(uid, found.get(uid), agent, now_ms)
        return found

    def errors(self) -> Mapping[str, SampleError]:
        """Of the pods that neither could read."""
        errors = self._workers.errors()
        if not errors:
            return errors
        nodes, now_ms = self._nodes(), self._monotonic_ms()

        def is_read(uid: str) -> bool:
            endpoint = self._endpoints.get(uid)
            agent = nodes.get(endpoint.node, {}).get((endpoint.namespace, endpoint.pod)) if endpoint else None
            return agent is not None and agent.milliwatts is not None and agent.age_ms(now_ms) <= LATE_MS

        return {uid: error for uid, error in errors.items() if not is_read(uid)}

    async def change_profile(
        self, endpoint: WorkerEndpoint, change: ProfileChange
    ) -> ProfileChangeResult | SampleError:
        """See `Telemetry`."""
        return await self._workers.change_profile(endpoint, change)

    async def run(self) -> None:
        """See `Telemetry`."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._workers.run())
            group.create_task(self._agents.run())

    def _nodes(self) -> dict[str, Mapping[PodName, Sample]]:
        """What the agents say of pods, by node."""
        answers = self._agents.answers()
        read = {}
        for uid, reading in answers.items():
            known = self._read.get(uid)
            read[uid] = known if known is not None and known[0] is reading else (reading, _samples(reading))
        self._read = read
        return {reading.telemetry.node: samples for reading, samples in read.values()}


def pods_on(board: BoardReading) -> list[PodName]:
    """The pods that hold a board, each once; none where the kubelet was never heard."""
    return sorted({(holder.namespace, holder.pod) for holder in board.holders or ()})


def _together(uid: str, own: Sample | None, agent: Sample, now_ms: int) -> Sample:
    """What the replica and the agent of its node say together."""
    limited = agent.limited_boards > 0 and agent.age_ms(now_ms) <= STALE_MS
    limit = (agent.limit_milliwatts, agent.limited_boards) if limited else (0, 0)
    if own is None:
        both = dataclasses.replace(agent, pod_uid=uid)
    elif own.source is SampleSource.ENGINE or own.milliwatts is None:
        both = own if agent.milliwatts is None else metered(own, agent)
    elif own.age_ms(now_ms) > LATE_MS:
        both = newest(own, dataclasses.replace(agent, pod_uid=uid))
    else:
        both = own
    if (both.limit_milliwatts, both.limited_boards) == limit:
        return both
    return dataclasses.replace(both, limit_milliwatts=limit[0], limited_boards=limit[1])


def _samples(reading: NodeReading) -> Mapping[PodName, Sample]:
    """What the agent says of each pod that holds a board; the uids of pods are not among it."""
    boards: dict[PodName, list[BoardReading]] = {}
    for board in reading.telemetry.devices:
        for pod in pods_on(board):
            boards.setdefault(pod, []).append(board)
    return {pod: _sample(reading, held) for pod, held in boards.items()}


def _sample(reading: NodeReading, boards: Sequence[BoardReading]) -> Sample:
    shared = any(len(pods_on(board)) > 1 for board in boards)
    watts = [None if board.watts is None else board.watts / len(pods_on(board)) for board in boards]
    joules = [board.joules_total for board in boards]
    limits = [
        board.power_limit_watts
        for board in boards
        if board.limit_origin is LimitOrigin.AGENT and board.power_limit_watts is not None and not shared
    ]
    milliwatts = None if None in watts else sum(round(it * 1000) for it in watts if it is not None)
    return Sample(
        pod_uid="",
        source=SampleSource.AGENT,
        sampled_at_ms=reading.sampled_at_ms,
        received_at_ms=reading.received_at_ms,
        milliwatts=milliwatts,
        method=MeterMethod.UNAVAILABLE if milliwatts is None else MeterMethod.NVML,
        scope=MeterScope.SHARED if shared else MeterScope.DEVICE,
        joules_total=None if shared or None in joules else sum(it for it in joules if it is not None),
        devices=tuple(
            DeviceReading(uuid=board.uuid, watts=share, power_limit_watts=board.power_limit_watts)
            for board, share in zip(boards, watts, strict=True)
        ),
        limit_milliwatts=round(sum(limits) * 1000),
        limited_boards=len(limits),
    )
