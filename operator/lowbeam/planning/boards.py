"""Accelerators while targets are assumed: what stands on which nodes, and what is decided to come.

Decides whether a replacement can start beside what runs, and which ones wait for accelerators that nobody is about to
free. A pod counts in the pool that its node is in now, whatever the pool was called when its option was chosen: a new
pool cap makes a new pool of nodes that are in use. A replica that is decided and has no node yet counts where its
option goes. One that ended and is made again holds none in between: the scheduler decides who gets them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from lowbeam.planning.committed import Key, Order, Target, placement_of
from lowbeam.planning.snapshot import Snapshot
from lowbeam.power.ledger import ReplicaCharge, ReplicaState
from lowbeam.sizing.options import Option

Shelf = tuple[str, str]
"""(pool, accelerator class)."""


class Boards:
    """Accelerators taken of each shelf while targets are assumed one after the other.

    Pods on their way out are no part of it; Kubernetes lets a new pod wait for their boards. Those of a replacement
    that is made before the old one goes stay until it is ready: they count for their own workload.
    """

    def __init__(self, snapshot: Snapshot, targets: Mapping[Key, Target], charges: Sequence[ReplicaCharge]) -> None:
        self._have: Counter[Shelf] = Counter()
        for row in snapshot.inventory:
            self._have[row.pool, row.accelerator_class] += row.accelerators
        self._pods: dict[Key, list[ReplicaCharge]] = {}
        for charge in charges:
            self._pods.setdefault((charge.namespace, charge.workload), []).append(charge)
        self._ending = {charge.pool for charge in charges if charge.state is ReplicaState.TERMINATING}
        self._taken: Counter[Shelf] = Counter(snapshot.reserved_accelerators)
        self._there: dict[Key, Counter[Shelf]] = {}
        """All that the pods of a workload hold, where its option is known."""
        for state in snapshot.workloads:
            held: Counter[Shelf] = Counter()
            for holding in state.pods:
                held[holding.pool, holding.accelerator_class] += holding.accelerators
            if state.running is None:
                self._taken += held
            else:
                self._there[state.requirements.key] = held
        self._free = self._have - self._taken
        for held in self._there.values():
            self._free.subtract(held)
        self._options = {key: target.option for key, target in targets.items()}
        for key, option in self._options.items():
            self._taken.update(self._of(key, option))

    def assume(self, key: Key, option: Option | None) -> None:
        """Count `option` from now on."""
        self._taken.subtract(self._of(key, self._options.get(key)))
        self._taken.update(self._of(key, option))
        self._options[key] = option

    def short_of(self, key: Key, option: Option) -> bool:
        """True when `option` cannot start beside everything that is decided to run, or is left."""
        shelf = (option.pool, option.accelerator_class)
        stays = self._taken[shelf] + self._replaced_before(key, option)[shelf]
        return stays + option.accelerators > self._have[shelf]

    def blocked(self, targets: Mapping[Key, Target]) -> list[tuple[Key, Option]]:
        """Replacements that wait for accelerators that nobody is about to free, those that can free some first.

        Their own old replicas hold them, or those of others that wait as well; or somebody whose move waits for the
        watts of one that goes share by share. Not while anything ends where they wait.
        """
        waiting = {
            key: it.option for key, it in targets.items() if it.option is not None and self._waits(key, it, it.option)
        }
        leaving = {key: self._leaving(key, target.option) for key, target in targets.items()}

        def held_by(key: Key, option: Option) -> bool:
            return leaving[key][option.pool, option.accelerator_class] > 0

        while freed := {
            key for key, it in waiting.items() if any(held_by(other, it) for other in leaving if other not in waiting)
        }:
            waiting = {key: it for key, it in waiting.items() if key not in freed}
        holding = {key for key in waiting if any(held_by(key, it) for it in waiting.values())}
        rolling = {key for key in waiting if targets[key].order is Order.ROLLING}
        first = sorted(holding | rolling, key=lambda key: (key not in holding, key not in rolling, key))
        return [(key, waiting[key]) for key in first]

    def _waits(self, key: Key, target: Target, option: Option) -> bool:
        """Whether new replicas beside old ones find no accelerator free, and none that is about to be."""
        placement, pods = placement_of(option), self._pods.get(key, ())
        old = sum(pod.placement != placement for pod in pods)
        if not old or target.order not in {Order.MAKE_BEFORE_BREAK, Order.ROLLING}:
            return False
        wanted = option.replicas if target.roll is None else target.roll.allowed(option.replicas, old)
        shelf, each = (option.pool, option.accelerator_class), max(1, option.accelerators_per_replica)
        return (
            len(self._standing(key, option)) < wanted and self._free[shelf] < each and option.pool not in self._ending
        )

    def _leaving(self, key: Key, option: Option | None) -> Counter[Shelf]:
        """What pods hold that are not of `option`, or more than it has replicas."""
        left = Counter(self._there.get(key, ()))
        if option is not None:
            each = max(1, option.accelerators_per_replica)
            for pod in self._standing(key, option)[: option.replicas]:
                left[pod.pool, option.accelerator_class] -= each
        return +left

    def standing(self, key: Key, option: Option) -> int:
        """How many replicas of an option have a node and stay."""
        return len(self._standing(key, option))

    def stands_in(self, key: Key, option: Option) -> frozenset[str]:
        """Pools that the pods of an option stand in now."""
        return frozenset(pod.pool for pod in self._standing(key, option))

    def _of(self, key: Key, option: Option | None) -> Counter[Shelf]:
        """Accelerators of an option: of each replica where it stands, else where it goes."""
        if option is None:
            return Counter()
        pools = [pod.pool for pod in self._standing(key, option)][: option.replicas]
        pools += [option.pool] * (option.replicas - len(pools))
        each = max(1, option.accelerators_per_replica)
        return Counter({(pool, option.accelerator_class): each * count for pool, count in Counter(pools).items()})

    def _standing(self, key: Key, option: Option) -> list[ReplicaCharge]:
        placement = placement_of(option)
        return [pod for pod in self._pods.get(key, ()) if pod.placement == placement and _has_node(pod)]

    def _replaced_before(self, key: Key, option: Option) -> Counter[Shelf]:
        """What pods of neither the target nor `option` hold: those that an unfinished replacement left."""
        left, target = Counter(self._there.get(key, ())), self._options.get(key)
        known = {it.placement_key: it for it in (target, option) if it is not None}
        for it in known.values():
            each = max(1, it.accelerators_per_replica)
            for pod in self._standing(key, it):
                left[pod.pool, it.accelerator_class] -= each
        return +left


def _has_node(pod: ReplicaCharge) -> bool:
    return pod.state is ReplicaState.LIVE
