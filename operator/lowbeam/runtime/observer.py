"""Gathers what is seen of each object and hands it to the reporter: a slice of the fleet per tick, all of it in a few.

Decides what a status is about. Never decides about power or models.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Mapping
from datetime import datetime, timedelta
from itertools import chain
from typing import Any

from lowbeam.api.v1alpha1 import Engine, InferenceWorkload, WorkloadMode, reasons
from lowbeam.api.wire import CONTROL_PORT
from lowbeam.catalog import official_score
from lowbeam.catalog.engines import ENGINES
from lowbeam.kube import (
    ACCELERATOR_CLASSES,
    ENERGY_PROFILES,
    INFERENCE_WORKLOADS,
    MODEL_CARDS,
    POWER_CAPS,
    object_key,
)
from lowbeam.planning import Plan
from lowbeam.power.trust import LATE_MS, Reason
from lowbeam.render import labels
from lowbeam.render.engines.native import FIRST_BATCH_LIMIT
from lowbeam.runtime.clock import Clock
from lowbeam.runtime.demand import LoadWatch
from lowbeam.runtime.fleet import Fleet, WorkloadMemory
from lowbeam.runtime.meters import Books
from lowbeam.runtime.mirror import Mirror
from lowbeam.runtime.power_control import PowerControl
from lowbeam.runtime.replicas import Child, Replica, WorkloadKey
from lowbeam.runtime.reporter import Reporter, all_of
from lowbeam.runtime.status_workload import WorkloadFacts
from lowbeam.runtime.world import World
from lowbeam.sizing import Option
from lowbeam.telemetry import Sample, SampleProblem, Telemetry, WorkerEndpoint

FIRST_PLAN_MS = 60_000
"""How long statuses wait for a leader's first plan; the largest fleets take a part of it."""
SLICES = 5
"""Each tick reports a fifth of the steady workloads, so that watts in a status are at most 10 s old."""


class Observer:
    """Reports the fleet through one reporter, for one leader from its first moment on."""

    def __init__(self, reporter: Reporter, clock: Clock) -> None:
        self._reporter = reporter
        self._clock = clock
        self._began_ms = clock.monotonic_ms()
        self._tick = 0

    def has_heard(self, endpoints: Iterable[WorkerEndpoint], poller: Telemetry) -> bool:
        """Whether every worker has answered this leader, or failed to, or had the time for it.

        Before that its figures are worst cases: the statuses of its predecessor say more, and a plan or the guard would
        find room for less than runs.
        """
        if self._clock.monotonic_ms() - self._began_ms >= LATE_MS:
            return True
        samples, errors = poller.samples(), poller.errors()
        return all(it.pod_uid in errors or _is_heard(it, samples.get(it.pod_uid)) for it in endpoints)

    def misses_a_plan(self) -> bool:
        """Whether statuses go on without the first plan. They come after what it writes to Deployments: from these and
        older statuses a successor sees what was decided, from newer statuses alone it does not."""
        return self._clock.monotonic_ms() - self._began_ms >= FIRST_PLAN_MS

    async def report(
        self,
        world: World,
        fleet: Fleet,
        books: Books,
        *,
        loads: LoadWatch,
        last_plan: Plan | None,
        power: PowerControl,
        mirror: Mirror,
        poller: Telemetry,
    ) -> None:
        """One tick of statuses: caps always, workloads that are changing always, the steady ones by turns."""
        self._tick += 1
        unreadable = mirror.refused()
        writes = []
        # From the mirror, not from the world: a status written since the world was built must not be written again.
        workloads = {object_key(raw): raw for raw in mirror.informers[INFERENCE_WORKLOADS].objects()}
        for index, key in enumerate(sorted(world.raw_workloads)):
            raw = workloads.get(key, world.raw_workloads[key])
            memory = fleet.of(key)
            if (
                index % SLICES == self._tick % SLICES
                or unreadable
                or not _settled(raw, memory, world.replicas.get(key, []))
            ):
                facts = self._facts(world, key, memory, books, loads=loads, poller=poller, unreadable=unreadable)
                writes.append(self._reporter.workload(key, raw, facts, memory))
        caps = {raw["metadata"]["name"]: raw for raw in mirror.informers[POWER_CAPS].objects()}
        writes += [
            self._reporter.cap(caps[name], facts) for name, facts in power.facts(world, last_plan) if name in caps
        ]
        for name, problem in world.cap_problems.items():
            if name in caps:
                writes.append(self._reporter.invalid(POWER_CAPS, caps[name], reasons.INVALID_SPEC, str(problem)))
        if self._tick % SLICES == 0:
            writes += self._catalogue(world, mirror)
        self._reporter.forget(world.raw_workloads, caps)
        await all_of(writes)

    def _catalogue(self, world: World, mirror: Mirror) -> list[Coroutine[Any, Any, None]]:
        problems = {(p.kind, p.name): (p.reason.value, str(p)) for p in world.catalogue_problems}
        kinds = (
            ("ModelCard", MODEL_CARDS),
            ("AcceleratorClass", ACCELERATOR_CLASSES),
            ("EnergyProfile", ENERGY_PROFILES),
        )
        return [
            self._reporter.catalogue_object(kind, raw, problems.get((kind, raw["metadata"]["name"])))
            for kind, resource in kinds
            for raw in mirror.informers[resource].objects()
        ]

    def _facts(
        self,
        world: World,
        key: WorkloadKey,
        memory: WorkloadMemory,
        books: Books,
        *,
        loads: LoadWatch,
        poller: Telemetry,
        unreadable: str,
    ) -> WorkloadFacts:
        raw = world.raw_workloads[key]
        workload = world.workloads.get(key)
        replicas = [r for r in world.replicas.get(key, []) if not r.terminating]
        option = _option(memory)
        return WorkloadFacts(
            generation=raw["metadata"].get("generation", 0),
            advise=workload is not None and workload.spec.mode is WorkloadMode.ADVISE,
            refusal=world.refusals.get(key),
            unreadable=unreadable,
            pods=len(replicas),
            ready=sum(r.ready for r in replicas),
            trouble=_trouble(replicas, world.children.get(key, [])),
            selector=f"{labels.WORKLOAD}={labels.label_value(key[1])}",
            measured_milliwatts=books.drawn_milliwatts.get(key),
            committed_milliwatts=books.committed_milliwatts.get(key, 0),
            telemetry_problem=_why_not_measured(replicas, books, poller) if replicas else "nothing runs",
            notes=world.requirements[key].notes if key in world.requirements else (),
            load=loads.facts(key, option, self._clock.monotonic_ms()),
            asked_again=self._asked_again(memory),
            stars=None if option is None or workload is None else option.rating(workload.spec.task),
            official_stars=None if option is None or workload is None else _official_stars(world, workload, option),
        )

    def _asked_again(self, memory: WorkloadMemory) -> datetime | None:
        if memory.held is None:
            return None
        return self._clock.now() + timedelta(milliseconds=memory.held.retry_at_ms - self._clock.monotonic_ms())


def _is_heard(endpoint: WorkerEndpoint, sample: Sample | None) -> bool:
    """Whether the pod itself has answered: a node agent knows its watts before, and not its batch limit."""
    return sample is not None and (sample.profile is not None or endpoint.engine is not Engine.NATIVE)


def _trouble(replicas: Iterable[Replica], children: Iterable[Child]) -> str:
    """The first thing that a pod says about itself, else why a Deployment gets none."""
    of_pods = (f"pod {it.name} {it.trouble}" for it in replicas if it.trouble)
    of_children = (f"deployment {it.name} cannot make its pods: {it.trouble}" for it in children if it.trouble)
    return next(chain(of_pods, of_children), "")


def _settled(raw: Mapping[str, Any], memory: WorkloadMemory, replicas: Iterable[Replica]) -> bool:
    """Whether the status as written says that nothing is going on, and knows the present spec, decision and pods."""
    status, metadata = raw.get("status", {}), raw["metadata"]
    told = next((entry["decisionId"] for entry in status.get("history", ())), None)
    if memory.history and told != memory.history[0].decision_id:
        return False
    if status.get("readyReplicas", 0) != sum(replica.ready and not replica.terminating for replica in replicas):
        return False
    conditions = {c["type"]: c["status"] for c in status.get("conditions", ())}
    current = bool(status.get("observedGeneration") == metadata.get("generation"))
    return current and conditions.get(reasons.READY) == "True" and conditions.get(reasons.RECONCILING) == "False"


def _official_stars(world: World, workload: InferenceWorkload, option: Option) -> int | None:
    model = world.catalogue.models.get(option.model)
    score = None if model is None else official_score(model, workload.spec.task, option.reasoning)
    return None if score is None else score.published_stars


def _option(memory: WorkloadMemory) -> Option | None:
    if memory.target is not None:
        return memory.target.option
    return memory.choice.option if memory.choice else None


def _why_not_measured(replicas: Iterable[Replica], books: Books, poller: Telemetry) -> str:
    for replica in replicas:
        uid = replica.uid
        if (error := poller.errors().get(uid)) is not None:
            return error.message + (_never_reached(replica, poller) if error.problem in _NO_ANSWER else "")
        verdict = books.verdicts.get(uid)
        if verdict is None:
            continue
        if not verdict.metered:
            return _without_meter(replica)
        if verdict.reason is Reason.MISSING and replica.engine is not Engine.NATIVE:
            return f"{ENGINES[replica.engine].title} has not answered GET /metrics yet"
        if not verdict.trusted:
            return verdict.message
    return "no replica has answered yet"


_NO_ANSWER = (SampleProblem.UNREACHABLE, SampleProblem.TIMEOUT)


def _never_reached(replica: Replica, poller: Telemetry) -> str:
    """What a control port that never answered costs beside the measurement, and what to do; of ready pods only."""
    if replica.engine is not Engine.NATIVE or not replica.ready or replica.uid in poller.samples():
        return ""
    return (
        f"; the operator cannot raise its batch limit either, which begins at {FIRST_BATCH_LIMIT}: let it reach port "
        f"{CONTROL_PORT} of the pods (docs/operations.md)"
    )


def _without_meter(replica: Replica) -> str:
    if replica.engine is Engine.NATIVE:
        return "the worker has no power meter; the cap counts its worst case"
    return (
        f"{ENGINES[replica.engine].title} exports no watts and nobody else told them of this pod: set agent.enabled "
        "or prometheus.url in the chart (docs/engines.md); until then the cap counts its worst case"
    )
