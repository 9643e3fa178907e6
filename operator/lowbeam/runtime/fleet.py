"""What a leader remembers between cycles: the target of each workload, why it is dimmed, and the last decisions.

Everything here can be rebuilt from the objects' status after a restart; nothing is decided from it that a snapshot does
not also hold.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from lowbeam.kube import KubeError
from lowbeam.planning import Choice
from lowbeam.planning.committed import Target
from lowbeam.power.gate import Hold
from lowbeam.runtime.replicas import WorkloadKey
from lowbeam.sizing import Option


@dataclass(frozen=True, slots=True)
class Dimming:
    """What a cap took from a workload, as the status shows it."""

    lever: str
    since: datetime
    reason: str
    power_cap: str
    decision_id: str
    milliwatts_freed: int
    quality_lost_centi: int


@dataclass(frozen=True, slots=True)
class Decision:
    """One line of a workload's history; also its Event and its log line."""

    time: datetime
    decision_id: str
    action: str
    message: str


NOT_CARRIED_OUT = "what was decided to be carried out"


@dataclass(slots=True)
class WorkloadMemory:
    """All that the runtime keeps about one workload."""

    target: Target | None = None
    decision: Decision | None = None
    """The one that made the target."""
    choice: Choice | None = None
    dimming: Dimming | None = None
    history: tuple[Decision, ...] = ()
    held: Hold | None = None
    """Why a better option is not taken yet; None when there is none."""
    waiting_for: str = ""
    """What the executor waits for; empty when the children are as decided."""
    planned_generation: int | None = None
    """The spec that target and choice answer; None before the first plan."""
    rises_from_ms: int = 0
    """Before this nothing that runs takes a higher batch limit: a leader before may have dimmed it and not told."""
    write_error: KubeError | None = None
    """Why the last write of a child was refused; None when it was not."""

    def planned(self, generation: int) -> bool:
        """The plan has seen this generation of the spec; whether it is the first to."""
        if generation == self.planned_generation:
            return False
        self.planned_generation, self.waiting_for = generation, NOT_CARRIED_OUT
        return True


@dataclass(slots=True)
class Fleet:
    """Memory of all workloads and caps."""

    workloads: dict[WorkloadKey, WorkloadMemory] = field(default_factory=dict)
    decisions_made: int = 0

    def of(self, key: WorkloadKey) -> WorkloadMemory:
        """The memory of one workload, made when first asked for."""
        return self.workloads.setdefault(key, WorkloadMemory())

    def targets(self) -> dict[WorkloadKey, Target]:
        """Targets of the workloads that have one."""
        return {key: memory.target for key, memory in self.workloads.items() if memory.target is not None}

    def options(self) -> dict[WorkloadKey, Option | None]:
        """Options in force, of workloads that have one decided."""
        return {key: target.option for key, target in self.targets().items()}

    def decision_id(self, now: datetime) -> str:
        """A short id that sorts by time: seconds since 1970 in base 36, and a counter."""
        self.decisions_made += 1
        return f"{_base36(int(now.timestamp()))}-{self.decisions_made}"

    def forget_all_but(self, keys: set[WorkloadKey]) -> None:
        """Drop the memory of workloads that are gone."""
        for key in [key for key in self.workloads if key not in keys]:
            del self.workloads[key]


def _base36(number: int) -> str:
    digits = ""
    while number:
        number, rest = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[rest] + digits
    return digits or "0"
