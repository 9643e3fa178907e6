"""Builders for tests of the power control: options, workloads, caps, pods and views with sensible rest."""

from __future__ import annotations

from dataclasses import replace

from lowbeam.catalog.facts import Basis, Reasoning
from lowbeam.planning.committed import placement_of
from lowbeam.power.caps import Cap, CapTree, RestoreRules
from lowbeam.power.gate import CapView
from lowbeam.power.ledger import ReplicaCharge, ReplicaState
from lowbeam.power.windows import PowerWindow
from lowbeam.sizing.options import Option
from lowbeam.sizing.requirements import Demand, Requirements

NOW = 1_000_000


def option(replicas: int = 2, batch: int = 8, model: str = "m8", pool: str = "", each_watts: int = 100) -> Option:
    watts = replicas * each_watts * 1000
    return Option(
        model=model,
        precision="bf16",
        reasoning=Reasoning.OFF,
        accelerator_class="h100",
        accelerators_per_replica=1,
        batch_limit=batch,
        replicas=replicas,
        pool=pool,
        engine="e",
        expected_milliwatts=watts * 9 // 10,
        worst_case_milliwatts=watts,
        capacity_millirps=1000 * replicas,
        unserved_millirps=0,
        quality_centi=5000,
        quality_shortfall_centi=0,
        millijoules_per_request=1,
        latency_p95_ms=1,
        basis=Basis.MEASURED,
    )


def needs(key: tuple[str, str], priority: int = 500) -> Requirements:
    return Requirements(
        namespace=key[0],
        name=key[1],
        uid=key[1],
        task="text-generation",
        demand=Demand(1000, 1, 1),
        benchmark="b",
        floor_centi=0,
        target_centi=0,
        below_floor_when_capped=False,
        end_to_end_ms=None,
        time_to_first_token_ms=None,
        inter_token_ms=None,
        reasoning=Reasoning.OFF,
        generative_allowed=True,
        model_names=(),
        licences=(),
        pinned_model="",
        priority=priority,
        min_replicas=1,
        max_replicas=20,
        fixed_replicas=None,
        max_millijoules_per_request=None,
        max_milliwatts=None,
        accelerator_classes=(),
    )


def cap(name: str = "cluster", watts: int = 1000, **changes: object) -> Cap:
    base = Cap(
        name, name, "", watts, 0, 0, (), enforce=True, pause_lowest=False, restore=RestoreRules(jitter_seconds=0)
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def pods(
    key: tuple[str, str], opt: Option, count: int | None = None, state: ReplicaState = ReplicaState.LIVE
) -> list[ReplicaCharge]:
    each = opt.worst_case_milliwatts // opt.replicas
    return [
        ReplicaCharge(
            *key, opt.pool, f"{key}{i}", None, each, None, state, placement_of(opt), opt.accelerators_per_replica
        )
        for i in range(opt.replicas if count is None else count)
    ]


def views(tree: CapTree, *, growth: bool = True, needs_milliwatts: int = 0, watts: int = 100) -> dict[str, CapView]:
    window = PowerWindow()
    for at_ms in range(NOW - 62_000, NOW + 1, 2_000):
        window = window.append(at_ms, watts * 1000)
    return {
        c.name: CapView(c, u, window, 100, growth, needs_milliwatts)
        for c, u in zip(tree.caps, tree.usable_milliwatts, strict=True)
    }
