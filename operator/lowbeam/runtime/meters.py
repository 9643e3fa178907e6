"""From telemetry samples to the two ledgers: which reading counts for each replica, and what each is charged.

Decides which profile and which limits belong to a replica. Whether a reading is believed is `power.trust`'s business.

Invariants: every replica that holds accelerators has a reading, also when it never answered; every replica that exists
has a charge, and so has every one that a Deployment wants and that has no pod (planning adds those that were only
decided); a promised lower batch limit counts only once confirmed; a class that the catalogue no longer knows makes
nobody's watts 0.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lowbeam.api.wire import MeterMethod, MeterScope
from lowbeam.catalog.facts import Catalogue, EnergyProfile
from lowbeam.planning.committed import replica_milliwatts
from lowbeam.planning.moves import SETTLE_MS, Lever
from lowbeam.power.ledger import Reading, ReplicaCharge, ReplicaState
from lowbeam.power.trust import IMPOSSIBLE_PERCENT, MeterHistory, MeterLimits, Verdict, judge
from lowbeam.power.trust import Sample as MeterSample
from lowbeam.render import Placement
from lowbeam.runtime.board_limits import held_milliwatts, limit_is_pending
from lowbeam.runtime.replicas import Replica, WorkloadKey, to_be_made, unmade
from lowbeam.runtime.world import World
from lowbeam.sizing import Option
from lowbeam.sizing.correction import Correction
from lowbeam.sizing.worst_case import raised, worst_case_at, worst_cases
from lowbeam.telemetry import Sample, SampleSource

OBSERVED_MS = 900_000
"""The committed ledger remembers the highest draw of a replica for this long (control.md)."""

METER_ERROR_PERCENT = 105
"""NVML's power reading is good to 5 %; the default `meterTolerancePercent` of a cap sets that aside already."""


@dataclass(frozen=True, slots=True)
class Books:
    """One look at all replicas."""

    readings: tuple[Reading, ...]
    charges: tuple[ReplicaCharge, ...]
    verdicts: Mapping[str, Verdict]
    """Per pod uid."""
    committed_milliwatts: Mapping[WorkloadKey, int] = field(default_factory=dict)
    """What the pods of a workload are charged together; workloads without pods are left out."""
    drawn_milliwatts: Mapping[WorkloadKey, int | None] = field(default_factory=dict)
    """Trusted milliwatts of a workload; None where any of its replicas has none."""


@dataclass(slots=True)
class Meters:
    """Histories of the meters, by pod uid."""

    _histories: dict[str, dict[SampleSource, MeterHistory]] = field(default_factory=dict)
    """One for each who speaks of the pod."""
    _highest: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    _confirmed: dict[str, int] = field(default_factory=dict)
    """Batch limit that each worker last said it runs."""
    _settled_ms: dict[str, int] = field(default_factory=dict)
    """Until when a lower batch limit takes to show."""
    _first_seen_ms: dict[str, int] = field(default_factory=dict)
    _limits: dict[str, MeterLimits] = field(default_factory=dict)
    """As last known: an AcceleratorClass may be deleted, or its edit refused, while its boards still draw."""
    _placements: dict[str, Placement] = field(default_factory=dict)
    """By digest: a Deployment may be gone while its last pods still draw."""

    def read(
        self,
        world: World,
        targets: Mapping[WorkloadKey, Option | None],
        samples: Mapping[str, Sample],
        now_ms: int,
    ) -> Books:
        """Judge every replica's newest sample and charge every replica."""
        readings, charges, verdicts = [], [], dict[str, Verdict]()
        committed, drawn = Counter[WorkloadKey](), dict[WorkloadKey, int | None]()
        for children in world.children.values():
            for child in children:
                if child.placement is not None:
                    self._placements[child.placement_digest] = child.placement
        for key, replicas in sorted(world.replicas.items()):
            for replica in replicas:
                placement = self._placements.get(replica.placement_digest)
                sample = samples.get(replica.uid)
                limits = self._limits_of(world, replica, placement, sample)
                pool = world.node_pools.get(replica.node, placement.pool if placement else "")
                verdict = None
                if replica.scheduled and replica.ip:
                    # First, because the charge asks what was drawn at most.
                    verdict = verdicts[replica.uid] = self._judge(replica, sample, limits, now_ms)
                charge = self._charge(
                    world,
                    key,
                    replica,
                    placement=placement,
                    pool=pool,
                    limits=limits,
                    sample=sample,
                    target=targets.get(key),
                )
                charges.append(charge)
                committed[key] += charge.milliwatts
                if verdict is not None:
                    reading = self._reading(charge, replica, limits, sample, verdict=verdict, now_ms=now_ms)
                    readings.append(reading)
                    # What was reserved for a replica that has not answered yet is no measurement.
                    drawn[key] = _plus(drawn.get(key, 0), reading.milliwatts if verdict.trusted else None)
        for key, children in sorted(world.children.items()):
            for child in unmade(children, world.replicas.get(key, ())):
                replica = to_be_made(key, child)
                placement = self._placements.get(replica.placement_digest)
                charge = self._charge(
                    world,
                    key,
                    replica,
                    placement=placement,
                    pool=placement.pool if placement else "",
                    limits=_limits(world, replica, placement) or _largest_limits(world.catalogue, replica),
                    sample=None,
                    target=targets.get(key),
                )
                charges.append(dataclasses.replace(charge, state=ReplicaState.ASSUMED))
        alive = [replica for replicas in world.replicas.values() for replica in replicas]
        children = [child for group in world.children.values() for child in group]
        self._forget({replica.uid for replica in alive})
        digests = {replica.placement_digest for replica in alive} | {child.placement_digest for child in children}
        self._placements = {digest: it for digest, it in self._placements.items() if digest in digests}
        return Books(tuple(readings), tuple(charges), verdicts, committed, drawn)

    def _limits_of(
        self, world: World, replica: Replica, placement: Placement | None, sample: Sample | None
    ) -> MeterLimits:
        last, limits = self._limits.get(replica.uid), _limits(world, replica, placement)
        if limits is None:
            return last or _largest_limits(world.catalogue, replica)
        told = _enforced_milliwatts(sample, replica) if sample is not None else None
        if told is not None:
            # Only upwards: a limit that somebody raised can be drawn, and a meter that lies about a low one would hide
            # watts. No higher than a reading may be.
            most = limits.max_milliwatts * IMPOSSIBLE_PERCENT // 100
            limits = dataclasses.replace(limits, enforced_milliwatts=min(max(told, limits.max_milliwatts), most))
        elif last is not None and last.max_milliwatts == limits.max_milliwatts:
            limits = last
        self._limits[replica.uid] = limits
        return limits

    def _reading(
        self,
        charge: ReplicaCharge,
        replica: Replica,
        limits: MeterLimits,
        sample: Sample | None,
        *,
        verdict: Verdict,
        now_ms: int,
    ) -> Reading:
        """The reading behind a verdict. A replica that has just started and was not asked yet counts as what was
        reserved for it; that guess ages like any reading and is stale, hence the worst case, after the same time."""
        first_seen_ms = self._first_seen_ms.setdefault(replica.uid, now_ms)
        reading = Reading.judged(
            verdict,
            limits,
            namespace=charge.namespace,
            workload=charge.workload,
            pool=charge.pool,
            pod_uid=replica.uid,
            accelerators=max(1, replica.accelerators),
            sampled_at_ms=sample.sampled_at_ms if sample else 0,
        )
        if sample is None:
            return dataclasses.replace(reading, milliwatts=charge.milliwatts, sampled_at_ms=first_seen_ms)
        return reading

    def _judge(self, replica: Replica, sample: Sample | None, limits: MeterLimits, now_ms: int) -> Verdict:
        uid = replica.uid
        if sample is None:
            return judge(None, MeterHistory(), limits, now_ms)
        histories = self._histories.setdefault(uid, {})
        history = histories.get(sample.source, MeterHistory())
        reading = MeterSample(
            at_ms=sample.sampled_at_ms,
            watts=None if sample.milliwatts is None else sample.milliwatts / 1000,
            joules_total=sample.joules_total,
            busy=(sample.requests_running or 0) > 0,
            # A meter that is lost leaves its last watts: it grows stale. Who never had one has none.
            metered=sample.method is not MeterMethod.UNAVAILABLE or sample.milliwatts is not None,
            missing_boards=_missing_boards(sample, replica),
        )
        verdict = judge(reading, history, limits, now_ms)
        histories[sample.source] = history.append(reading)
        if sample.profile is not None:
            if sample.profile.batch_limit < self._confirmed.get(uid, 0):
                # What it drew at the higher limit says nothing any longer, nor what it draws while it settles.
                self._highest.pop(uid, None)
                self._settled_ms[uid] = now_ms + SETTLE_MS[Lever.BATCH]
            self._confirmed[uid] = sample.profile.batch_limit
        believed = verdict.believed_milliwatts
        if believed is not None and now_ms >= self._settled_ms.get(uid, 0):
            since_ms = now_ms - OBSERVED_MS
            kept = [(at, mw) for at, mw in self._highest.get(uid, []) if at >= since_ms and mw > believed]
            self._highest[uid] = [*kept, (now_ms, believed)]
        return verdict

    def _charge(
        self,
        world: World,
        key: WorkloadKey,
        replica: Replica,
        *,
        placement: Placement | None,
        pool: str,
        limits: MeterLimits,
        sample: Sample | None,
        target: Option | None,
    ) -> ReplicaCharge:
        confirmed = sample.profile.batch_limit if sample is not None and sample.profile is not None else None
        if placement is not None and placement.batch_limit:
            confirmed = placement.batch_limit  # what it was started with; nothing changes it
        elif confirmed is None and not replica.started and not replica.terminating:
            confirmed = 1  # as it starts; only a confirmed change raises it
        task = world.workloads[key].spec.task if key in world.workloads else ""
        boards = limits.worst_case_milliwatts
        if (held := held_milliwatts(replica, sample)) is not None:
            boards = min(boards, held)
        if placement is None:
            worst = boards
        elif target is not None and placement == Placement.of(target) and _obeys(target, replica, confirmed, sample):
            worst = replica_milliwatts(target)
        else:
            needs = world.requirements.get(key)
            worst = worst_case_milliwatts(
                world.catalogue,
                placement,
                task,
                confirmed,
                boards,
                corrections=needs.corrections if needs is not None else (),
            )
        state = ReplicaState.LIVE if replica.scheduled else ReplicaState.PENDING
        return ReplicaCharge(
            namespace=key[0],
            workload=key[1],
            pool=pool,
            pod_uid=replica.uid,
            limit_milliwatts=boards if replica.scheduled else None,
            worst_case_milliwatts=worst,
            highest_observed_milliwatts=self._highest_above(replica.uid, worst),
            state=ReplicaState.TERMINATING if replica.terminating else state,
            placement=_placement_text(placement),
            accelerators=replica.accelerators,
        )

    def _highest_above(self, uid: str, worst_case_milliwatts: int) -> int | None:
        """Highest draw lately where it contradicts the profile; a meter's own error (5 %) is in the cap's tolerance."""
        highest = max((mw for _, mw in self._highest.get(uid, ())), default=0)
        return highest if highest * 100 > worst_case_milliwatts * METER_ERROR_PERCENT else None

    def _forget(self, alive: set[str]) -> None:
        memories = (
            self._histories,
            self._highest,
            self._confirmed,
            self._settled_ms,
            self._first_seen_ms,
            self._limits,
        )
        for memory in memories:
            for uid in [uid for uid in memory if uid not in alive]:
                del memory[uid]


def _obeys(target: Option, replica: Replica, batch_limit: int | None, sample: Sample | None) -> bool:
    """Whether a replica can draw no more than its option says: its batch limit, and the power limit of its boards.

    A replica that has not started yet only loads; its boards get their limit meanwhile.
    """
    if batch_limit is None or batch_limit > target.batch_limit:
        return False
    return not target.board_limit_watts or not replica.started or not limit_is_pending(target, replica, sample)


def _missing_boards(sample: Sample, replica: Replica) -> int:
    """Boards that the replica holds and the sample does not name; of shared ones it may hold several parts."""
    if not sample.devices or sample.scope is not MeterScope.DEVICE:
        return 0
    return max(0, replica.accelerators - len({device.uuid for device in sample.devices}))


def _enforced_milliwatts(sample: Sample, replica: Replica) -> int | None:
    """The power limit of all boards together, as they tell it; None where one does not, or is not told."""
    told = [device.power_limit_watts for device in sample.devices]
    if not told or None in told or sample.scope is not MeterScope.DEVICE or _missing_boards(sample, replica):
        return None
    return round(sum(watts or 0.0 for watts in told) * 1000)


def _plus(known: int | None, more: int | None) -> int | None:
    return None if known is None or more is None else known + more


def worst_case_milliwatts(
    catalogue: Catalogue,
    placement: Placement,
    task: str,
    batch_limit: int | None,
    boards_milliwatts: int,
    *,
    corrections: Sequence[Correction] = (),
) -> int:
    """Highest draw of one replica at a batch limit (None: any), from its profile; without one its boards' maximum.

    The same figure as that of an option: what is decided for a replica changes nothing until the replica does it.
    """
    profile = profile_of(catalogue, placement, task)
    if profile is None:
        return boards_milliwatts
    accelerator = catalogue.accelerator_classes.get(placement.accelerator_class)
    idle = accelerator.idle_milliwatts * max(1, profile.accelerators) if accelerator is not None else 0
    each = worst_cases(profile, limit_milliwatts=boards_milliwatts, idle_milliwatts=idle)
    percent = next((it.percent for it in corrections if it.is_of(profile)), 100)
    return raised(worst_case_at(profile, each, batch_limit), percent, boards_milliwatts)


def profile_of(catalogue: Catalogue, placement: Placement, task: str) -> EnergyProfile | None:
    """The profile of exactly this placement; another one is never taken in its place."""
    wanted = (placement.precision, placement.reasoning, placement.accelerator_class, placement.accelerators)
    return next(
        (
            it
            for it in catalogue.profiles_of(placement.model, task)
            if (it.precision, it.reasoning, it.accelerator_class, it.accelerators) == wanted
        ),
        None,
    )


def _placement_text(placement: Placement | None) -> str:
    """As `planning.placement_of` writes it for an option of this placement."""
    if placement is None:
        return ""
    return "/".join(str(getattr(placement, name)) for name in placement.__slots__)


def _limits(world: World, replica: Replica, placement: Placement | None) -> MeterLimits | None:
    """What its boards can draw; None when the catalogue does not know their class."""
    name = world.node_classes.get(replica.node) or (placement.accelerator_class if placement else "")
    accelerator = world.catalogue.accelerator_classes.get(name)
    if accelerator is None:
        return None
    # A pod that asks for no device on a class that has some draws nothing from them, whatever its labels say.
    boards = replica.accelerators if accelerator.product_labels else max(1, replica.accelerators)
    return MeterLimits(accelerator.max_milliwatts * boards, accelerator.idle_milliwatts * boards)


def _largest_limits(catalogue: Catalogue, replica: Replica) -> MeterLimits:
    """Limits that hold for every class: the largest of its kind, with or without devices. No reading is too low."""
    on_device = replica.accelerators > 0
    most = max(
        (it.max_milliwatts for it in catalogue.accelerator_classes.values() if bool(it.product_labels) is on_device),
        default=0,
    )
    return MeterLimits(max_milliwatts=most * max(1, replica.accelerators), idle_milliwatts=0)
