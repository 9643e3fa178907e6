"""Options: every complete way to run one workload, in integers.

Decides which (variant x class x accelerators x batch x replicas x pool) can serve a workload and what each costs.
Nothing else in Lowbeam invents an option. Never looks at caps or at other workloads.
"""

from __future__ import annotations

from dataclasses import dataclass

from lowbeam.catalog.engines import engine_named
from lowbeam.catalog.facts import Basis, Reasoning
from lowbeam.catalog.stars import stars

PlacementKey = tuple[str, str, Reasoning, str, int, str, str, int]


@dataclass(frozen=True, slots=True)
class Option:
    """One complete way to run a workload. Watts are for all replicas together."""

    model: str
    precision: str
    reasoning: Reasoning
    accelerator_class: str
    accelerators_per_replica: int
    batch_limit: int
    replicas: int
    pool: str
    engine: str
    """What serves, as `spec.engine` names it. Which engine a profile was measured with is part of the profile; its
    figures are what we have until somebody measures this one."""
    expected_milliwatts: int
    """At the demand, idle included."""
    worst_case_milliwatts: int
    """All replicas busy at the batch limit: what the committed ledger charges."""
    capacity_millirps: int
    """Requests per second within the SLO, thousandths."""
    unserved_millirps: int
    """Demand above the capacity."""
    quality_centi: int | None
    quality_shortfall_centi: int
    """Below the target (not the floor); 0 when the target is met."""
    millijoules_per_request: int
    latency_p95_ms: int
    basis: Basis
    below_floor: bool = False
    uncertainty_percent: int = 0
    """Half-width of the error of a modelled profile: expected figures are its middle, worst-case watts its upper
    end."""
    board_limit_watts: int = 0
    """Power limit of each board, which the node's agent sets; 0: as the boards are."""
    unlimited_basis: Basis | None = None
    """Of the figures that the power limit was worked out for; None without one."""

    @property
    def id(self) -> str:
        """Stable text identity; ties are broken by it."""
        limit = f"/w{self.board_limit_watts}" if self.board_limit_watts else ""
        return (
            f"{self.model}/{self.precision}/{self.reasoning}/{self.accelerator_class}x{self.accelerators_per_replica}"
            f"/b{self.batch_limit}/r{self.replicas}/{self.pool}/{self.engine}{limit}"
        )

    def rating(self, task: str) -> int | None:
        """Stars of a request; None: unrated. A power limit alone takes no evidence away: figures that are known without
        one earn stars by the upper end of what they are worked out to be under it."""
        if self.unlimited_basis is None:
            return stars(task, self.reasoning, self.millijoules_per_request, self.basis)
        most = -(-self.millijoules_per_request * (100 + self.uncertainty_percent) // 100)
        return stars(task, self.reasoning, most, self.unlimited_basis)

    @property
    def placement_key(self) -> PlacementKey:
        """What needs its own Deployment: everything but replicas, and but what changes in place: the power limit of
        the boards, and a batch limit.

        Ends with the batch limit of an engine that reads it only when it starts, 0 for the others.
        """
        return (
            self.model,
            self.precision,
            self.reasoning,
            self.accelerator_class,
            self.accelerators_per_replica,
            self.pool,
            self.engine,
            0 if engine_named(self.engine).hot_batch else self.batch_limit,
        )

    @property
    def accelerators(self) -> int:
        """Taken from the inventory of (class, pool): boards, or slots of the class `cpu`, one per replica."""
        return max(1, self.accelerators_per_replica) * self.replicas

    @property
    def setting(self) -> tuple[PlacementKey, int, int, int]:
        """What is configured, without what it costs at today's demand: two options with one setting are the same."""
        return (self.placement_key, self.batch_limit, self.replicas, self.board_limit_watts)


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a way to run the workload is not an option: the filter, a sentence, and the figure that missed."""

    subject: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class OptionSet:
    """What sizing answers for one workload."""

    options: tuple[Option, ...]
    """In id order; empty: nothing in the catalogue and the inventory can run it."""
    rejections: tuple[Rejection, ...]
    """In catalogue order, one per subject: the first filter that said no."""
    running: Option | None = None
    """The running setting at today's demand; None when nothing runs or when it is no longer allowed."""
    relaxation: str = ""
    """Without options: the single relaxation that would give one, or why none would."""
