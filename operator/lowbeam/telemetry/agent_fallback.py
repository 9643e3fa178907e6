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
        self._seen: tuple[NodeReading, ...] = ()
        self._boards: dict[PodName, tuple[NodeReading, list[BoardReading]]] = {}

    def set_endpoints(self, endpoints: Iterable[WorkerEndpoint]) -> None:
        """See `Telemetry`."""
        self._endpoints = {endpoint.pod_uid: endpoint for endpoint in endpoints}
        self._workers.set_endpoints(self._endpoints.values())

    def samples(self) -> Mapping[str, Sample]:
        """See `Telemetry`."""
        found = dict(self._workers.samples())
        boards, now_ms = self._boards_by_pod(), self._monotonic_ms()
        for uid, endpoint in self._endpoints.items() if boards else ():
            if (held := boards.get((endpoint.namespace, endpoint.pod))) is not None:
                found[uid] = _together(found.get(uid), _sample(uid, *held), now_ms)
        return found

    def errors(self) -> Mapping[str, SampleError]:
        """Of the pods that neither could read."""
        errors = self._workers.errors()
        if not errors:
            return errors
        samples, now_ms = self.samples(), self._monotonic_ms()
        by_agents = (it for it in samples.values() if it.source is SampleSource.AGENT)
        read = {it.pod_uid for it in by_agents if it.age_ms(now_ms) <= LATE_MS}
        return {uid: error for uid, error in errors.items() if uid not in read}

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

    def _boards_by_pod(self) -> Mapping[PodName, tuple[NodeReading, list[BoardReading]]]:
        readings = tuple(self._agents.answers().values())
        if readings != self._seen:  # the same values as long as no agent has answered anew
            self._seen, self._boards = readings, {}
            for reading in readings:
                for board in reading.telemetry.devices:
                    for pod in pods_on(board):
                        self._boards.setdefault(pod, (reading, []))[1].append(board)
        return self._boards


def pods_on(board: BoardReading) -> list[PodName]:
    """The pods that hold a board, each once; none where the kubelet was never heard."""
    return sorted({(holder.namespace, holder.pod) for holder in board.holders or ()})


def _together(own: Sample | None, agent: Sample, now_ms: int) -> Sample:
    """What the replica and the agent of its node say together."""
    limit = agent.limit_milliwatts if agent.age_ms(now_ms) <= STALE_MS else None
    if own is None:
        return dataclasses.replace(agent, limit_milliwatts=limit)
    if own.source is not SampleSource.ENGINE and own.milliwatts is not None and own.age_ms(now_ms) <= LATE_MS:
        return dataclasses.replace(own, limit_milliwatts=limit)
    answers = own.source is SampleSource.ENGINE or own.milliwatts is None
    both = metered(own, agent) if answers else newest(own, agent)
    return dataclasses.replace(both, limit_milliwatts=limit)


def _sample(uid: str, reading: NodeReading, boards: Sequence[BoardReading]) -> Sample:
    shared = any(len(pods_on(board)) > 1 for board in boards)
    watts = [None if board.watts is None else board.watts / len(pods_on(board)) for board in boards]
    joules = [board.joules_total for board in boards]
    limits = [board.power_limit_watts for board in boards]
    ours = not shared and all(board.limit_origin is LimitOrigin.AGENT for board in boards)
    milliwatts = None if None in watts else sum(round(it * 1000) for it in watts if it is not None)
    return Sample(
        pod_uid=uid,
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
        limit_milliwatts=round(sum(it or 0.0 for it in limits) * 1000) if ours and None not in limits else None,
    )
