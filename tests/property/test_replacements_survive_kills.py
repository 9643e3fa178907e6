"""A leader that is killed at its every write, and each successor too, replaces share by share all the same.

The real memory of a new leader (`recover`), its real decisions and writes, on an API server in memory; the pods, a
scheduler and somebody who ends one life after the other fit in a page. No successor lives to hear of a worker.
"""

from __future__ import annotations

import asyncio
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any
from unittest.mock import MagicMock

from hypothesis import given, settings
from hypothesis import strategies as st

from lowbeam.cli.plan import snapshot_of
from lowbeam.kube import DEPLOYMENTS, SERVICES, Applier, Request, ServerUnavailable
from lowbeam.planning.committed import Order, Target
from lowbeam.planning.plan import sizer_for
from lowbeam.planning.plan_types import Choice, Plan
from lowbeam.planning.snapshot import Snapshot, WorkloadState
from lowbeam.planning.transition import next_targets
from lowbeam.power.gate import GateState
from lowbeam.power.tree import build_cap_tree
from lowbeam.render import labels
from lowbeam.runtime.executor import Executor
from lowbeam.runtime.fleet import WorkloadMemory
from lowbeam.runtime.inventory import holdings
from lowbeam.runtime.meters import Meters
from lowbeam.runtime.recovery import Trace, recover
from lowbeam.runtime.settings import OperatorSettings
from lowbeam.runtime.status_workload import workload_status
from lowbeam.runtime.world import Objects, Parser, World, build_world
from lowbeam.sizing import Option, Sizer
from tests.fakes.agents import no_agents
from tests.fakes.power_fleet import NOW, cap, views
from tests.fakes.transport import FakeTransport
from tests.operator_harness import BULK
from tests.raw_objects import CATALOGUE, TODAY, iw, node
from tests.unit.test_runtime_status import CHOICE, FACTS
from tests.unit.test_runtime_status import NOW as MOMENT

KEY = ("team", "w")
H100 = next(iter(CATALOGUE.accelerator_classes["h100"].product_labels))
LIVES = 60


def objects_of(replicas: int, **more: Any) -> Objects:
    """A workload in a pool that has room for no replica more."""
    fixed = {
        "scaling": {"minReplicas": replicas, "maxReplicas": replicas},
        "placement": {"acceleratorClasses": ["h100"]},
        "quality": {"benchmark": "mmlu-pro", "floor": "0"},
    }
    pool = node("n1", boards=replicas, **{"nvidia.com/gpu.product": H100})
    return Objects(workloads=(iw("w", **{**BULK, **fixed}),), nodes=(pool,), **more)


@cache
def sizing(replicas: int) -> tuple[World, Sizer]:
    world = build_world(objects_of(replicas), TODAY, Parser())
    return world, sizer_for(snapshot_of(world))


def option(model: str, batch_limit: int, replicas: int) -> Option:
    world, sizer = sizing(replicas)
    needs = world.requirements[KEY]
    some = sizer.options_for(needs).options[0]
    asked = replace(some, model=model, precision="bf16", engine="Native", batch_limit=batch_limit, replicas=replicas)
    running = sizer.options_for_all([(needs, asked)])[0].running
    assert running is not None
    return running


@dataclass(slots=True)
class Cluster:
    old: Option
    new: Option
    cap_milliwatts: int
    pods: list[dict[str, Any]] = field(default_factory=list)
    server: FakeTransport = field(default_factory=FakeTransport)
    status: dict[str, Any] = field(default_factory=dict)
    orders: set[Order] = field(default_factory=set)
    born: int = 0

    def __post_init__(self) -> None:
        self.tell(self.old)
        world, _ = sizing(self.old.replicas)
        asyncio.run(self.executor().carry_out(world, KEY, Target(self.old), {}))
        for _ in range(3):
            self.the_cluster_works()
        assert self.serving() == self.old.replicas

    def tell(self, option: Option) -> None:
        self.status = workload_status(FACTS, WorkloadMemory(target=Target(option), choice=CHOICE), {}, MOMENT)

    def executor(self) -> Executor:
        return Executor(Applier(self.server), MagicMock(), OperatorSettings("tests"), no_agents())

    def life(self, *, told: bool) -> None:
        """A leader finds what there is, decides, and is killed at its first write; `told`: it wrote the status."""
        (service,) = self.server.stored(SERVICES)
        seen = objects_of(self.old.replicas, deployments=tuple(self.deployments()), pods=tuple(deepcopy(self.pods)))
        world = replace(build_world(seen, TODAY, Parser()), services={KEY: service})
        _, sizer = sizing(self.old.replicas)
        needs = world.requirements[KEY]
        memory = recover([Trace(self.status, needs, world.children.get(KEY, []))], sizer)[0]
        assert memory.target is not None
        running = memory.target.option
        charges = Meters().read(world, {KEY: running}, {}, NOW).charges
        if running is not None and running.model == self.old.model:  # the first one knew what each worker may draw
            each = self.old.worst_case_milliwatts // self.old.replicas
            charges = tuple(replace(charge, worst_case_milliwatts=each) for charge in charges)
        pods = holdings(charges, world.replicas[KEY], world.node_classes)[KEY]
        tree = build_cap_tree([cap(watts=-(-self.cap_milliwatts // 1000))])
        choice = Choice(*KEY, self.new, "r", "m", binding_cap="cluster")
        result = next_targets(
            Snapshot(world.catalogue, tree, world.inventory, (WorkloadState(needs, running, pods=pods),)),
            Plan((choice,), cap_milliwatts={"cluster": self.new.worst_case_milliwatts}),
            targets={KEY: memory.target},
            charges=charges,
            views=views(tree),
            gate=GateState(),
            now_ms=NOW,
        )
        target = result.targets[KEY]
        self.orders.add(target.order)
        if told and len(world.children[KEY]) > 1:  # Deployments are written first
            assert target.option is not None
            self.tell(target.option)
            return
        writes = 0

        def one_write(request: Request) -> Exception | None:
            nonlocal writes
            writes += 1
            return ServerUnavailable(request, "killed") if writes > 1 else None

        self.server.fault = one_write
        asyncio.run(self.executor().carry_out(world, KEY, target, {}))
        self.server.fault = lambda _: None

    def the_cluster_works(self) -> None:
        self.pods = [pod for pod in self.pods if "deletionTimestamp" not in pod["metadata"]]
        for pod in self.pods:
            if pod["spec"].get("nodeName"):
                pod["status"]["conditions"] = [{"type": "Ready", "status": "True"}]
            elif sum("nodeName" in it["spec"] for it in self.pods) < self.old.replicas:
                pod["spec"]["nodeName"] = "n1"
        wanted = {
            it["metadata"]["labels"][labels.PLACEMENT]: (it, it["spec"]["replicas"])
            for it in self.server.stored(DEPLOYMENTS)
        }
        for digest in sorted({digest_of(pod) for pod in self.pods} | wanted.keys()):
            there = [pod for pod in self.pods if digest_of(pod) == digest]
            made_from, count = wanted.get(digest, ({}, 0))
            for pod in there[count:]:
                pod["metadata"]["deletionTimestamp"] = "2026-11-21T09:00:00Z"
            for _ in range(count - len(there)):
                self.born += 1
                template = deepcopy(made_from["spec"]["template"])
                template["metadata"] |= {"name": f"p{self.born}", "uid": f"p{self.born}", "namespace": "team"}
                self.pods.append({**template, "status": {}})
        drawn = sum(self.each(digest_of(pod)) for pod in self.pods)
        assert drawn <= self.cap_milliwatts, "more than the cap has room for"

    def each(self, digest: str) -> int:
        """What a pod draws at most."""
        mine = next(it for it in (self.old, self.new) if self.digest(it) == digest)
        return mine.worst_case_milliwatts // mine.replicas

    def digest(self, it: Option) -> str:
        made = self.executor().manifest(sizing(self.old.replicas)[0], KEY, it, it.replicas)
        digest: str = made["metadata"]["labels"][labels.PLACEMENT]
        return digest

    def deployments(self) -> list[dict[str, Any]]:
        found = self.server.stored(DEPLOYMENTS)
        for it in found:
            mine = [pod for pod in self.pods if digest_of(pod) == it["metadata"]["labels"][labels.PLACEMENT]]
            seen = it["metadata"].get("generation", 1)
            it["status"] = {"observedGeneration": seen, "updatedReplicas": 99, "readyReplicas": sum(map(serves, mine))}
        return found

    def serving(self) -> int:
        return sum(map(serves, self.pods))

    def done(self) -> bool:
        (first, *more) = self.server.stored(DEPLOYMENTS)
        made = [digest_of(pod) for pod in self.pods if serves(pod)] == [self.digest(self.new)] * self.new.replicas
        return made and not more and first["spec"]["replicas"] == self.new.replicas


def digest_of(pod: dict[str, Any]) -> str:
    digest: str = pod["metadata"]["labels"][labels.PLACEMENT]
    return digest


def serves(pod: dict[str, Any]) -> bool:
    return bool(pod["status"].get("conditions")) and "deletionTimestamp" not in pod["metadata"]


MODELS = ("qwen3-8b", "qwen3-4b-instruct-2507", "qwen3-0.6b")


@settings(deadline=None, max_examples=30)
@given(
    models=st.permutations(MODELS),
    batch_limits=st.tuples(st.sampled_from((8, 64, 192)), st.sampled_from((8, 64, 192))),
    replicas=st.integers(2, 6),
    spare_milliwatts=st.sampled_from((0, 150_000)),
    pace=st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=20),
)
def test_with_a_leader_for_each_write_all_but_one_replica_serve_throughout(
    models: list[str],
    batch_limits: tuple[int, int],
    replicas: int,
    spare_milliwatts: int,
    pace: list[tuple[int, bool]],
) -> None:
    old, new = (option(*it, replicas) for it in zip(models, batch_limits, strict=False))
    cluster = Cluster(old, new, max(old.worst_case_milliwatts, new.worst_case_milliwatts) + spare_milliwatts)
    for works, told in [*pace, *((3, False) for _ in range(LIVES))]:
        cluster.life(told=told)
        for _ in range(works):
            cluster.the_cluster_works()
            assert cluster.serving() >= replicas - 1
        if cluster.done():
            break
    assert cluster.done()
    assert Order.BREAK_BEFORE_MAKE not in cluster.orders
