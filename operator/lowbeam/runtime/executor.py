"""Carries decisions out: Deployments, Services and hot batch changes, each written only where it differs.

Power limits of boards are set by `board_limits`; a batch limit rises only on boards that have theirs.

Decides nothing about power. Level-triggered and idempotent: it compares what is decided with what exists and writes the
next step; after a crash between any two writes the next pass goes on from what it finds.

Invariants: nothing is deleted without the uid that was seen; in steady state nothing is written; a failed write of one
workload never stops the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from lowbeam.api.v1alpha1 import Engine
from lowbeam.api.wire import CONTROL_PORT, SERVING_PORT, ProfileChange, RunningProfile, WorkerState
from lowbeam.kube import DEPLOYMENTS, SERVICES, Applier, KubeError
from lowbeam.planning.committed import Target
from lowbeam.planning.roll import Roll
from lowbeam.render import ModelTraits, Placement, RenderSettings, control_token, deployment, deployment_name, service
from lowbeam.runtime.board_limits import BoardLimits, limit_is_pending
from lowbeam.runtime.children import ROLLOUT, next_step
from lowbeam.runtime.fleet import Fleet
from lowbeam.runtime.replicas import Replica, WorkloadKey, child_of, unmade
from lowbeam.runtime.settings import OperatorSettings
from lowbeam.runtime.world import World
from lowbeam.sizing import Option
from lowbeam.telemetry import Sample, SampleError, Telemetry, WorkerEndpoint

log = structlog.get_logger("lowbeam.executor")

BOARD_LIMITS = "the power limit of its boards"
CONTROL_PORT_OF = f"port {CONTROL_PORT} of pod"
MOVE_TO_ITS_NODES = "room on the nodes of its pool, or a move to the pool that its nodes are in now"


@dataclass(slots=True)
class Outcome:
    """What a pass over one workload left open."""

    waiting_for: str = ""
    error: KubeError | None = None

    @property
    def through(self) -> bool:
        """False: to be tried again, also when nothing wakes it. Nodes may come back to their pool without a word."""
        return self.error is None and self.waiting_for != MOVE_TO_ITS_NODES


class Executor:
    """Writes children of workloads and talks to the workers' control ports."""

    def __init__(
        self, applier: Applier, poller: Telemetry, settings: OperatorSettings, board_limits: BoardLimits
    ) -> None:
        self._applier = applier
        self._board_limits = board_limits
        self._poller = poller
        self._settings = settings
        self._tokens: dict[str, str] = {}
        """Pod uid -> what its worker was started with: its workload may be gone while it drains, or another object."""
        self._asked: dict[str, tuple[int, int]] = {}
        """Pod uid -> (batch limit, time of the sample that asked for it): asked once per sample, then it must show."""
        self._render = RenderSettings(
            worker_image=settings.worker_image,
            engine_images=settings.engine_images(),
            cpu_engine_images=settings.cpu_engine_images(),
            image_pull_policy=settings.image_pull_policy,
            control_key=settings.control_key,
        )

    async def carry_out(
        self, world: World, key: WorkloadKey, target: Target, samples: Mapping[str, Sample], *, may_rise: bool = True
    ) -> Outcome:
        """One pass over one workload; without `may_rise` no batch limit that runs is raised."""
        outcome = Outcome()
        # Watts are freed before anything waits for the API server; more are taken only after replicas were written.
        refused = await self._set_batch_limits(world, key, target.option, samples, lower=True)
        if target.option is not None and target.option.engine != world.requirements[key].engine:
            # Image and arguments in the spec are for another engine than the one that was decided on.
            outcome.waiting_for = "a plan for the engine that spec.engine names now"
            return outcome
        try:
            await self._write_service(world, key)
            outcome.waiting_for = await self._write_deployments(world, key, target)
        except KubeError as error:
            outcome.error = error
            return outcome
        if target.option is not None and self._surplus(world, key, target.option):
            outcome.waiting_for = outcome.waiting_for or "surplus replicas to end before the batch limit may rise"
            return outcome
        if may_rise:
            refused += await self._set_batch_limits(world, key, target.option, samples, lower=False)
        elif target.option is not None and self._pending(world, key, target.option, samples):
            outcome.waiting_for = outcome.waiting_for or "fresh readings before the batch limit may rise"
        if refused and not outcome.waiting_for:
            outcome.waiting_for = f"a batch limit to be taken: {refused[0]}"
        if target.option is not None and (mute := self._mute(world, key, target.option, samples)):
            outcome.waiting_for = outcome.waiting_for or f"{CONTROL_PORT_OF} {mute.name} to answer (docs/operations.md)"
        if target.option is not None and (unset := self._limits_pending(world, key, target.option, samples)):
            reason = next(filter(None, (self._board_limits.problem(replica.node) for replica in unset)), "")
            outcome.waiting_for = outcome.waiting_for or BOARD_LIMITS + (f": {reason}" if reason else "")
        return outcome

    def endpoints(self, world: World) -> list[WorkerEndpoint]:
        """Where the replicas that have an address tell of themselves: a control port, or an engine's metrics."""
        alive = {replica.uid for replicas in world.replicas.values() for replica in replicas}
        self._asked = {uid: asked for uid, asked in self._asked.items() if uid in alive}
        self._tokens = {uid: token for uid, token in self._tokens.items() if uid in alive}
        return [
            self._endpoint(world, key, replica)
            for key, replicas in world.replicas.items()
            for replica in replicas
            if replica.ip
        ]

    def unconfirmed(self, world: World, fleet: Fleet, samples: Mapping[str, Sample]) -> list[WorkloadKey]:
        """Workloads with a replica whose batch limit, or whose boards' power limit, is not the decided one."""
        return [
            key
            for key, option in fleet.options().items()
            if option
            and (
                self._pending(world, key, option, samples)
                or self._limits_pending(world, key, option, samples)
                or fleet.of(key).waiting_for.startswith((BOARD_LIMITS, CONTROL_PORT_OF))
            )
        ]

    def _endpoint(self, world: World, key: WorkloadKey, replica: Replica) -> WorkerEndpoint:
        if replica.engine is not Engine.NATIVE:
            url = f"http://{replica.host}:{SERVING_PORT}"
            return WorkerEndpoint(replica.uid, key[0], replica.name, url, engine=replica.engine, node=replica.node)
        url, token = f"http://{replica.host}:{CONTROL_PORT}", None
        if self._settings.control_key:
            token = self._tokens.get(replica.uid)
            if token is None and (workload := world.raw_workloads.get(key)) is not None:
                token = control_token(self._settings.control_key, workload["metadata"]["uid"])
                self._tokens[replica.uid] = token
        return WorkerEndpoint(replica.uid, key[0], replica.name, url, token, node=replica.node)

    def _pending(
        self, world: World, key: WorkloadKey, option: Option, samples: Mapping[str, Sample]
    ) -> list[tuple[Replica, Sample, RunningProfile]]:
        digest = Placement.of(option).digest(key[1])
        return [
            (replica, sample, sample.profile)
            for replica in world.replicas.get(key, [])
            if replica.placement_digest == digest
            and not replica.terminating
            and (sample := samples.get(replica.uid)) is not None
            and sample.profile is not None
            and sample.state is not WorkerState.LOADING
            and sample.profile.batch_limit != option.batch_limit
            and self._asked.get(replica.uid) != (option.batch_limit, sample.received_at_ms)
        ]

    def _limits_pending(
        self, world: World, key: WorkloadKey, option: Option, samples: Mapping[str, Sample]
    ) -> list[Replica]:
        digest = Placement.of(option).digest(key[1])
        return [
            replica
            for replica in world.replicas.get(key, ())
            if replica.placement_digest == digest
            and replica.started
            and not replica.terminating
            and limit_is_pending(option, replica, samples.get(replica.uid))
        ]

    def _mute(self, world: World, key: WorkloadKey, option: Option, samples: Mapping[str, Sample]) -> Replica | None:
        """A worker that serves and has never said how: others know its watts, and nobody can raise its batch limit."""
        digest = Placement.of(option).digest(key[1])
        for replica in world.replicas.get(key, ()):
            sample = samples.get(replica.uid)
            here = replica.placement_digest == digest and replica.engine is Engine.NATIVE and not replica.terminating
            if here and replica.ready and sample is not None and sample.profile is None:
                return replica
        return None

    def may_draw_more(self, world: World, key: WorkloadKey, option: Option, samples: Mapping[str, Sample]) -> bool:
        """Whether the boards of a workload may get a higher power limit: there are no more pods than decided, and none
        that runs, or might run, a larger batch."""
        digest = Placement.of(option).digest(key[1])
        for replica in world.replicas.get(key, ()):
            if replica.placement_digest == digest and replica.engine is Engine.NATIVE and replica.started:
                sample = samples.get(replica.uid)
                if sample is None or sample.profile is None or sample.profile.batch_limit > option.batch_limit:
                    return False
        return not self._surplus(world, key, option)

    def _surplus(self, world: World, key: WorkloadKey, option: Option) -> bool:
        """Whether more pods of the option exist than were decided, or are made again: until they are gone they would
        draw the more too."""
        digest = Placement.of(option).digest(key[1])
        there = [it for it in world.replicas.get(key, []) if it.placement_digest == digest]
        mine = [child for child in world.children.get(key, []) if child.placement_digest == digest]
        return len(there) + len(unmade(mine, there)) > option.replicas

    async def _write_service(self, world: World, key: WorkloadKey) -> None:
        desired = service(world.workloads[key])
        live = world.services.get(key)
        await self._applier.apply(SERVICES, desired, dict(live) if live else None)

    async def _write_deployments(self, world: World, key: WorkloadKey, target: Target) -> str:
        option, children = target.option, world.children.get(key, [])
        name = deployment_name(key[1], Placement.of(option)) if option else None
        step = next_step(
            name,
            option.replicas if option else 0,
            children,
            world.replicas.get(key, []),
            order=target.order,
            roll=target.roll,
        )
        for child in step.delete:
            if await self._applier.delete(DEPLOYMENTS, dict(child.raw)):
                log.info("deleted", workload="/".join(key), deployment=child.name)
        for child, replicas in step.shrink:
            if await self._applier.scale(DEPLOYMENTS, dict(child.raw), replicas):
                log.info("shrunk", workload="/".join(key), deployment=child.name, replicas=replicas)
        if option is not None and step.apply_replicas is not None:
            live = next((child for child in children if child.name == name), None)
            nowhere = live is not None and not world.has_place(key, option)
            if live is not None and nowhere and step.apply_replicas >= live.replicas:
                return MOVE_TO_ITS_NODES  # a template for nodes that there are not would end the pods that serve
            desired = self.manifest(world, key, option, step.apply_replicas, target.roll)
            if live is not None and nowhere:  # watts are freed all the same; the pods that stay fit where they stand
                desired["spec"]["template"]["spec"]["affinity"] = live.raw["spec"]["template"]["spec"]["affinity"]
            written = await self._applier.apply(DEPLOYMENTS, desired, dict(live.raw) if live else None)
            if written is not None:
                log.info("applied", workload="/".join(key), deployment=name, replicas=step.apply_replicas)
                if not child_of(written).rolled_out:
                    return step.waiting_for or ROLLOUT
        return step.waiting_for

    def manifest(
        self, world: World, key: WorkloadKey, option: Option, replicas: int, roll: Roll | None = None
    ) -> dict[str, Any]:
        """The Deployment of an option; `roll`: of a replacement share by share."""
        workload = world.workloads[key]
        model = world.catalogue.models[option.model]
        weights = next(
            (v.weights_mib for v in model.variants if v.key == (option.model, option.precision, option.reasoning)), 0
        )
        path = model.path_for(option.precision)
        wider = any(v.precision != "fp8" and model.path_for(v.precision) == path for v in model.variants)
        traits = ModelTraits(
            context_tokens=model.context_tokens,
            reasoning_control=model.reasoning_control,
            quantises=option.precision == "fp8" and wider and not workload.spec.pod.model_path,
        )
        return deployment(
            workload,
            option,
            model_path=path,
            weights_mib=weights,
            replicas=replicas,
            accelerator=world.catalogue.accelerator_classes[option.accelerator_class],
            pool_selector=world.pool_selectors.get(option.pool, {}),
            other_pools=world.kept_out.get(option.pool, ()),
            settings=self._render,
            traits=traits,
            roll=roll,
        )

    async def _set_batch_limits(
        self, world: World, key: WorkloadKey, option: Option | None, samples: Mapping[str, Sample], *, lower: bool
    ) -> list[str]:
        """PATCH every replica of the option whose running batch limit has to fall (`lower`) or to rise; what the
        refusing ones say."""
        if option is None:
            return []
        pending = []
        for replica, sample, running in self._pending(world, key, option, samples):
            bare = option.board_limit_watts and limit_is_pending(option, replica, sample)
            if (running.batch_limit > option.batch_limit) is lower and (lower or not bare):
                self._asked[replica.uid] = (option.batch_limit, sample.received_at_ms)
                pending.append((replica, running))
        answers = await asyncio.gather(
            *(
                self._set_batch_limit(world, key, replica, running=running, batch_limit=option.batch_limit)
                for replica, running in pending
            )
        )
        return [answer for answer in answers if answer]

    async def _set_batch_limit(
        self, world: World, key: WorkloadKey, replica: Replica, *, running: RunningProfile, batch_limit: int
    ) -> str:
        change = ProfileChange(generation=running.generation + 1, batch_limit=batch_limit)
        answer = await self._poller.change_profile(self._endpoint(world, key, replica), change)
        if isinstance(answer, SampleError):
            log.warning("batch limit not taken", workload="/".join(key), pod=replica.name, error=answer.message)
            return answer.message
        log.info("batch limit", workload="/".join(key), pod=replica.name, before=running.batch_limit, now=batch_limit)
        return ""
