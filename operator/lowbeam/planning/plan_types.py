"""What planning answers: one choice per workload, prices, and what cannot be met.

Invariant: the choices together respect every cap (committed <= usable) and every inventory row; checked in integers by
`planning.feasibility` before a plan leaves this package.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lowbeam.sizing.options import Option, Rejection
from lowbeam.sizing.wishes import Advice


@dataclass(frozen=True, slots=True)
class Alternative:
    """An option that lost, and why: `reason` is a constant, `message` a sentence with the priced difference."""

    option: Option
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Choice:
    """The decision for one workload. `option` None: nothing runs (`reason` says why)."""

    namespace: str
    name: str
    option: Option | None
    reason: str
    message: str
    desired: Option | None = None
    """What it would run if no cap bound (same inventory): the difference to `option` is the dimming."""
    binding_cap: str = ""
    """The cap that stands between `option` and `desired`; empty when not dimmed.

    Dimmed means less service or less quality than desired. A cap that only trims burst head-room, or moves the workload
    to another class at the same service, dims nobody."""
    shortage: str = ""
    """What it asks for and does not get although no cap dims it, and why; empty when there is nothing."""
    pinned: bool = False
    """True when anti-flap keeps `option`, which runs, where another setting is desired."""
    keeps_running: bool = False
    """True when there is no option and what runs stays nevertheless, as pods stay beside a bad image."""
    alternatives: tuple[Alternative, ...] = ()
    rejections: tuple[Rejection, ...] = ()
    recommendations: tuple[Advice, ...] = ()
    """What looser wishes would save, the largest saving first."""
    explained: bool = False
    """Whether alternatives and recommendations are worked out; they come after the decision."""

    @property
    def key(self) -> tuple[str, str]:
        """(namespace, name)."""
        return (self.namespace, self.name)


@dataclass(frozen=True, slots=True)
class Plan:
    """The planner's answer for one snapshot."""

    choices: tuple[Choice, ...]
    cap_milliwatts: dict[str, int] = field(default_factory=dict)
    """Committed milliwatts of the plan per cap."""
    reserved_milliwatts: Mapping[str, int] = field(default_factory=dict)
    """Per cap: what is left to pods that no option of the plan stands for (not planned, or kept without an option)."""
    cap_price: dict[str, float] = field(default_factory=dict)
    """Loss avoided per extra watt of each cap, 0 when it does not bind."""
    unsatisfiable_caps: dict[str, str] = field(default_factory=dict)
    """Caps that cannot hold the minimum of their workloads: cap -> sentence."""

    proven: bool = True
    """Whether no better choice is possible, without caps and under them. False in large fleets with scarce watts or
    accelerators, where a limit ends the search."""
    passes_given_up: int = 0
    """Passes of the optimiser that turned on the spot and were ended by a limit of time, or were left out as there were
    too many; and one for exchanges after them that did not come to rest."""

    def choice(self, namespace: str, name: str) -> Choice | None:
        """The choice of one workload."""
        return next((c for c in self.choices if c.key == (namespace, name)), None)
