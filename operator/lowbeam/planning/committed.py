"""The committed ledger of decisions: what running pods and decided targets may draw together.

Decides how many milliwatts each cap is charged with when a target is assumed. A pod is charged while it exists; a
replica that is decided, or that a Deployment makes again, is charged before it is there; a worker whose batch limit is
to rise, or whose boards' power limit is, is charged at the higher limit at once, one whose limit is to fall at the old
limit until it (or its boards) confirms. A replica that is not there yet is charged under the power limit that it is to
have: it is set while the replica loads, and what boards draw without it counts as soon as the pod is there.

Invariant: assuming a target never lowers a charge before its pods are gone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from lowbeam.planning.roll import Roll
from lowbeam.power.caps import CapTree
from lowbeam.power.ledger import ReplicaCharge, ReplicaState, over
from lowbeam.sizing.options import Option

Key = tuple[str, str]


class Order(StrEnum):
    """How a replacement goes."""

    IN_PLACE = "InPlace"
    """Nothing else runs: same Deployment, or the first one. Fewer replicas go before a higher batch or power limit."""
    MAKE_BEFORE_BREAK = "MakeBeforeBreak"
    """Start the new Deployment, drain the old one when the new one is ready."""
    BREAK_BEFORE_MAKE = "BreakBeforeMake"
    """Start the new Deployment only when every pod of the old one is gone."""
    ROLLING = "Rolling"
    """End old replicas as new ones get ready, share by share (`planning.roll`)."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a workload is decided to run.

    After a restart it is built from the object's status and its Deployments (`runtime.recovery`).
    """

    option: Option | None = None
    """None: nothing runs."""
    order: Order = Order.IN_PLACE
    roll: Roll | None = None
    """Where it began; only with `Order.ROLLING`. A new leader that finds it nowhere works it out before it writes."""
    dimmed_by: str = ""
    """The cap that keeps it from its desired option; empty when not dimmed."""
    dimmed_since_ms: int | None = None


def taken_up(replicas: int, new: int | None, old: int) -> Order:
    """How a change that was under way goes on, from the replicas that were asked for of each placement; `new` None:
    there is no new Deployment.

    Only make-before-break asks for all new replicas beside old ones, as boards and watts were found for both; only a
    replacement share by share asks for some, or makes the Deployment before there is room for any.
    """
    if not old:
        return Order.IN_PLACE
    if new is None:
        return Order.BREAK_BEFORE_MAKE
    return Order.MAKE_BEFORE_BREAK if new >= replicas else Order.ROLLING


def placement_of(option: Option) -> str:
    """Text form of the placement key, for `ReplicaCharge.placement`."""
    return "/".join(str(part) for part in option.placement_key)


def replica_milliwatts(option: Option) -> int:
    """Worst case of one replica, rounded up."""
    return -(-option.worst_case_milliwatts // option.replicas) if option.replicas else 0


def contribution(tree: CapTree, key: Key, option: Option | None, *, minus: Option | None = None) -> dict[str, int]:
    """Worst-case milliwatts of `option` less those of `minus` under each cap, as in the plan."""
    return {
        cap.name: sum(
            sign * it.worst_case_milliwatts
            for sign, it in ((1, option), (-1, minus))
            if it is not None and cap.covers(key[0], it.pool)
        )
        for cap in tree.caps
    }


def committed_milliwatts(
    tree: CapTree, targets: Mapping[Key, Target], charges: Sequence[ReplicaCharge]
) -> dict[str, int]:
    """Committed milliwatts per cap with every target assumed."""
    return Ledger(tree, targets, charges).committed


def decided_milliwatts(tree: CapTree, targets: Mapping[Key, Target]) -> dict[str, int]:
    """Milliwatts per cap once every target is reached and every other pod is gone."""
    totals = {cap.name: 0 for cap in tree.caps}
    for key, target in targets.items():
        for name, milliwatts in contribution(tree, key, target.option).items():
            totals[name] += milliwatts
    return totals


class Ledger:
    """Committed watts while targets are assumed one after the other."""

    def __init__(self, tree: CapTree, targets: Mapping[Key, Target], charges: Sequence[ReplicaCharge]) -> None:
        self._tree = tree
        self._covering: dict[tuple[str, str], tuple[str, ...]] = {}
        """Names of the caps over (namespace, pool): nearly all of a fleet lies under few of many caps."""
        self._pods: dict[Key, list[ReplicaCharge]] = {}
        for charge in charges:
            self._pods.setdefault((charge.namespace, charge.workload), []).append(charge)
        keys = {*targets, *self._pods}
        self._reserved = {key: self._reserve(key, targets.get(key, Target())) for key in keys}
        self.committed = {cap.name: sum(r[cap.name] for r in self._reserved.values()) for cap in tree.caps}

    def change(self, key: Key, target: Target) -> dict[str, int]:
        """How many milliwatts more each cap is charged with when `target` is assumed."""
        now, then = self._reserved.get(key, {}), self._reserve(key, target)
        return {name: then[name] - now.get(name, 0) for name in then}

    def over(self, change: Mapping[str, int], asked: Mapping[str, int] | None = None) -> tuple[str, ...]:
        """The enforced caps that are above usable with `change`, of those that it raises, or that are `asked` for."""
        return over(self._tree, self.committed, change, asked)

    def over_now(self) -> frozenset[str]:
        """The enforced caps that are charged above usable already."""
        return frozenset(cap.name for cap, usable in self._tree.admitted() if self.committed[cap.name] > usable)

    def charged_by(self, key: Key) -> dict[str, int]:
        """Milliwatts that the existing pods of one workload put on each cap."""
        charged = {cap.name: 0 for cap in self._tree.caps}
        for pod in self._pods.get(key, ()):
            for name in self._caps_over(key[0], pod.pool):
                charged[name] += pod.milliwatts
        return charged

    def assume(self, key: Key, target: Target) -> None:
        """Charge `target` from now on."""
        for name, extra in self.change(key, target).items():
            self.committed[name] += extra
        self._reserved[key] = self._reserve(key, target)

    def pods_of(self, key: Key) -> int:
        """How many pods the workload has, in any state."""
        return len(self._pods.get(key, ()))

    def replaced_by(self, key: Key, placement: str) -> list[ReplicaCharge]:
        """Pods of other placements, in any state."""
        return [pod for pod in self._pods.get(key, ()) if pod.placement != placement]

    def beside_others(self, key: Key, option: Option) -> int:
        """How many replicas of `option` may stand beside all other pods of the workload, those that stand already among
        them, so that watts and boards are no more than what there is or what there will be, whichever is larger."""
        pods, placement = self._pods.get(key, ()), placement_of(option)
        others = [pod for pod in pods if pod.placement != placement]
        same = [pod for pod in pods if pod.placement == placement]
        stand = sum(pod.state is not ReplicaState.TERMINATING for pod in same)
        each, boards = max(1, replica_milliwatts(option)), max(1, option.accelerators_per_replica)
        leaving, missing = sum(pod.milliwatts for pod in others), max(0, option.replicas - stand) * each
        by_watts = (sum(pod.milliwatts for pod in same) + max(0, missing - leaving)) // each
        by_boards = (max(_boards(pods), option.replicas * boards) - _boards(others)) // boards
        return max(stand, min(by_watts, by_boards, option.replicas))

    def _reserve(self, key: Key, target: Target) -> dict[str, int]:
        reserved = {cap.name: 0 for cap in self._tree.caps}
        for pools, caps in self._caps_by_pools(key, target.option).items():
            milliwatts = self._under(frozenset(pools), key, target)
            reserved.update(dict.fromkeys(caps, milliwatts))
        return reserved

    def _caps_by_pools(self, key: Key, option: Option | None) -> dict[tuple[str, ...], list[str]]:
        """Caps by those pools of the workload that they cover; without caps that cover none."""
        used = {pod.pool for pod in self._pods.get(key, ())} | ({option.pool} if option is not None else set())
        covered: dict[str, tuple[str, ...]] = {}
        for pool in sorted(used):
            for name in self._caps_over(key[0], pool):
                covered[name] = (*covered.get(name, ()), pool)
        caps: dict[tuple[str, ...], list[str]] = {}
        for name, pools in covered.items():
            caps.setdefault(pools, []).append(name)
        return caps

    def _caps_over(self, namespace: str, pool: str) -> tuple[str, ...]:
        known = self._covering.get((namespace, pool))
        if known is None:
            known = tuple(cap.name for cap in self._tree.caps if cap.covers(namespace, pool))
            self._covering[namespace, pool] = known
        return known

    def _under(self, pools: Collection[str], key: Key, target: Target) -> int:
        """Milliwatts in these pools."""
        pods, option = self._pods.get(key, ()), target.option
        if option is None:
            return _milliwatts(pods, pools)
        placement, each = placement_of(option), replica_milliwatts(option)
        same = [p for p in pods if p.placement == placement]
        kept = [p for p in same if p.state is not ReplicaState.TERMINATING]
        kept.sort(key=lambda pod: -pod.milliwatts)
        raised = [_raised(pod, each) for pod in kept[: option.replicas]]
        # A batch or power limit rises only when the surplus pods are gone: it is one or the other, never both.
        staying = max(_milliwatts(same, pools), _milliwatts(raised, pools))
        others = [p for p in pods if p.placement != placement]
        leaving = _milliwatts(others, pools)
        missing = max(0, option.replicas - len(kept)) * each if option.pool in pools else 0
        if target.order in {Order.IN_PLACE, Order.MAKE_BEFORE_BREAK}:
            return staying + leaving + missing
        if target.roll is not None:
            allowed = target.roll.allowed_milliwatts(option.replicas, len(others), each)
            leaving += max(0, min(missing, allowed - len(kept) * each))
        return staying + max(leaving, missing)


def replicas_of(pods: Collection[ReplicaCharge]) -> int:
    """How many replicas they are: a pod that drains and the one made in its place are one, unless both have a node."""
    on_nodes = sum(pod.state in {ReplicaState.LIVE, ReplicaState.TERMINATING} for pod in pods)
    return max(on_nodes, sum(pod.state is not ReplicaState.TERMINATING for pod in pods))


def _raised(pod: ReplicaCharge, each: int) -> ReplicaCharge:
    """What it may draw when it runs the option; the power limit that its boards have now is no bound then."""
    limit = None if pod.limit_milliwatts is None else max(pod.limit_milliwatts, each)
    return replace(pod, worst_case_milliwatts=max(pod.worst_case_milliwatts, each), limit_milliwatts=limit)


def _boards(pods: Iterable[ReplicaCharge]) -> int:
    return sum(max(1, pod.accelerators) for pod in pods)


def _milliwatts(pods: Iterable[ReplicaCharge], pools: Collection[str]) -> int:
    return sum(pod.milliwatts for pod in pods if pod.pool in pools)
