"""A virtual cluster: workers that start, settle, drain and draw watts, and meters that may be silent or late.

Decides what the machines do; what they should do comes in as targets. Time comes in as an argument, randomness from
one seed, so that a run repeats exactly. It plays the executor's rules too: a replacement waits or does not, fewer
replicas go before a higher batch or power limit, and a pod needs free boards. The power limit of a new pod's boards is
set before it serves.

Invariant: a pod exists, and is charged, from its creation to the end of its drain.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lowbeam.catalog.board_limits import limited
from lowbeam.catalog.facts import AcceleratorClass, Catalogue
from lowbeam.planning.committed import Order, Target, placement_of, replica_milliwatts
from lowbeam.planning.snapshot import Holding, Inventory
from lowbeam.power.ledger import ReplicaCharge, ReplicaState
from lowbeam.power.trust import Sample
from lowbeam.simulation.scenario import Pace
from lowbeam.sizing.operating_point import Curve, at_lengths, expected_milliwatts, measured_curve
from lowbeam.sizing.options import Option
from lowbeam.sizing.requirements import Requirements

Key = tuple[str, str]

NOISE = 0.01
"""Standard deviation of a meter, as a share of the draw."""
SAMPLES_KEPT = 120


@dataclass(slots=True)
class Worker:
    """One pod."""

    key: Key
    uid: str
    option: Option
    """The placement and the power limit of its boards; replicas are those of its birth."""
    accelerator: AcceleratorClass
    curve: Curve
    created_ms: int
    ready_ms: int
    batch_limit: int
    ends_ms: int | None = None
    """When the drain ends; None = not asked to go."""
    watts: float = 0.0
    joules: float = 0.0
    previous_watts: float = 0.0
    """What it drew at the last change of batch, for the settling."""
    changed_ms: int = 0
    samples: deque[Sample] = field(default_factory=lambda: deque(maxlen=SAMPLES_KEPT))

    @property
    def boards(self) -> int:
        """Accelerators (CPU slots) that it holds."""
        return max(1, self.option.accelerators_per_replica)

    @property
    def limit_milliwatts(self) -> int:
        """Enforced limit of its boards together."""
        set_milliwatts = self.option.board_limit_watts * 1000
        return self.boards * min(self.accelerator.max_milliwatts, set_milliwatts or self.accelerator.max_milliwatts)


class VirtualCluster:
    """All pods, and the boards that they share."""

    def __init__(self, catalogue: Catalogue, inventory: Sequence[Inventory], pace: Pace, seed: int) -> None:
        self._catalogue, self._inventory, self._pace = catalogue, tuple(inventory), pace
        self._random = random.Random(seed)  # noqa: S311 - repeatable noise, no secret
        self._born = 0
        self.workers: list[Worker] = []
        self.lost_percent = 0
        self.delay_ms = 0
        self._silent: frozenset[str] = frozenset()

    def carry_out(self, targets: Mapping[Key, Target], needs: Mapping[Key, Requirements], now_ms: int) -> None:
        """Start, drain and adjust pods towards the targets, as the operator's executor does."""
        for key in sorted({*targets, *(w.key for w in self.workers)}):
            target = targets.get(key, Target())
            mine = [w for w in self.workers if w.key == key]
            if target.option is None or key not in needs:
                self._drain(mine, now_ms)
                continue
            if target.order is Order.ROLLING and target.roll is None:
                continue  # to be worked out by a new leader's first plan
            placement = placement_of(target.option)
            on = [w for w in mine if placement_of(w.option) == placement and w.ends_ms is None]
            others = [w for w in mine if placement_of(w.option) != placement]
            self._drain(on[target.option.replicas :], now_ms)
            on = on[: target.option.replicas]
            leaving = len(mine) > len(on) + len(others)
            self._set_limits(on, target.option, needs[key], leaving=leaving, now_ms=now_ms)
            if target.order is Order.BREAK_BEFORE_MAKE and others:
                self._drain(others, now_ms)
                continue
            wanted = target.option.replicas
            if target.roll is not None and others:
                wanted = max(len(on), target.roll.allowed(wanted, len(others)))
            for _ in range(wanted - len(on)):
                if not self._free_boards(target.option):
                    break
                on.append(self._start(key, target.option, needs[key], now_ms))
            if len(on) < wanted or any(w.ready_ms > now_ms for w in on):
                continue
            stay = [w for w in others if w.ends_ms is None]
            if target.roll is None:
                self._drain(others, now_ms)
            elif len(stay) == len(others):
                self._drain(stay[target.roll.old_next(target.option.replicas, len(stay), wanted) :], now_ms)

    def advance(self, needs: Mapping[Key, Requirements], now_ms: int, step_ms: int) -> None:
        """Let `step_ms` pass up to `now_ms`: watts follow the load, energy adds up, meters are read."""
        self.workers = [w for w in self.workers if w.ends_ms is None or w.ends_ms > now_ms]
        serving: dict[Key, int] = {}
        for worker in self.workers:
            if worker.ready_ms <= now_ms and worker.ends_ms is None:
                serving[worker.key] = serving.get(worker.key, 0) + 1
        for worker in self.workers:
            rate = 0.0
            if worker.key in needs and worker.ready_ms <= now_ms and worker.ends_ms is None:
                rate = needs[worker.key].demand.requests_per_second_milli / 1000 / serving[worker.key]
            worker.watts = self._settled(worker, rate, now_ms) / 1000
            worker.joules += worker.watts * step_ms / 1000
            if worker.uid not in self._silent:
                seen = worker.watts * (1 + max(-3.0, min(3.0, self._random.gauss(0, 1))) * NOISE)
                worker.samples.append(Sample(now_ms, seen, worker.joules, busy=rate > 0))

    def count(self, key: Key, placement: str) -> tuple[int, int]:
        """Workers of this placement, and of others, that were not asked to go."""
        mine = [placement_of(w.option) == placement for w in self.workers if w.key == key and w.ends_ms is None]
        return sum(mine), len(mine) - sum(mine)

    def lose_telemetry(self, percent: int) -> None:
        """Silence this share of the workers that run now."""
        uids = sorted(w.uid for w in self.workers)
        self._random.shuffle(uids)
        self._silent = frozenset(uids[: -(-len(uids) * percent // 100)])

    def newest_sample(self, worker: Worker, now_ms: int) -> Sample | None:
        """The newest sample that has arrived."""
        return next((s for s in reversed(worker.samples) if s.at_ms <= now_ms - self.delay_ms), None)

    def charges(self, highest: Mapping[str, int]) -> tuple[ReplicaCharge, ...]:
        """The committed ledger's pods; `highest` is what each was seen to draw."""
        return tuple(
            ReplicaCharge(
                namespace=w.key[0],
                workload=w.key[1],
                pool=w.option.pool,
                pod_uid=w.uid,
                limit_milliwatts=w.limit_milliwatts,
                worst_case_milliwatts=self.worst_milliwatts(w),
                highest_observed_milliwatts=highest.get(w.uid),
                state=ReplicaState.LIVE if w.ends_ms is None else ReplicaState.TERMINATING,
                placement=placement_of(w.option),
                accelerators=w.option.accelerators_per_replica,
            )
            for w in self.workers
        )

    def holdings(self, key: Key) -> tuple[Holding, ...]:
        """What the pods of one workload take; those that are asked to go hold no boards for long."""
        return tuple(
            Holding(
                w.option.pool,
                w.option.accelerator_class if w.ends_ms is None else "",
                w.boards if w.ends_ms is None else 0,
                self.worst_milliwatts(w),
            )
            for w in self.workers
            if w.key == key
        )

    def worst_milliwatts(self, worker: Worker) -> int:
        """Highest draw of the profile at the batch limit that the worker has confirmed."""
        if worker.batch_limit == worker.option.batch_limit:
            return replica_milliwatts(worker.option)
        allowed = worker.curve.batch <= worker.batch_limit
        points = worker.curve.worst_milliwatts[allowed] if allowed.any() else worker.curve.worst_milliwatts[:1]
        return int(np.ceil(points.max()))

    def _settled(self, worker: Worker, rate: float, now_ms: int) -> float:
        """Milliwatts at `rate`, between the last and the new batch limit while it settles."""
        idle = float(worker.accelerator.idle_milliwatts * worker.boards)
        if worker.ends_ms is not None:
            # Requests in flight finish: the draw falls to idle over the drain.
            left = min(1.0, max(0, worker.ends_ms - now_ms) / max(1, self._pace.drain * 1000))
            return idle + max(0.0, worker.previous_watts * 1000 - idle) * left
        if worker.ready_ms > now_ms:
            return idle
        goal = max(idle, float(expected_milliwatts(worker.curve, np.array([rate]))[0]))
        goal = min(goal, float(self.worst_milliwatts(worker)))
        settle_ms = self._pace.batch_settle * 1000
        passed = now_ms - worker.changed_ms
        if not worker.changed_ms or passed >= settle_ms:
            return goal
        return worker.previous_watts * 1000 + (goal - worker.previous_watts * 1000) * passed / settle_ms

    def _set_limits(
        self, workers: Sequence[Worker], option: Option, needs: Requirements, *, leaving: bool, now_ms: int
    ) -> None:
        for worker in workers:
            now = worker.option
            same_watts = now.board_limit_watts == option.board_limit_watts
            raises = option.batch_limit > worker.batch_limit or replica_milliwatts(option) > replica_milliwatts(now)
            if (worker.batch_limit == option.batch_limit and same_watts) or (leaving and raises):
                continue
            worker.previous_watts, worker.changed_ms = worker.watts, now_ms
            worker.batch_limit, worker.option = option.batch_limit, option
            if not same_watts:
                worker.curve = curve_of(self._catalogue, option, needs)

    def _drain(self, workers: Sequence[Worker], now_ms: int) -> None:
        for worker in workers:
            if worker.ends_ms is None:
                worker.previous_watts = worker.watts
                worker.ends_ms = now_ms + self._pace.drain * 1000

    def _free_boards(self, option: Option) -> bool:
        here = (option.pool, option.accelerator_class)
        have = sum(i.accelerators for i in self._inventory if (i.pool, i.accelerator_class) == here)
        taken = sum(w.boards for w in self.workers if (w.option.pool, w.option.accelerator_class) == here)
        return taken + max(1, option.accelerators_per_replica) <= have

    def _start(self, key: Key, option: Option, needs: Requirements, now_ms: int) -> Worker:
        self._born += 1
        worker = Worker(
            key=key,
            uid=f"{key[0]}-{key[1]}-{self._born}",
            option=option,
            accelerator=self._catalogue.accelerator_classes[option.accelerator_class],
            curve=curve_of(self._catalogue, option, needs),
            created_ms=now_ms,
            ready_ms=now_ms + self._pace.start * 1000,
            batch_limit=option.batch_limit,
        )
        self.workers.append(worker)
        return worker


def curve_of(catalogue: Catalogue, option: Option, needs: Requirements) -> Curve:
    """The profile behind an option at the workload's request lengths, under its power limit."""
    profile = next(
        p
        for p in catalogue.profiles_of(option.model, needs.task)
        if (p.precision, p.reasoning, p.accelerator_class, p.accelerators)
        == (
            option.precision,
            option.reasoning,
            option.accelerator_class,
            option.accelerators_per_replica,
        )
    )
    accelerator = catalogue.accelerator_classes[option.accelerator_class]
    if option.board_limit_watts:
        profile = limited(profile, accelerator, option.board_limit_watts) or profile
    return at_lengths(
        measured_curve(profile, accelerator),
        profile,
        catalogue.models[option.model],
        accelerator,
        input_tokens=needs.demand.input_tokens,
        output_tokens=needs.demand.output_tokens,
    )
