"""The file of a simulation: a virtual cluster, caps and workloads as users write them, events, what must hold.

Decides the format and nothing else. Specs are those of the API, so a scenario is written with the words of the CRDs.

    name: cap-cut
    seconds: 400
    inventory: [{class: h100, accelerators: 16, largestNode: 8}]
    caps: [{name: cluster, spec: {scope: {cluster: {}}, watts: 4000}}]
    workloads: [{namespace: a, name: chat, spec: {task: text-generation, load: {requestsPerMinute: 600}}}]
    events: [{at: 200, cap: cluster, percent: 75}]
    expect: {firstActionSeconds: 5, secondsOverCap: 30}
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from lowbeam.api.documents import complaint_of, document_of, position_of
from lowbeam.api.v1alpha1.base import ApiModel, Time
from lowbeam.api.v1alpha1.inferenceworkload import InferenceWorkloadSpec
from lowbeam.api.v1alpha1.powercap import CapState, PowerCapSpec
from lowbeam.api.v1alpha1.problems import problems_of
from lowbeam.errors import BadInput


class InventoryEntry(ApiModel):
    """Accelerators of one class in one pool; the pool is the name of a nodePool cap, or empty."""

    pool: str = ""
    accelerator_class: str = Field(alias="class")
    accelerators: int = Field(ge=1)
    largest_node: int = Field(default=8, ge=1)
    board_limits: bool = False
    """Agents on all its nodes set power limits of boards."""


class CapEntry(ApiModel):
    """One PowerCap."""

    name: str
    spec: PowerCapSpec


class WorkloadEntry(ApiModel):
    """One InferenceWorkload."""

    namespace: str
    name: str
    spec: InferenceWorkloadSpec


class Event(ApiModel):
    """Something that happens at a second; exactly one of the kinds."""

    at: int = Field(ge=0)
    cap: str = ""
    """A cap changes to `percent` of its first watts, or is deleted with `delete: true`."""
    percent: int | None = Field(default=None, ge=1, le=1000)
    delete: bool = False
    workload: str = ""
    """`namespace/name`: the offered load becomes `load_percent` of the declared one, known to the operator at once."""
    load_percent: int | None = Field(default=None, ge=0, le=10_000)
    telemetry_lost_percent: int | None = Field(default=None, ge=0, le=100)
    """From now on this share of the workers is silent; 0 = all speak again."""
    telemetry_delay_seconds: int | None = Field(default=None, ge=0)
    restart_operator: bool = False
    """The operator loses its memory (what the objects' status holds is read again)."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        kinds = (
            bool(self.cap),
            bool(self.workload),
            self.telemetry_lost_percent is not None,
            self.telemetry_delay_seconds is not None,
            self.restart_operator,
        )
        if sum(kinds) != 1:
            raise ValueError("an event is exactly one of cap, workload, telemetry... and restartOperator")
        if self.cap and self.delete == (self.percent is not None):
            raise ValueError("a cap event needs either percent or delete: true")
        if self.workload and self.load_percent is None:
            raise ValueError("a workload event needs loadPercent")
        if (not self.cap and (self.delete or self.percent is not None)) or (
            not self.workload and self.load_percent is not None
        ):
            raise ValueError("percent and delete belong to a cap event, loadPercent to a workload event")
        return self


class Expectations(ApiModel):
    """What must hold at the end; what is left out is only reported."""

    seconds_over_cap: int | None = None
    first_action_seconds: int | None = None
    reversals_per_workload: int | None = None
    all_restored: bool | None = None
    """Whether nothing is dimmed at the end."""
    states: tuple[CapState, ...] = ()
    """States that some cap must have been in."""
    never: tuple[CapState, ...] = ()
    no_restore_between: tuple[int, int] | None = None
    """Seconds between which no watts may be given back."""
    undimmed: tuple[str, ...] = ()
    """Workloads (`namespace/name`) that must never be dimmed."""


class Pace(ApiModel):
    """How fast virtual workers are, seconds."""

    start: int = Field(default=20, ge=0)
    drain: int = Field(default=5, ge=0)
    batch_settle: int = Field(default=2, ge=0)


class Scenario(ApiModel):
    """A whole file."""

    name: str
    description: str = ""
    seconds: Annotated[int, Field(ge=10, le=86_400)]
    seed: int = 1
    starts_at: Time = datetime(2026, 1, 1, tzinfo=UTC)
    """The virtual time at second 0: schedules and events of caps begin by it, and opt-ins run out."""
    settle_before: int = Field(default=120, ge=0)
    """Seconds at the start that no figure counts: workers are starting."""
    inventory: tuple[InventoryEntry, ...]
    caps: tuple[CapEntry, ...] = ()
    workloads: tuple[WorkloadEntry, ...]
    events: tuple[Event, ...] = ()
    pace: Pace = Field(default_factory=Pace)
    expect: Expectations = Field(default_factory=Expectations)

    @model_validator(mode="after")
    def _something_is_counted(self) -> Self:
        if self.seconds <= self.settle_before:
            raise ValueError(
                f"seconds: {self.seconds} end before the first second that counts "
                f"(settleBefore: {self.settle_before}); play for longer, or settle for less"
            )
        return self

    @model_validator(mode="after")
    def _names_are_given_once(self) -> Self:
        given = {
            "caps": [cap.name for cap in self.caps],
            "workloads": self._workload_names(),
            "inventory": [" in pool ".join(filter(None, (e.accelerator_class, e.pool))) for e in self.inventory],
        }
        for field, names in given.items():
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"{field}: {', '.join(twice)} is there twice")
        return self

    @model_validator(mode="after")
    def _names_are_of_what_exists(self) -> Self:
        caps = {cap.name for cap in self.caps}
        pools = {cap.name for cap in self.caps if cap.spec.scope.node_pool is not None}
        workloads = set(self._workload_names())
        for cap in self.caps:
            if cap.spec.parent and cap.spec.parent not in caps:
                raise ValueError(f'caps: {cap.name}: spec.parent: there is no cap "{cap.spec.parent}"')
        for entry in self.inventory:
            if entry.pool and entry.pool not in pools:
                raise ValueError(f'inventory: {entry.accelerator_class}: there is no nodePool cap "{entry.pool}"')
        for event in self.events:
            if event.cap and event.cap not in caps:
                raise ValueError(f'events: at {event.at}: there is no cap "{event.cap}"')
            if event.workload and event.workload not in workloads:
                raise ValueError(f'events: at {event.at}: there is no workload "{event.workload}"')
            if event.at > self.seconds:
                raise ValueError(f"events: at {event.at}: the scenario ends at {self.seconds}")
        for name in self.expect.undimmed:
            if name not in workloads:
                raise ValueError(f'expect: undimmed: there is no workload "{name}"')
        return self

    def _workload_names(self) -> list[str]:
        return [f"{workload.namespace}/{workload.name}" for workload in self.workloads]


def load_scenario(path: str | Path) -> Scenario:
    """Read a file; `BadInput` names the file and the field."""
    try:
        content = document_of(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: is not text in UTF-8") from error
    except yaml.YAMLError as error:
        raise BadInput(f"{path}: {position_of(error)}: {complaint_of(error)}") from error
    try:
        return Scenario.model_validate(content)
    except ValidationError as error:
        raise BadInput("\n".join(map(str, problems_of(error, Scenario, str(path))))) from error
