"""Replacements in full pools come to their end: workloads wait for each other's accelerators, and none for ever.

The real decisions (`next_targets`, `next_step`) over Deployments, pods and a scheduler that fit in a page. Pods are
evicted at any moment, and their Deployments make them again; somebody scales Deployments.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from lowbeam.catalog.facts import Catalogue
from lowbeam.planning.committed import Order, Target, committed_milliwatts, placement_of
from lowbeam.planning.plan_types import Choice, Plan
from lowbeam.planning.snapshot import Holding, Inventory, Snapshot, WorkloadState
from lowbeam.planning.transition import next_targets
from lowbeam.power.gate import GateState
from lowbeam.power.ledger import ReplicaCharge, ReplicaState
from lowbeam.power.tree import build_cap_tree
from lowbeam.runtime.children import next_step
from lowbeam.runtime.replicas import Child, Replica, unmade
from lowbeam.sizing.options import Option
from tests.fakes.power_fleet import NOW, cap, needs, option, views

Key = tuple[str, str]
FIRST, SECOND = ("a", "first"), ("a", "second")
KEYS = (FIRST, SECOND)
PLENTY = 100_000
LOOKS = 150


@dataclass(slots=True)
class Pod:
    key: Key
    option: Option
    uid: str
    bound: bool = False
    ready: bool = False
    ending: bool = False


@dataclass(slots=True)
class Cluster:
    boards: dict[str, int]
    runs: dict[Key, Option]
    watts: int = PLENTY
    pods: list[Pod] = field(default_factory=list)
    deployments: dict[tuple[Key, str], tuple[Option, int]] = field(default_factory=dict)
    targets: dict[Key, Target] = field(default_factory=dict)
    evictions: Mapping[int, tuple[int, int, bool]] = field(default_factory=dict)
    """At which look: the first pod that goes, how many go, and whether they are on their way out or gone at once."""
    scalings: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    """After which look: which Deployment somebody scales, and to how many replicas."""
    looks: int = 0
    born: int = 0

    def __post_init__(self) -> None:
        self.targets = {key: Target(it) for key, it in self.runs.items()}
        self.deployments = {(key, name_of(it)): (it, it.replicas) for key, it in self.runs.items()}
        for _ in range(3):
            self.the_cluster_works()

    def look(self, wants: dict[Key, Option]) -> None:
        """One cycle of the operator, then one of Kubernetes."""
        self.evict()
        tree = build_cap_tree([cap(watts=self.watts)])
        states = tuple(
            WorkloadState(needs(key), running=self.targets[key].option, pods=self.holdings(key)) for key in KEYS
        )
        inventory = tuple(Inventory(pool, "h100", count, 8) for pool, count in self.boards.items())
        charges = self.charges()
        before = committed_milliwatts(tree, self.targets, charges)["cluster"]
        result = next_targets(
            Snapshot(Catalogue(), tree, inventory, states),
            Plan(tuple(Choice(*key, it, "r", "m") for key, it in wants.items())),
            targets=self.targets,
            charges=charges,
            views=views(tree),
            gate=GateState(),
            now_ms=NOW,
        )
        self.targets = result.targets
        assert result.committed_milliwatts["cluster"] <= max(before, self.watts * 1000)
        for key in KEYS:
            self.carry_out(key, self.targets[key])
        index, count = self.scalings.get(self.looks, (0, 0))
        if self.looks in self.scalings and index < len(self.deployments):
            scaled = sorted(self.deployments)[index]
            self.deployments[scaled] = (self.deployments[scaled][0], count)
        self.the_cluster_works()

    def carry_out(self, key: Key, target: Target) -> None:
        assert target.option is not None
        name = name_of(target.option)
        children, there = self.children(key), self.replicas(key)
        step = next_step(name, target.option.replicas, children, there, order=target.order, roll=target.roll)
        for child in step.delete:
            del self.deployments[key, child.name]
        for child, count in step.shrink:
            self.deployments[key, child.name] = (self.deployments[key, child.name][0], count)
        if step.apply_replicas is not None:
            self.deployments[key, name] = (target.option, step.apply_replicas)

    def evict(self) -> None:
        first, count, graceful = self.evictions.get(self.looks, (0, 0, False))
        self.looks += 1
        evicted = self.pods[first : first + count]
        for pod in evicted:
            pod.ending = True
        if not graceful:
            self.pods = [pod for pod in self.pods if pod not in evicted]

    def the_cluster_works(self) -> None:
        self.pods = [pod for pod in self.pods if not pod.ending]
        for pod in self.pods:
            pod.ready = pod.bound
        for pod in self.pods:
            if not pod.bound and self.free(pod.option.pool) >= pod.option.accelerators_per_replica:
                pod.bound = True
        for key, name in sorted({(pod.key, name_of(pod.option)) for pod in self.pods} | {*self.deployments}):
            there = [p for p in self.pods if (p.key, name_of(p.option)) == (key, name) and not p.ending]
            there.sort(key=lambda pod: (not pod.bound, not pod.ready))
            chosen, count = self.deployments.get((key, name), (None, 0))
            for pod in there[count:]:
                pod.ending = True
            for _ in range(count - len(there)):
                assert chosen is not None
                self.born += 1
                self.pods.append(Pod(key, chosen, str(self.born)))

        drawn = sum(pod.option.worst_case_milliwatts // pod.option.replicas for pod in self.pods)
        assert drawn <= self.watts * 1000 or self.scalings, "more than the cap has room for"

    def free(self, pool: str) -> int:
        held = sum(p.option.accelerators_per_replica for p in self.pods if p.bound and p.option.pool == pool)
        return self.boards[pool] - held

    def children(self, key: Key) -> list[Child]:
        return [
            Child(it, it, None, it.rsplit("-", 1)[-1], count, self.count(key, it, ready=True), {})
            for (of, it), (_, count) in self.deployments.items()
            if of == key
        ]

    def replicas(self, key: Key) -> list[Replica]:
        return [
            Replica(p.uid, p.uid, key, name_of(p.option).rsplit("-", 1)[-1], "", "n", 1, p.ready, True, p.ending, "")
            for p in self.pods
            if p.key == key
        ]

    def count(self, key: Key, name: str, *, ready: bool = False) -> int:
        mine = [p for p in self.pods if p.key == key and name_of(p.option) == name and not p.ending]
        return sum(pod.ready or not ready for pod in mine)

    def holdings(self, key: Key) -> tuple[Holding, ...]:
        return tuple(
            Holding(p.option.pool, "h100" if p.bound and not p.ending else "", p.option.accelerators_per_replica, 0)
            for p in self.pods
            if p.key == key
        )

    def charges(self) -> list[ReplicaCharge]:
        """Of the pods, and of those that are about to be made."""
        found = [charge(pod) for pod in self.pods]
        for key in KEYS:
            made = {name.rsplit("-", 1)[-1]: it for (of, name), (it, _) in self.deployments.items() if of == key}
            for it in unmade(self.children(key), self.replicas(key)):
                found.append(replace(charge(Pod(key, made[it.placement_digest], "")), state=ReplicaState.ASSUMED))
        return found

    def reached(self, wants: dict[Key, Option]) -> bool:
        return Counter((p.key, name_of(p.option)) for p in self.pods if p.ready and not p.ending) == Counter(
            {(key, name_of(it)): it.replicas for key, it in wants.items()}
        ) and len(self.deployments) == len(wants)


def charge(pod: Pod) -> ReplicaCharge:
    each = pod.option.worst_case_milliwatts // pod.option.replicas
    state = ReplicaState.LIVE if pod.bound else ReplicaState.PENDING
    state = ReplicaState.TERMINATING if pod.ending else state
    boards = pod.option.accelerators_per_replica
    return ReplicaCharge(*pod.key, pod.option.pool, pod.uid, None, each, None, state, placement_of(pod.option), boards)


def name_of(it: Option) -> str:
    return f"w-{it.model}{it.pool}{it.accelerators_per_replica}"


def end(cluster: Cluster, wants: dict[Key, Option]) -> set[Order]:
    """How the replacements went; fails where they do not end."""
    orders: set[Order] = set()
    for _ in range(LOOKS):
        cluster.look(wants)
        orders |= {target.order for target in cluster.targets.values()}
        if cluster.reached(wants):
            return orders
    pods = Counter((p.key[1], name_of(p.option), p.ready, p.ending) for p in cluster.pods)
    raise AssertionError(f"waits for ever: {pods}; {cluster.targets}")


def test_a_workload_that_takes_what_another_one_leaves_does_not_hold_up_its_replacement() -> None:
    cluster = Cluster({"": 8}, {FIRST: option(6), SECOND: option(2)})
    orders = end(cluster, {FIRST: option(3, model="m4"), SECOND: option(5)})
    assert Order.ROLLING in orders
    assert Order.BREAK_BEFORE_MAKE not in orders


def test_two_workloads_change_places() -> None:
    cluster = Cluster({"a": 4, "b": 4}, {FIRST: option(4, pool="a"), SECOND: option(4, pool="b")})
    end(cluster, {FIRST: option(4, pool="b"), SECOND: option(4, pool="a")})


def test_old_replicas_that_never_had_accelerators_leave_none() -> None:
    cluster = Cluster({"": 4}, {FIRST: option(8), SECOND: option(1, pool="")})
    cluster.boards[""] = 5
    end(cluster, {FIRST: option(4, model="m4"), SECOND: option(1)})


def test_what_an_evicted_old_replica_could_draw_is_given_to_nobody_until_it_is_made_again() -> None:
    cluster = Cluster({"": 20}, {FIRST: option(4), SECOND: option(1)}, watts=900)
    wants = {FIRST: option(4, model="m4"), SECOND: option(3)}
    cluster.look(wants)
    assert cluster.targets[FIRST].order is Order.MAKE_BEFORE_BREAK
    assert cluster.targets[SECOND].option == option(1), "its 200 W are not free before the old replicas are gone"
    cluster.evictions = {1: (0, 2, False)}
    end(cluster, wants)


placements = st.builds(
    lambda replicas, model, pool, boards: replace(
        option(replicas, model=model, pool=pool), accelerators_per_replica=boards
    ),
    st.integers(1, 5),
    st.sampled_from(("m8", "m4")),
    st.sampled_from(("a", "b")),
    st.sampled_from((1, 1, 2)),
)
evicted = st.dictionaries(
    st.integers(0, 20), st.tuples(st.integers(0, 8), st.integers(1, 5), st.booleans()), max_size=4
)


scaled = st.dictionaries(st.integers(0, 15), st.tuples(st.integers(0, 3), st.integers(0, 7)), max_size=2)


@settings(deadline=None, max_examples=300)
@given(
    before=st.tuples(placements, placements),
    between=st.tuples(placements, placements),
    after=st.tuples(placements, placements),
    looks=st.integers(0, 12),
    spare_watts=st.sampled_from((0, 100, 200, PLENTY)),
    evictions=evicted,
    scalings=st.one_of(st.just({}), scaled),
)
def test_whatever_is_wanted_in_full_pools_is_reached(
    *,
    before: tuple[Option, ...],
    between: tuple[Option, ...],
    after: tuple[Option, ...],
    looks: int,
    spare_watts: int,
    evictions: dict[int, tuple[int, int, bool]],
    scalings: dict[int, tuple[int, int]],
) -> None:
    full: Counter[str] = Counter()
    for wanted in (before, between, after):
        taken: Counter[str] = Counter()
        for it in wanted:
            taken[it.pool] += it.replicas * it.accelerators_per_replica
        full |= taken
    cluster = Cluster({"a": full["a"], "b": full["b"]}, dict(zip(KEYS, before, strict=True)))
    cluster.evictions, cluster.scalings = evictions, scalings
    needed = max(sum(it.worst_case_milliwatts for it in two) for two in (before, between, after))
    cluster.watts = needed // 1000 + spare_watts
    for _ in range(looks):
        cluster.look(dict(zip(KEYS, between, strict=True)))
    end(cluster, dict(zip(KEYS, after, strict=True)))
