"""Says what is: statuses of workloads, caps and catalogue objects, Events, metrics. Writes only what differs.

Decides what is worth an Event: a decision, once. Never decides anything about power or models.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Coroutine, Iterable, Mapping
from typing import Any

import structlog

from lowbeam.api.v1alpha1 import reasons
from lowbeam.kube import (
    ACCELERATOR_CLASSES,
    ENERGY_PROFILES,
    INFERENCE_WORKLOADS,
    MODEL_CARDS,
    POWER_CAPS,
    Applier,
    EventRecorder,
    Forbidden,
    KubeError,
    Resource,
)
from lowbeam.kube.events import EventType
from lowbeam.planning import Plan
from lowbeam.runtime import metrics
from lowbeam.runtime.clock import Clock
from lowbeam.runtime.condition_rows import as_conditions
from lowbeam.runtime.fleet import Fleet, WorkloadMemory
from lowbeam.runtime.replicas import WorkloadKey
from lowbeam.runtime.status_cap import CapFacts, cap_status, cuts_told
from lowbeam.runtime.status_workload import WorkloadFacts, workload_status

log = structlog.get_logger("lowbeam.reporter")


class Reporter:
    """Writes statuses and Events of one operator."""

    def __init__(self, applier: Applier, recorder: EventRecorder, clock: Clock) -> None:
        self._applier = applier
        self._recorder = recorder
        self._clock = clock
        self._unwritten: dict[str, str] = {}
        """Object uid -> why its status could not be written, so that it is said once."""
        self._shown_workloads: set[WorkloadKey] = set()
        self._shown_caps: set[str] = set()

    async def workload(
        self, key: WorkloadKey, raw: Mapping[str, Any], facts: WorkloadFacts, memory: WorkloadMemory
    ) -> None:
        """Status and metrics of one workload."""
        status = workload_status(facts, memory, raw.get("status", {}), self._clock.now())
        self._say_troubles(INFERENCE_WORKLOADS, raw, raw.get("status", {}), status)
        metrics.workload_committed_watts.labels(*key).set(facts.committed_milliwatts / 1000)
        metrics.workload_measured_watts.labels(*key).set(
            float("nan") if facts.measured_milliwatts is None else facts.measured_milliwatts / 1000
        )
        metrics.workload_dimmed.labels(*key).set(memory.dimming is not None)
        if facts.load is not None:
            metrics.workload_demand.labels(*key).set(facts.load.demand.requests_per_second_milli / 1000)
        await self._write(INFERENCE_WORKLOADS, raw, status)

    def ineffective(self, raw: Mapping[str, Any], message: str) -> None:
        """A move that did not give the watts that it should have."""
        self._event(INFERENCE_WORKLOADS, raw, "Warning", reasons.ACTUATION_INEFFECTIVE, message)

    def forget(self, workloads: Collection[WorkloadKey], caps: Collection[str]) -> None:
        """Drop the series of workloads and caps that are not there any more."""
        for gone in self._shown_workloads - set(workloads):
            for gauge in metrics.OF_WORKLOADS:
                with contextlib.suppress(KeyError):
                    gauge.remove(*gone)
        for cap in self._shown_caps - set(caps):
            for gauge in metrics.OF_CAPS:
                with contextlib.suppress(KeyError):
                    gauge.remove(cap)
        self._shown_workloads, self._shown_caps = set(workloads), set(caps)

    async def cap(self, raw: Mapping[str, Any], facts: CapFacts) -> None:
        """Status and metrics of one cap."""
        name = raw["metadata"]["name"]
        status = cap_status(facts, raw.get("status", {}), self._clock.now())
        self._say_troubles(POWER_CAPS, raw, raw.get("status", {}), status)
        for cut_reason, text in cuts_told(facts, raw.get("status", {})):
            log.info(text, cap=name, reason=cut_reason)
            self._event(POWER_CAPS, raw, "Normal", cut_reason, text)
        metrics.cap_usable_watts.labels(name).set(facts.usable_milliwatts / 1000)
        metrics.cap_measured_watts.labels(name).set(facts.measured_milliwatts / 1000)
        metrics.cap_committed_watts.labels(name).set(facts.committed_milliwatts / 1000)
        metrics.cap_coverage_ratio.labels(name).set(facts.coverage_percent / 100)
        metrics.cap_enforced.labels(name).set(facts.enforced and facts.kept)
        await self._write(POWER_CAPS, raw, status)

    async def invalid(self, resource: Resource, raw: Mapping[str, Any], reason: str, message: str) -> None:
        """An object that could not be used: Ready False with the reason."""
        await self._ready(resource, raw, False, reason, message)

    async def catalogue_object(self, kind: str, raw: Mapping[str, Any], problem: tuple[str, str] | None) -> None:
        """A ModelCard, AcceleratorClass or EnergyProfile: in the catalogue, or why not."""
        resource = {
            "ModelCard": MODEL_CARDS,
            "AcceleratorClass": ACCELERATOR_CLASSES,
            "EnergyProfile": ENERGY_PROFILES,
        }[kind]
        reason, message = problem or (reasons.IN_CATALOGUE, "")
        await self._ready(resource, raw, problem is None, reason, message)

    def planned(
        self,
        plan: Plan,
        raw_workloads: Mapping[WorkloadKey, Mapping[str, Any]],
        fleet: Fleet,
        keys: Iterable[WorkloadKey],
    ) -> None:
        """How sure a plan is, as metrics and in the log where the search turned on the spot; and what it decided."""
        metrics.plans.labels(str(plan.proven)).inc()
        metrics.passes_given_up.inc(plan.passes_given_up)
        if plan.passes_given_up:
            log.warning(
                "passes of the optimiser were given up, the plan is the best found", passes=plan.passes_given_up
            )
        self.decided(raw_workloads, fleet, keys)

    def decided(
        self, raw_workloads: Mapping[WorkloadKey, Mapping[str, Any]], fleet: Fleet, keys: Iterable[WorkloadKey]
    ) -> None:
        """What was decided about these workloads: a line of the log, a metric and an Event for each."""
        for key in sorted(keys):
            decision = fleet.of(key).decision
            if decision is None or key not in raw_workloads:
                continue
            named = {"workload": "/".join(key), "decision": decision.decision_id}
            log.info("decided", action=decision.action, why=decision.message, **named)
            metrics.decisions.labels(decision.action).inc()
            kind: EventType = "Warning" if decision.action == reasons.PAUSED else "Normal"
            note = f"{decision.message} [{decision.decision_id}]"
            self._event(INFERENCE_WORKLOADS, raw_workloads[key], kind, decision.action, note)

    async def _ready(self, resource: Resource, raw: Mapping[str, Any], holds: bool, reason: str, message: str) -> None:
        generation = raw["metadata"].get("generation", 0)
        rows = [(reasons.READY, holds, reason, message), (reasons.STALLED, not holds, reason, message)]
        previous = raw.get("status", {}).get("conditions", ())
        status = {
            "observedGeneration": generation,
            "conditions": as_conditions(previous, rows, generation, self._clock.now()),
        }
        self._say_troubles(resource, raw, raw.get("status", {}), status)
        await self._write(resource, raw, status)

    def _say_troubles(
        self, resource: Resource, raw: Mapping[str, Any], old: Mapping[str, Any], new: Mapping[str, Any]
    ) -> None:
        """An Event for each abnormal condition that is new or has another reason; a pause was said as a decision."""
        before = {c["type"]: (c["status"], c["reason"]) for c in old.get("conditions", ())}
        for condition in new["conditions"]:
            now = (condition["status"], condition["reason"])
            abnormal = condition["status"] == _ABNORMAL.get(condition["type"])
            if abnormal and before.get(condition["type"]) != now and condition["reason"] != reasons.PAUSED:
                self._event(resource, raw, "Warning", condition["reason"], condition["message"])

    def _event(self, resource: Resource, raw: Mapping[str, Any], kind: EventType, reason: str, message: str) -> None:
        self._recorder.record(resource, raw, kind, reason=reason, action=_ACTIONS.get(reason, "Decide"), note=message)

    async def _write(self, resource: Resource, raw: Mapping[str, Any], status: Mapping[str, Any]) -> None:
        uid, text = raw["metadata"]["uid"], ""
        try:
            await self._applier.apply_status(resource, dict(raw), status)
        except KubeError as error:
            text = str(error)
            if isinstance(error, Forbidden):  # no status can say it
                self._event(resource, raw, "Warning", reasons.PERMISSION_DENIED, text)
            if self._unwritten.get(uid) != text:
                log.warning("status not written", resource=resource.plural, name=raw["metadata"]["name"], error=text)
        if text:
            self._unwritten[uid] = text
        else:
            self._unwritten.pop(uid, None)


_ACTIONS = {
    reasons.DIMMED: "Dim",
    reasons.PAUSED: "Dim",
    reasons.RESTORED: "Restore",
    reasons.WRITE_REFUSED: "Write",
    reasons.PERMISSION_DENIED: "Write",
}
_ABNORMAL = {
    reasons.STALLED: "True",
    reasons.SATISFIABLE_CONDITION: "False",
    reasons.TELEMETRY_HEALTHY_CONDITION: "False",
    reasons.PROFILE_CONTRADICTED_CONDITION: "True",
}
"""Conditions that are worth an Event, and in which state."""


STATUS_WRITERS = 8
"""Half of the transport's places: what dims a workload must not wait behind the statuses of a whole fleet."""


async def all_of(writes: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Await writes together, so many at a time; each has reported its own trouble."""
    places = asyncio.Semaphore(STATUS_WRITERS)

    async def one(write: Coroutine[Any, Any, None]) -> None:
        try:
            async with places:
                await write
        finally:
            write.close()  # one that was cancelled before its turn

    await asyncio.gather(*(one(write) for write in writes))
