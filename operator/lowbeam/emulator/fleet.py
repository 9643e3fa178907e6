"""All emulated workers and node agents: which exist, what load each gets, and what each answers.

Decides from raw objects, level-triggered: it may be called with any state at any time. Never touches a socket or the
cluster. Part of the emulator (tests and demos only).

Invariants: the load of a workload is split evenly over its replicas that accept requests, and none of it goes
elsewhere; a worker and the agent of its node tell the same of its boards.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lowbeam.api.wire import LimitChange, LimitReport, NodeTelemetry, WorkerTelemetry
from lowbeam.catalog.board_limits import LEAST_RATIO_PERCENT, limited
from lowbeam.catalog.facts import Catalogue, EnergyProfile, Reasoning
from lowbeam.emulator import faults
from lowbeam.emulator.faults import Fault
from lowbeam.emulator.load import LoadTrace
from lowbeam.emulator.members import Demand, Member, Raw, by_address, demands_of, fake_nodes, member_of
from lowbeam.emulator.nodes import FakeNodes, PlayedAgent
from lowbeam.emulator.replica import EmulatedReplica, Pace
from lowbeam.render import Placement
from lowbeam.sizing.operating_point import Curve, at_lengths, measured_curve

if TYPE_CHECKING:  # the whole operator comes with the package
    from lowbeam.runtime.clock import Clock

UNKNOWN = Placement("unknown", "unknown", Reasoning.OFF, "unknown", 0, "", "unknown")
"""Stands for a pod whose placement cannot be read; it has no profile, so its meter is unavailable."""


@dataclass(frozen=True, slots=True)
class FleetSettings:
    """What a test or a demo chooses."""

    load_factor: float = 1.0
    """On every workload's declared load."""
    trace: LoadTrace = field(default_factory=LoadTrace)
    """A second factor, over time since the start."""
    pace: Pace = field(default_factory=Pace)


@dataclass(slots=True)
class Played:
    """One worker that is played: the pod, its state, and what is wrong with it."""

    member: Member
    replica: EmulatedReplica
    curve_key: tuple[Placement | None, Demand | None]
    limit_watts: float | None = None
    """Of each of its boards; None = as they are built."""
    faults: set[Fault] = field(default_factory=set)
    frozen: WorkerTelemetry | None = None


class Fleet:
    """The emulated workers by pod address."""

    def __init__(self, catalogue: Catalogue, clock: Clock, settings: FleetSettings) -> None:
        self.load_factor = settings.load_factor
        self._catalogue = catalogue
        self._clock = clock
        self._settings = settings
        self._started = self._now()
        self._played: dict[str, Played] = {}
        self._by_uid: dict[str, Played] = {}
        self.nodes = FakeNodes(catalogue)
        self._demands: dict[tuple[str, str], Demand] = {}
        self._curves: dict[tuple[Placement | None, Demand | None, float | None], Curve | None] = {}

    # --- what exists -------------------------------------------------------------------------------------------------

    def follow(self, pods: Iterable[Raw], workloads: Iterable[Raw], nodes: Iterable[Raw]) -> None:
        """Take over the state of the cluster; a pod that is known keeps its batch limit, queue and counters."""
        self.share_load()  # until now the old state held
        pods, nodes = list(pods), list(nodes)
        names = fake_nodes(nodes)
        found = by_address(m for pod in pods if (m := member_of(pod, names)) is not None)
        self._demands = demands_of(workloads)
        self._played = {address: self._play(it, self._by_uid.get(it.uid)) for address, it in found.items()}
        self._by_uid = {played.member.uid: played for played in self._played.values()}
        self.nodes.follow(pods, nodes, self._now())
        self.share_load()

    def share_load(self) -> None:
        """Give every replica its share of what is offered now; call it again as time goes by."""
        now = self._now()
        self.nodes.advance(now, self._drawn)
        accepting: dict[tuple[str, str], list[Played]] = {}
        for played in self._played.values():
            played.replica.advance(now)
            self._obey(played)
            if played.member.ready and played.replica.accepts:
                accepting.setdefault((played.member.namespace, played.member.workload), []).append(played)
            else:
                played.replica.offered_rps = 0.0
        factor = self.load_factor * self._settings.trace.factor_at(now - self._started)
        for key, group in accepting.items():
            demand = self._demands.get(key)
            share = factor * demand.requests_per_second / len(group) if demand else 0.0
            for played in group:
                played.replica.offered_rps = share

    def _play(self, member: Member, before: Played | None) -> Played:
        demand = self._demands.get((member.namespace, member.workload))
        key = (member.placement, demand)
        if before is None:
            placement = member.placement or UNKNOWN
            replica = EmulatedReplica(
                namespace=member.namespace,
                pod=member.name,
                uid=member.uid,
                model=placement.model,
                precision=placement.precision,
                reasoning=placement.reasoning,
                curve=self._curve(*key, None),
                boards=self._boards(placement),
                pace=self._settings.pace,
                started=self._now(),
                first_batch_limit=max(1, placement.batch_limit),
            )
            before = Played(member, replica, key)
        elif before.curve_key != key:
            before.curve_key = key
            self._run(before, settle=False)
        before.member = member
        before.replica.tokens = (demand.input_tokens, demand.output_tokens) if demand else (0, 0)
        before.replica.draining = before.replica.draining or member.terminating
        return before

    def _obey(self, played: Played) -> None:
        """Let a worker feel the limit of its boards."""
        limit = self.nodes.limit_watts(played.member.node, played.member.uid)
        if limit != played.limit_watts:
            played.limit_watts = limit
            self._run(played, settle=True)

    def _run(self, played: Played, *, settle: bool) -> None:
        limit, replica = played.limit_watts, played.replica
        replica.advance(self._now())
        most = float("inf") if limit is None else limit * replica.boards
        replica.run_on(self._curve(*played.curve_key, limit), most, settle=settle)

    def _drawn(self, uid: str) -> tuple[float, float] | None:
        """Watts, and joules since its start, of each board of a worker; None for a pod that is not played."""
        played = self._by_uid.get(uid)
        drawn = played.replica.drawn(self._now()) if played is not None else None
        if played is None or drawn is None:
            return None
        boards = max(1, played.replica.boards)
        return drawn[0] / boards, drawn[1] / boards

    def _curve(self, placement: Placement | None, demand: Demand | None, limit_watts: float | None) -> Curve | None:
        key = (placement, demand, limit_watts)
        if key not in self._curves:
            profile = self._profile(placement, demand) if placement and demand else None
            if profile is not None and limit_watts is not None:
                profile = self._limited(profile, limit_watts)
            self._curves[key] = self._at_demand(profile, demand) if profile and demand else None
        return self._curves[key]

    def _limited(self, profile: EnergyProfile, limit_watts: float) -> EnergyProfile:
        """Under a limit that is lower than any with data: at the lowest one with some. The draw ends at the limit."""
        accelerator = self._catalogue.accelerator_classes[profile.accelerator_class]
        most = max(point.milliwatts for point in profile.points)
        lowest = -(-most * LEAST_RATIO_PERCENT // (100_000 * max(1, profile.accelerators)))
        return limited(profile, accelerator, max(int(limit_watts), lowest)) or profile

    def _at_demand(self, profile: EnergyProfile, demand: Demand) -> Curve:
        model = self._catalogue.models[profile.model]
        accelerator = self._catalogue.accelerator_classes[profile.accelerator_class]
        return at_lengths(
            measured_curve(profile, accelerator),
            profile,
            model,
            accelerator,
            input_tokens=demand.input_tokens,
            output_tokens=demand.output_tokens,
        )

    def _profile(self, placement: Placement, demand: Demand) -> EnergyProfile | None:
        """The measured curve of exactly this placement; another one is never taken in its place."""
        wanted = (
            placement.precision,
            placement.reasoning,
            placement.accelerator_class,
            placement.accelerators,
        )
        return next(
            (
                p
                for p in self._catalogue.profiles_of(placement.model, demand.task)
                if (p.precision, p.reasoning, p.accelerator_class, p.accelerators) == wanted
            ),
            None,
        )

    def _boards(self, placement: Placement) -> int:
        accelerator = self._catalogue.accelerator_classes.get(placement.accelerator_class)
        return placement.accelerators if accelerator is not None and accelerator.product_labels else 0

    # --- what it answers ---------------------------------------------------------------------------------------------

    def addresses(self) -> set[str]:
        """Pod addresses to listen on."""
        return set(self._played)

    def at(self, address: str) -> Played | None:
        """The worker behind a pod address."""
        return self._played.get(address)

    def now(self) -> float:
        """Seconds on the clock that replicas are advanced with."""
        return self._now()

    def telemetry(self, played: Played) -> WorkerTelemetry:
        """What the worker says now, with its faults."""
        now, member = self._now(), played.member
        devices = self.nodes.devices(member.node, member.uid, now, self._drawn)
        sample = played.replica.telemetry(now, self._clock.now().timestamp(), devices)
        if Fault.FROZEN in played.faults:
            played.frozen = played.frozen or sample
            sample = faults.frozen_at(played.frozen, sample)
        return faults.in_wrong_unit(sample) if Fault.WRONG_UNIT in played.faults else sample

    def node_telemetry(self, played: PlayedAgent, *, limits_allowed: bool) -> NodeTelemetry:
        """What the agent says now."""
        played.boards.count(self._now(), self._drawn)
        unix_seconds = self._clock.now().timestamp()
        return NodeTelemetry(
            node=played.agent.node,
            sampled_at_seconds=unix_seconds,
            pods_listed_at_seconds=unix_seconds,
            limits_allowed=limits_allowed,
            devices=played.boards.readings(),
        )

    def limits(self, played: PlayedAgent) -> LimitReport:
        """Every limit of the node, as the agent tells it."""
        self.share_load()
        return played.boards.report(self._now())

    def set_limits(self, played: PlayedAgent, wish: LimitChange) -> LimitReport:
        """Let the agent set them. Raises OldChange, ImpossibleLimit."""
        self.share_load()
        report = played.boards.change(wish, self._now())
        self.share_load()
        return report

    def everyone(self) -> Mapping[str, Played]:
        """All workers that are played, by address."""
        return self._played

    # --- what a test asks for ----------------------------------------------------------------------------------------

    def set_faults(self, wanted: set[Fault], namespace: str, *, workload: str = "", pod: str = "") -> int:
        """Give these faults, and no others, to the workers and agents that match; returns how many did. They last with
        the pod. An agent has no others than `AGENT_FAULTS`."""
        matching = [
            played
            for played in self._played.values()
            if played.member.namespace == namespace
            and workload in ("", played.member.workload)
            and pod in ("", played.member.name)
        ]
        for played in matching:
            played.faults = set(wanted)
            played.replica.deaf = Fault.IGNORE_CONTROL in wanted
            if Fault.FROZEN not in wanted:
                played.frozen = None
        return len(matching) + (0 if workload else self.nodes.set_faults(wanted, namespace, pod))

    def _now(self) -> float:
        return self._clock.monotonic_ms() / 1000
