"""The cap tree: which watts limit which replicas.

Decides the effective and usable milliwatts of every cap. Never decides who is dimmed.

Invariants: the effective cap is the smallest on the path to the root; overlaps take the smallest; children may add up
to more than their parent; a cap in trouble (cycle, missing parent) is reported and the others stay in force.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Percent of usable watts; defaults and reasons in docs/design (control.md)."""

    soft_shed_percent: int = 97
    hard_shed_percent: int = 100
    emergency_percent: int = 105
    shed_target_percent: int = 94


@dataclass(frozen=True, slots=True)
class RestoreRules:
    """When watts may come back."""

    gate_percent: int = 88
    committed_percent: int = 94
    window_seconds: int = 60
    dwell_seconds: int = 120
    jitter_seconds: int = 30
    step_seconds: int = 30
    ramp_percent_per_minute: int = 5
    coverage_percent: int = 95


@dataclass(frozen=True, slots=True)
class Cap:
    """One PowerCap as the core sees it. `pool`/`namespaces` None = not limited to them (both None: the cluster)."""

    name: str
    uid: str
    parent: str
    watts: int
    """In force now: `power.outlook` works them out of the spec and the instant."""
    meter_tolerance_percent: int
    overhead_watts: int
    levers: tuple[str, ...]
    enforce: bool
    pause_lowest: bool
    pool: str | None = None
    namespaces: frozenset[str] | None = None
    thresholds: Thresholds = Thresholds()
    restore: RestoreRules = RestoreRules()
    late_seconds: int = 5
    stale_seconds: int = 15
    planned_watts: int | None = None
    """Fewer watts that a coming cut announces, which plans and restores keep to already; None = as `watts`."""
    admitted_watts: int | None = None
    """What moves on the way to the plan keep to: between the two others; None = as `watts`."""
    nested_pools: frozenset[str] = frozenset()
    """Pools of the caps below this one; `build_cap_tree` fills it in for pool caps: a rack counts in its row."""

    @property
    def watts_to_plan_with(self) -> int:
        """`watts`, or fewer when a cut is close."""
        return self.watts if self.planned_watts is None else self.planned_watts

    def covers(self, namespace: str, pool: str) -> bool:
        """True when a replica of `namespace` on `pool` counts against this cap."""
        in_pool = self.pool is None or self.pool == pool or pool in self.nested_pools
        return in_pool and (self.namespaces is None or namespace in self.namespaces)


@dataclass(frozen=True, slots=True)
class CapProblem:
    """A cap that cannot be placed in the tree: reason constant and a sentence that says what to do."""

    cap: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class CapTree:
    """All caps in name order, those in trouble with their own limit; build with `power.tree.build_cap_tree`."""

    caps: tuple[Cap, ...] = ()
    usable_milliwatts: tuple[int, ...] = ()
    """Parallel to `caps`: the smallest usable figure on the path to the root, now. Nothing may be above it."""
    planned_milliwatts: tuple[int, ...] = ()
    """Parallel to `caps`: the same with cuts that are close, at most `usable_milliwatts`. Plans keep to it."""
    admitted_milliwatts: tuple[int, ...] = ()
    """Parallel to `caps`: what may be committed on the way to a plan, between the two others."""
    limited_by: tuple[str, ...] = ()
    """Parallel to `caps`: the cap on the path that set it."""
    problems: tuple[CapProblem, ...] = ()

    def usable(self, cap: str) -> int | None:
        """Usable milliwatts of one cap, None for a name that is not in the tree."""
        return next((u for c, u in zip(self.caps, self.usable_milliwatts, strict=True) if c.name == cap), None)

    def enforced(self) -> tuple[tuple[Cap, int], ...]:
        """The caps that act, each with the milliwatts that a plan may commit under it, in name order."""
        return tuple((c, u) for c, u in zip(self.caps, self.planned_milliwatts, strict=True) if c.enforce)

    def admitted(self) -> tuple[tuple[Cap, int], ...]:
        """The caps that act, each with the milliwatts that may be committed on the way to a plan."""
        return tuple((c, u) for c, u in zip(self.caps, self.admitted_milliwatts, strict=True) if c.enforce)

    def enforced_over(self, namespace: str, pool: str) -> tuple[tuple[Cap, int], ...]:
        """The acting caps that a replica of `namespace` on `pool` counts against."""
        return tuple((c, u) for c, u in self.enforced() if c.covers(namespace, pool))
