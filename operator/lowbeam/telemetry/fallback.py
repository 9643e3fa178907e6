"""Replicas first, Prometheus for what they cannot say: watts of other engines, and all of a pod that is silent.

Decides whose reading counts: a worker's own says more, so it wins as long as it is the newer one. Prometheus is asked
about a pod from the age on at which the guard holds its reading for late, so that its answer is there when the reading
is stale. An engine that is not ours counts its requests itself and knows no watts: these come from Prometheus. An
answer of neither stays unknown.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Protocol

import structlog

from lowbeam.api.wire import MeterMethod, MeterScope, ProfileChange, ProfileChangeResult
from lowbeam.power.trust import LATE_MS
from lowbeam.telemetry.control_client import WorkerEndpoint
from lowbeam.telemetry.prometheus_source import PodLoad, PrometheusSource, PrometheusUnavailable
from lowbeam.telemetry.samples import Sample, SampleError, SampleSource

log = structlog.get_logger(__name__)


class Telemetry(Protocol):
    """What the loops need: readings by pod uid, and the way to a worker's profile."""

    def set_endpoints(self, endpoints: Iterable[WorkerEndpoint]) -> None:
        """Ask exactly these from now on."""

    def samples(self) -> Mapping[str, Sample]:
        """Last good sample of each pod; check its age."""

    def errors(self) -> Mapping[str, SampleError]:
        """Pods whose last attempt failed, and why."""

    async def change_profile(
        self, endpoint: WorkerEndpoint, change: ProfileChange
    ) -> ProfileChangeResult | SampleError:
        """Change what a worker runs."""

    async def run(self) -> None:
        """Keep the readings new until cancelled."""


class PrometheusFallback:
    """A `Telemetry` over another one, with Prometheus for the pods that it cannot read."""

    def __init__(
        self,
        workers: Telemetry,
        prometheus: PrometheusSource,
        *,
        monotonic_ms: Callable[[], int],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        period_seconds: float = 5.0,
    ) -> None:
        self._workers = workers
        self._prometheus = prometheus
        self._monotonic_ms = monotonic_ms
        self._sleep = sleep
        self._period_seconds = period_seconds
        self._endpoints: dict[str, WorkerEndpoint] = {}
        self._found: dict[str, Sample | SampleError] = {}
        self._said = ""

    def set_endpoints(self, endpoints: Iterable[WorkerEndpoint]) -> None:
        """See `Telemetry`."""
        self._endpoints = {endpoint.pod_uid: endpoint for endpoint in endpoints}
        self._workers.set_endpoints(self._endpoints.values())

    def samples(self) -> Mapping[str, Sample]:
        """See `Telemetry`."""
        found = {uid: it for uid, it in self._found.items() if uid in self._endpoints}
        read = {uid: it for uid, it in found.items() if isinstance(it, Sample)}
        for uid, own in self._workers.samples().items():
            other = found.get(uid)
            if isinstance(other, Sample):
                read[uid] = newest(own, other)
            elif other is None or own.source is not SampleSource.ENGINE:
                read[uid] = own
        return read

    def errors(self) -> Mapping[str, SampleError]:
        """Of the pods that neither could read."""
        found = {uid: it for uid, it in self._found.items() if isinstance(it, SampleError)}
        read = self.samples()
        return {uid: error for uid, error in {**self._workers.errors(), **found}.items() if uid not in read}

    async def change_profile(
        self, endpoint: WorkerEndpoint, change: ProfileChange
    ) -> ProfileChangeResult | SampleError:
        """See `Telemetry`."""
        return await self._workers.change_profile(endpoint, change)

    async def run(self) -> None:
        """See `Telemetry`."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._workers.run())
            group.create_task(self._ask_prometheus())

    async def ask_once(self) -> None:
        """One question about the pods that say nothing themselves, or nothing of their watts."""
        samples = self._workers.samples()
        now_ms = self._monotonic_ms()
        heard = {uid for uid, sample in samples.items() if sample.age_ms(now_ms) <= LATE_MS}
        silent = self._endpoints.keys() - heard
        unmetered = {uid for uid, sample in samples.items() if sample.source is SampleSource.ENGINE}
        pods = {(e.namespace, e.pod): uid for uid, e in self._endpoints.items() if uid in silent | unmetered}
        if not pods:
            self._found = {}
            return
        power = await self._prometheus.pod_power(pods)
        quiet = {pod: uid for pod, uid in pods.items() if uid in silent}
        load = await self._prometheus.pod_load(quiet) if quiet else {}
        found: dict[str, Sample | SampleError] = dict(power)
        for uid, it in load.items():
            reading = power.get(uid)
            if not isinstance(reading, SampleError):
                found[uid] = _with_load(reading or _without_meter(uid, it), it)
        self._found = found

    async def _ask_prometheus(self) -> None:
        while True:
            try:
                await self.ask_once()
                self._said = ""
            except PrometheusUnavailable as error:  # the samples that are there age by themselves
                if str(error) != self._said:
                    log.warning("no readings from Prometheus", error=str(error))
                self._said = str(error)
            await self._sleep(self._period_seconds)


def _without_meter(uid: str, load: PodLoad) -> Sample:
    """A pod whose engine is scraped and whose boards are not: it answers, and its watts are unknown."""
    return Sample(
        pod_uid=uid,
        source=SampleSource.PROMETHEUS,
        sampled_at_ms=load.at_ms,
        received_at_ms=load.at_ms,
        milliwatts=None,
        method=MeterMethod.UNAVAILABLE,
        scope=MeterScope.NONE,
    )


def newest(own: Sample, other: Sample) -> Sample:
    """What the replica and Prometheus say together.

    Profile and state are what the worker last said, when it did: nobody else knows them, and a change of its profile is
    tried once per answer.
    """
    if own.source is not SampleSource.ENGINE and own.sampled_at_ms >= other.sampled_at_ms:
        return own
    counts_are_newer = other.counted_at_ms is not None and other.counted_at_ms > _counted_at_ms(own)
    if (own.source is SampleSource.ENGINE or _lost_its_meter(own)) and not counts_are_newer:
        return metered(own, other)
    return dataclasses.replace(other, profile=own.profile, state=own.state, received_at_ms=own.received_at_ms)


def _lost_its_meter(own: Sample) -> bool:
    """Whether it went on answering when its meter could no longer be read."""
    return _counted_at_ms(own) - own.sampled_at_ms > LATE_MS


def _counted_at_ms(sample: Sample) -> int:
    return sample.sampled_at_ms if sample.counted_at_ms is None else sample.counted_at_ms


def _with_load(sample: Sample, load: PodLoad) -> Sample:
    counts = load.counts
    return dataclasses.replace(
        sample,
        requests_running=counts.running,
        requests_waiting=counts.waiting,
        requests_received_total=counts.accepted,
        requests_completed_total=counts.completed,
        counted_at_ms=load.at_ms,
        counted_by=SampleSource.ENGINE,
        input_tokens_total=counts.input_tokens,
        output_tokens_total=counts.output_tokens,
    )


def metered(sample: Sample, power: Sample) -> Sample:
    """What a replica counts, with the watts that somebody else measured, at the time when they were."""
    return dataclasses.replace(
        sample,
        source=power.source,
        sampled_at_ms=power.sampled_at_ms,
        milliwatts=power.milliwatts,
        method=power.method,
        scope=power.scope,
        joules_total=power.joules_total,
        devices=power.devices,
        counted_at_ms=_counted_at_ms(sample),
        counted_by=sample.counted_by or sample.source,
    )
