"""Fleets by formula: the workloads, nodes and limits that the planner and the fleet benchmark share.

Decides sizes only, from a seed: the same arguments give the same objects on every machine. Shaped like the instances
of the planner's design: rates lognormal with sigma 1.6, four weights of priority, namespaces of Pareto sizes, several
pools with two accelerator classes each. Options come from the built-in catalogue, so each workload has base options
times replica steps.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from datetime import date
from random import Random
from typing import Any

from lowbeam.api.v1alpha1 import InferenceWorkload
from lowbeam.catalog import load_builtin
from lowbeam.catalog.facts import Catalogue
from lowbeam.errors import BadInput
from lowbeam.planning import Inventory, Plan, Snapshot, WorkloadState
from lowbeam.power.caps import Cap, CapTree
from lowbeam.power.tree import build_cap_tree
from lowbeam.sizing import Refusal, Requirements, requirements_of

Manifest = dict[str, Any]

_TODAY = date(2026, 1, 1)
_CLASSES = ("h100", "l4", "a100", "b200")
_PRIORITIES = ((100, 40), (300, 30), (600, 20), (900, 10))
"""(priority, share in percent)."""
_LEVERS = ("Batch", "PowerLimit", "Replicas", "Precision", "Model", "Pause")
_PLENTY = 4000
"""Accelerators per pool and class: more than any fleet here takes."""
_RATE_SIGMA = 1.6
_NODE_GPUS = 8
_POOL_LABEL = "lowbeam.dev/pool"


@dataclass(frozen=True, slots=True)
class Task:
    """What a workload of one task asks for, and its median rate in requests per minute."""

    name: str
    rate: float
    tokens: tuple[int, int]
    benchmark: str
    floors: tuple[str, ...]
    latency: Manifest


_TASKS = (
    Task(
        "text-generation",
        60,
        (500, 300),
        "mmlu-pro",
        ("45.0", "60.0", "70.0"),
        {"timeToFirstTokenMilliseconds": 3000, "interTokenMilliseconds": 100},
    ),
    Task(
        "code-completion",
        120,
        (800, 120),
        "humaneval",
        ("70.0", "85.0"),
        {"timeToFirstTokenMilliseconds": 500, "interTokenMilliseconds": 50},
    ),
    Task("text-classification", 3000, (200, 1), "sst2", ("90.0", "93.0"), {"endToEndMilliseconds": 1000}),
    Task("feature-extraction", 3000, (128, 1), "mteb-en-v1", ("56.0",), {"endToEndMilliseconds": 1000}),
)


def workloads(count: int, seed: int = 1) -> list[Manifest]:
    """InferenceWorkloads, as a user would write them."""
    draw = _seeded(seed)
    spaces = max(2, count // 5)
    made = []
    for index in range(count):
        task = _TASKS[index % len(_TASKS)]
        space = min(int(draw.paretovariate(1.2) - 1), spaces - 1)
        rate = task.rate * math.exp(draw.gauss(0.0, _RATE_SIGMA))
        priorities, shares = zip(*_PRIORITIES, strict=True)
        made.append(
            {
                "apiVersion": "lowbeam.dev/v1alpha1",
                "kind": "InferenceWorkload",
                "metadata": {"name": f"w{index:04d}", "namespace": f"team-{space:03d}"},
                "spec": {
                    "task": task.name,
                    "load": {
                        "requestsPerMinute": max(1, round(rate)),
                        "inputTokens": task.tokens[0],
                        "outputTokens": task.tokens[1],
                    },
                    "quality": {"benchmark": task.benchmark, "floor": draw.choice(task.floors)},
                    "latency": task.latency,
                    "priority": draw.choices(priorities, weights=shares)[0],
                    "scaling": {"minReplicas": 1, "maxReplicas": 64},
                },
            }
        )
    return made


def pool_names(count: int) -> list[str]:
    """Pools of a fleet of `count` workloads: 2 to 20."""
    return [f"pool-{i:02d}" for i in range(min(20, max(2, count // 10)))]


def shelves(count: int) -> list[tuple[str, str]]:
    """(pool, accelerator class): two classes in each pool."""
    return [
        (pool, _CLASSES[(i + step) % len(_CLASSES)]) for i, pool in enumerate(pool_names(count)) for step in range(2)
    ]


def nodes(count: int) -> list[Manifest]:
    """GPU nodes for KWOK with room for `count` workloads: most of them choose L4."""
    by_class = Counter(name for _, name in shelves(count))
    made = []
    for pool, name in shelves(count):
        boards = max(_NODE_GPUS, round(count * (1.2 if name == "l4" else 0.25)) // by_class[name])
        made += [_node(f"{pool}-{name}-{i}", pool, name) for i in range(-(-boards // _NODE_GPUS))]
    return made


def power_caps(count: int, watts: int) -> list[Manifest]:
    """A cap over the cluster and one over each pool, each with so many watts."""
    scopes: list[tuple[str, Manifest]] = [("cluster", {"cluster": {}})]
    scopes += [(pool, {"nodePool": {"nodeSelector": {_POOL_LABEL: pool}}}) for pool in pool_names(count)]
    return [
        {
            "apiVersion": "lowbeam.dev/v1alpha1",
            "kind": "PowerCap",
            "metadata": {"name": name},
            "spec": {"scope": scope, "watts": watts, **({} if name == "cluster" else {"parent": "cluster"})},
        }
        for name, scope in scopes
    ]


def _seeded(seed: int) -> Random:
    return Random(seed)  # noqa: S311 - a formula that must give the same fleet every time


def _node(name: str, pool: str, accelerator_class: str) -> Manifest:
    product = load_builtin().accelerator_classes[accelerator_class].product_labels[0]
    room = {"cpu": "128", "memory": "2Ti", "pods": "110", "nvidia.com/gpu": str(_NODE_GPUS)}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {"kwok.x-k8s.io/node": "fake"},
            "labels": {
                "kubernetes.io/arch": "amd64",
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                _POOL_LABEL: pool,
                "nvidia.com/gpu.present": "true",
                "nvidia.com/gpu.product": product,
            },
        },
        "spec": {"taints": [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}]},
        "status": {"allocatable": room, "capacity": room},
    }


def requirements(count: int, seed: int = 1) -> list[Requirements]:
    """What the workloads need, in the form that planning takes."""
    catalogue, needs = load_builtin(), []
    for raw in workloads(count, seed):
        workload = InferenceWorkload.model_validate(raw)
        space, name = raw["metadata"]["namespace"], raw["metadata"]["name"]
        answer = requirements_of(space, name, f"uid-{name}", workload.spec, catalogue, None, _TODAY)
        if isinstance(answer, Refusal):
            raise BadInput(f"{space}/{name} cannot be planned: {answer.field}: {answer.message}")
        needs.append(answer)
    return needs


def unlimited(count: int, seed: int = 1) -> Snapshot:
    """A snapshot in which nothing binds."""
    stock = tuple(Inventory(pool, name, _PLENTY, 8) for pool, name in shelves(count))
    states = tuple(WorkloadState(it) for it in requirements(count, seed))
    return Snapshot(fresh_catalogue(), CapTree(), stock, states)


def fresh_catalogue() -> Catalogue:
    """The built-in catalogue as a new value: planning then remembers no answer of an earlier snapshot."""
    return replace(load_builtin())


def under_cluster_cap(snapshot: Snapshot, free: Plan, percent: int) -> Snapshot:
    """One cap of the cluster at a share of what the plan without caps commits."""
    total = sum(c.option.worst_case_milliwatts for c in free.choices if c.option)
    return replace(snapshot, caps=build_cap_tree([_cap("cluster", total * percent // 100)]))


def under_every_limit(snapshot: Snapshot, free: Plan, seed: int = 1) -> Snapshot:
    """Caps of cluster (75 %), pools (0.54-1.44) and namespaces (0.57-1.52), and stock (0.63-1.35) of what was used."""
    draw = _seeded(seed)
    watts: dict[tuple[str, str], int] = {}
    boards: dict[tuple[str, str], int] = {}
    for choice in free.choices:
        if (option := choice.option) is None:
            continue
        for where in (("cluster", ""), ("pool", option.pool), ("namespace", choice.namespace)):
            watts[where] = watts.get(where, 0) + option.worst_case_milliwatts
        shelf = (option.pool, option.accelerator_class)
        boards[shelf] = boards.get(shelf, 0) + option.accelerators
    spans = {"cluster": (0.75, 0.75), "pool": (0.54, 1.44), "namespace": (0.57, 1.52)}
    caps = [
        _cap(
            "cluster" if kind == "cluster" else f"{kind}-{name}",
            round(used * draw.uniform(*spans[kind])),
            pool=name if kind == "pool" else None,
            namespace=name if kind == "namespace" else None,
        )
        for (kind, name), used in sorted(watts.items())
    ]
    stock = tuple(
        replace(row, accelerators=max(8, round(boards[row.pool, row.accelerator_class] * draw.uniform(0.63, 1.35))))
        if (row.pool, row.accelerator_class) in boards
        else row
        for row in snapshot.inventory
    )
    return replace(snapshot, caps=build_cap_tree(caps), inventory=stock)


def short_of_boards(snapshot: Snapshot, plan: Plan, percent: int) -> Snapshot:
    """The cycle after nodes were lost: everybody runs what was planned, and stock is a share of what that takes."""
    used: Counter[tuple[str, str]] = Counter()
    for choice in plan.choices:
        if (option := choice.option) is not None:
            used[option.pool, option.accelerator_class] += option.accelerators
    stock = tuple(
        replace(row, accelerators=max(1, used[row.pool, row.accelerator_class] * percent // 100))
        for row in snapshot.inventory
    )
    return running(replace(snapshot, inventory=stock), plan)


def running(snapshot: Snapshot, plan: Plan) -> Snapshot:
    """The next cycle: every workload runs what was planned for it."""
    chosen = {choice.key: choice.option for choice in plan.choices}
    states = tuple(replace(it, running=chosen[it.requirements.key]) for it in snapshot.workloads)
    return replace(snapshot, workloads=states)


def drifted(snapshot: Snapshot, plan: Plan, seed: int = 1) -> Snapshot:
    """The cycle after, with the rate of 3 % of the workloads moved by a tenth."""
    draw = _seeded(seed)
    after = running(snapshot, plan)
    moved = set(draw.sample(range(len(after.workloads)), max(1, round(len(after.workloads) * 0.03))))
    states = []
    for index, state in enumerate(after.workloads):
        needs = state.requirements
        if index in moved:
            rate = needs.demand.requests_per_second_milli * draw.choice((90, 110)) // 100
            needs = replace(needs, demand=replace(needs.demand, requests_per_second_milli=max(1, rate)))
        states.append(replace(state, requirements=needs))
    return replace(after, workloads=tuple(states))


def _cap(name: str, milliwatts: int, pool: str | None = None, namespace: str | None = None) -> Cap:
    return Cap(
        name=name,
        uid=f"uid-{name}",
        parent="",
        watts=max(1, milliwatts // 1000),
        meter_tolerance_percent=0,
        overhead_watts=0,
        levers=_LEVERS,
        enforce=True,
        pause_lowest=True,
        pool=pool,
        namespaces=None if namespace is None else frozenset({namespace}),
    )
