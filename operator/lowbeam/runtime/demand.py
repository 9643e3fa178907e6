"""Observed load and draw of every workload: telemetry samples in, what sizing is told instead of the declared load out.

Decides which samples belong together and when a workload is looked at. What is concluded from them is decided in
`sizing.demand`, `sizing.demand_windows` and `sizing.measured_power`.

Invariants: only replicas that are ready count, and only samples that are fresh; only boards that a worker has to itself
speak about a profile; a new leader goes on with what the status says, so that a restart neither forgets the load nor
trusts it for longer than a cold start.

Why the status: it is there without Prometheus, it costs no write that is not made anyway, and the figures in use are
all that is worth keeping: the windows behind them are full again within the hour.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from lowbeam.api.v1alpha1.provenance import LoadBasis
from lowbeam.api.wire import MeterScope, WorkerState
from lowbeam.catalog.facts import Catalogue, EnergyProfile, Reasoning
from lowbeam.power.trust import Quality, Verdict
from lowbeam.render import Placement
from lowbeam.runtime.fleet import Fleet
from lowbeam.runtime.meters import profile_of
from lowbeam.runtime.replicas import Replica, WorkloadKey
from lowbeam.runtime.world import Observation, Raw, World
from lowbeam.sizing import Demand, Option
from lowbeam.sizing.correction import Correction, ProfileKey, digest_of, key_of
from lowbeam.sizing.demand import LoadState, bounded, first_state, in_gap, learn, redeclare, surge
from lowbeam.sizing.demand_windows import LONGEST_MS, Interval, OpenWindow, Reading, close, look, surged
from lowbeam.sizing.measured_power import Comparison, Judgement, PowerCurve, power_curve, vote
from lowbeam.sizing.requirements import declared_demand
from lowbeam.telemetry import Sample

LOOKS = 60
"""Looks per window: often enough to see bursts, seldom enough to cost nothing."""
MOST_JUDGEMENTS = 8
"""Profiles of one workload that are remembered: it hardly ever runs more of them in a life."""


@dataclass(frozen=True, slots=True)
class LoadFacts:
    """What the status of a workload says about its load and its profile."""

    demand: Demand
    gap: bool
    """The figures are observed, and nothing new was observed for several windows."""
    judgements: tuple[Judgement, ...]
    running: Judgement | None
    """Of the profile in use; None while nothing was compared."""


@dataclass(frozen=True, slots=True)
class _Subject:
    """The profile that the replicas are compared with. Found anew only when one of the first three changes."""

    catalogue: Catalogue
    placement: Placement
    lengths: tuple[int, int]
    profile: EnergyProfile | None
    curve: PowerCurve | None

    def is_still(self, catalogue: Catalogue, placement: Placement, lengths: tuple[int, int]) -> bool:
        """Whether nothing has to be looked up again."""
        return self.catalogue is catalogue and self.placement == placement and self.lengths == lengths


@dataclass(slots=True)
class _Memory:
    """What is known about one workload."""

    uid: str
    state: LoadState
    window: OpenWindow
    looked_ms: int
    comparison: Comparison = field(default_factory=Comparison)
    compared: EnergyProfile | None = None
    """What `comparison` is about."""
    subject: _Subject | None = None
    judgements: dict[ProfileKey, Judgement] = field(default_factory=dict)
    """The newest profile last."""

    @property
    def observation(self) -> Observation:
        """What sizing is told."""
        corrections = (it.correction for it in self.judgements.values())
        return Observation(
            demand=None if self.state.demand == self.state.declared else self.state.demand,
            corrections=tuple(sorted(it for it in corrections if it is not None)),
        )

    def judge(self, profile: EnergyProfile) -> None:
        """From now on the comparison is about this profile."""
        if profile is self.compared:
            return
        self.compared, self.comparison = profile, Comparison()
        key, digest = key_of(profile), digest_of(profile)
        known = self.judgements.pop(key, None)
        self.judgements[key] = known if known is not None and known.digest == digest else Judgement(key, digest)
        for old in list(self.judgements)[:-MOST_JUDGEMENTS]:
            del self.judgements[old]

    def count_vote(self, ready_ms: int) -> None:
        """The window is over."""
        if self.compared is not None:
            key = key_of(self.compared)
            self.judgements[key] = vote(self.judgements[key], self.comparison, ready_ms)


class LoadWatch:
    """The memory of one leader about all workloads. `earlier`: what the statuses say that the one before observed."""

    def __init__(self, window_seconds: float, earlier: Mapping[WorkloadKey, Observation]) -> None:
        self._window_ms = round(window_seconds * 1000)
        self._memories: dict[WorkloadKey, _Memory] = {}
        self._observed = dict(earlier)

    def observations(self) -> Mapping[WorkloadKey, Observation]:
        """What is to be used instead of declared loads and published profiles."""
        return self._observed

    def look(
        self,
        world: World,
        fleet: Fleet,
        samples: Mapping[str, Sample],
        verdicts: Mapping[str, Verdict],
        now_ms: int,
    ) -> set[WorkloadKey]:
        """Take in what is new; the workloads for which sizing is told something else from now on."""
        for gone in [key for key in self._observed if key not in world.raw_workloads]:
            self._memories.pop(gone, None)
            del self._observed[gone]
        changed = set()
        for key in world.requirements:
            memory = self._memory_of(key, world, now_ms)
            if (now_ms - memory.looked_ms) * LOOKS < self._window_ms:
                continue
            memory.looked_ms = now_ms
            self._hear_the_owner(memory, world, key)
            replicas = [it for it in world.replicas.get(key, ()) if it.ready and not it.terminating]
            target = fleet.of(key).target
            option = target.option if target is not None else None
            held = fleet.of(key).dimming is not None or (option is not None and len(replicas) < option.replicas)
            limited = option is not None and option.board_limit_watts > 0
            limited |= any(it.uid in samples and samples[it.uid].limited_boards > 0 for it in replicas)
            self._look_at(
                memory,
                world,
                key,
                replicas,
                held=held,
                limited=limited,
                samples=samples,
                verdicts=verdicts,
                now_ms=now_ms,
            )
            if memory.observation != self._observed[key]:
                self._observed[key] = memory.observation
                changed.add(key)
        return changed

    def facts(self, key: WorkloadKey, option: Option | None, now_ms: int) -> LoadFacts | None:
        """For the status of a workload that runs `option`; None before the first look."""
        memory = self._memories.get(key)
        if memory is None:
            return None
        return LoadFacts(
            demand=memory.state.demand,
            gap=memory.state.observed and in_gap(memory.state, now_ms, self._window_ms),
            judgements=tuple(memory.judgements.values()),
            running=None if option is None else memory.judgements.get(_profile_key(option)),
        )

    def _memory_of(self, key: WorkloadKey, world: World, now_ms: int) -> _Memory:
        memory, uid = self._memories.get(key), world.workloads[key].metadata.uid
        if memory is not None and memory.uid == uid:
            return memory
        # Another object of the same name is another workload.
        earlier = Observation() if memory is not None else self._observed.get(key, Observation())
        state = first_state(_declared(world, key), earlier.demand)
        if earlier.demand is not None:
            state = replace(state, updated_ms=now_ms)  # from here on a silence is a gap
        # Not all workloads at one tick: each has its own moment.
        looked_ms = now_ms - zlib.crc32(uid.encode()) % max(1, self._window_ms // LOOKS)
        memory = _Memory(uid, state, OpenWindow(now_ms, now_ms), looked_ms)
        memory.judgements = {it.key: Judgement(it.key, it.digest, percent=it.percent) for it in earlier.corrections}
        self._memories[key], self._observed[key] = memory, earlier
        return memory

    @staticmethod
    def _hear_the_owner(memory: _Memory, world: World, key: WorkloadKey) -> None:
        declared = _declared(world, key)
        if declared != memory.state.declared:
            memory.state = redeclare(memory.state, declared)

    def _look_at(
        self,
        memory: _Memory,
        world: World,
        key: WorkloadKey,
        replicas: Sequence[Replica],
        *,
        held: bool,
        limited: bool,
        samples: Mapping[str, Sample],
        verdicts: Mapping[str, Verdict],
        now_ms: int,
    ) -> None:
        if not replicas:  # nothing is ready: that says nothing about what is offered
            memory.window, memory.comparison = OpenWindow(now_ms, now_ms), Comparison()
            return
        fresh = {
            it.uid: sample
            for it in replicas
            if (sample := samples.get(it.uid)) is not None and now_ms - _counted_at_ms(sample) <= LONGEST_MS
        }
        readings = (_reading(sample) for sample in fresh.values())
        memory.window, intervals = look(memory.window, readings, ready=len(replicas), held=held, now_ms=now_ms)
        if limited:
            # The profile is of boards without a limit, and so is its correction: watts under one say nothing of it.
            memory.comparison = Comparison()
        else:
            self._compare(memory, world, key, replicas, intervals=intervals, samples=fresh, verdicts=verdicts)
        if (seen := surged(memory.window, self._window_ms)) is not None:
            memory.state = surge(memory.state, *seen)
        if now_ms - memory.window.began_ms >= self._window_ms:
            ready_ms = memory.window.ready_ms
            window, memory.window = close(memory.window, self._window_ms)
            if window is not None:
                memory.state = learn(memory.state, window)
                memory.count_vote(ready_ms)
            memory.comparison = Comparison()

    def _compare(
        self,
        memory: _Memory,
        world: World,
        key: WorkloadKey,
        replicas: Sequence[Replica],
        *,
        intervals: Mapping[str, Interval],
        samples: Mapping[str, Sample],
        verdicts: Mapping[str, Verdict],
    ) -> None:
        """Set the draw of each interval against the profile of the placement, where both are known for certain."""
        state = memory.state
        if state.input_tokens is None or (state.declared.output_tokens > 1 and state.output_tokens is None):
            return  # with guessed lengths, the guess would be what is contradicted
        placements = {it.placement_digest: it.placement for it in world.children.get(key, ())}
        running = {placements.get(it.placement_digest) for it in replicas}
        placement = running.pop() if len(running) == 1 else None
        if placement is None:
            return
        lengths = (state.demand.input_tokens, state.demand.output_tokens)
        subject = memory.subject
        if subject is None or not subject.is_still(world.catalogue, placement, lengths):
            subject = memory.subject = _subject(world.catalogue, placement, world.requirements[key].task, lengths)
        if subject.profile is None or subject.curve is None:
            return
        memory.judge(subject.profile)
        for uid, interval in intervals.items():
            verdict, sample = verdicts.get(uid), samples[uid]
            if (
                verdict is not None
                and verdict.metered
                and verdict.quality is Quality.FRESH
                and verdict.believed_milliwatts is not None
                and sample.scope is MeterScope.DEVICE
                and sample.state is WorkerState.READY
            ):
                memory.comparison = memory.comparison.with_interval(
                    subject.curve,
                    measured_milliwatts=verdict.believed_milliwatts,
                    requests=interval.requests,
                    milliseconds=interval.milliseconds,
                )


def _declared(world: World, key: WorkloadKey) -> Demand:
    spec = world.workloads[key].spec
    return declared_demand(spec, world.catalogue.tasks[spec.task])


def _profile_key(option: Option) -> ProfileKey:
    return (
        option.model,
        option.precision,
        option.reasoning,
        option.accelerator_class,
        option.accelerators_per_replica,
    )


def _subject(catalogue: Catalogue, placement: Placement, task: str, lengths: tuple[int, int]) -> _Subject:
    profile = profile_of(catalogue, placement, task)
    model = catalogue.models.get(placement.model)
    accelerator = catalogue.accelerator_classes.get(placement.accelerator_class)
    curve = None
    if profile is not None and model is not None and accelerator is not None:
        curve = power_curve(profile, model, accelerator, input_tokens=lengths[0], output_tokens=lengths[1])
    return _Subject(catalogue, placement, lengths, profile, curve)


def written_observations(workloads: Iterable[Raw]) -> dict[WorkloadKey, Observation]:
    """What the statuses say was observed, of workloads whose spec is still the one that the status is about."""
    found = {}
    for raw in workloads:
        metadata, status = raw["metadata"], raw.get("status", {})
        if status.get("observedGeneration") == metadata.get("generation"):
            load = status.get("load", {})
            found[metadata["namespace"], metadata["name"]] = Observation(
                demand=_written_demand(load) if load.get("basis") == LoadBasis.OBSERVED else None,
                corrections=tuple(_written_correction(it) for it in status.get("measuredProfiles", ())),
            )
    return found


def _written_demand(load: Mapping[str, Any]) -> Demand:
    written = Demand(
        requests_per_second_milli=int(Decimal(load["requestsPerSecond"]) * 1000),
        input_tokens=load["inputTokens"],
        output_tokens=load["outputTokens"],
        basis=LoadBasis.OBSERVED.value,
        arrival_cv_percent=load["burstinessPercent"],
    )
    return bounded(written)


def _written_correction(raw: Mapping[str, Any]) -> Correction:
    key = (
        raw["model"],
        raw["precision"],
        Reasoning(raw.get("reasoning", Reasoning.OFF.value)),
        raw["acceleratorClass"],
        raw["acceleratorsPerReplica"],
    )
    return Correction(key, raw["profileDigest"], raw["percentOfProfile"])


def _counted_at_ms(sample: Sample) -> int:
    return sample.sampled_at_ms if sample.counted_at_ms is None else sample.counted_at_ms


def _reading(sample: Sample) -> Reading:
    return Reading(
        pod_uid=sample.pod_uid,
        at_ms=_counted_at_ms(sample),
        received=sample.requests_received_total,
        completed=sample.requests_completed_total,
        input_tokens=sample.input_tokens_total,
        output_tokens=sample.output_tokens_total,
        running=sample.requests_running,
        waiting=sample.requests_waiting,
        batch_limit=sample.profile.batch_limit if sample.profile else None,
        counter=sample.counted_by or sample.source,
    )
