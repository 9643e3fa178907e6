"""Accelerators while targets are assumed: what stands on which nodes, and what is decided to come.

Decides whether a replacement can start beside what runs. A pod counts in the pool that its node is in now, whatever the
pool was called when its option was chosen: a new pool cap makes a new pool of nodes that are in use. A replica that is
decided and has no node yet counts where its option goes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from lowbeam.planning.committed import Key, Target, placement_of
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
    return pod.state not in {ReplicaState.TERMINATING, ReplicaState.PENDING}
