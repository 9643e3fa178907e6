"""PowerCap: how many watts a cluster, a node pool or a set of namespaces may draw, and how Lowbeam keeps to it.

Decides the shape of the request and its defaults only; the numbers come from docs on power control and are the inputs
of `lowbeam.power`. A cap that cannot make sense alone (no watts left after overhead, a restore gate above the shed
threshold) is refused here; what depends on other objects (parents, cycles, workloads) becomes a condition instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from lowbeam.api.v1alpha1.base import (
    AGE,
    MAX_WATTS,
    ApiModel,
    Conditions,
    DecimalString,
    DecisionId,
    DnsLabel,
    KubeObject,
    Name,
    PrinterColumn,
    Resource,
    Rule,
    Scope,
    Sentence,
    Time,
    Watts,
    condition_column,
    list_map,
    list_set,
)
from lowbeam.api.v1alpha1.cuts import MAX_ENTRIES, CapEvent, Cut, EntryLabel, NextChange, ScheduleEntry
from lowbeam.api.v1alpha1.labels import Labels, has_keys_of_labels

PercentOfCap = Annotated[int, Field(ge=1, le=100)]
Count = Annotated[int, Field(ge=0, le=100_000_000)]
"""Accelerators or namespaces: far above any cluster."""


class Lever(StrEnum):
    """A way to make a workload draw fewer watts."""

    BATCH = "Batch"
    POWER_LIMIT = "PowerLimit"
    REPLICAS = "Replicas"
    PRECISION = "Precision"
    MODEL = "Model"
    PAUSE = "Pause"


class PowerBasis(StrEnum):
    """Where the watts of a cap are counted."""

    GPU = "GPU"
    NODE = "Node"
    WALL = "Wall"


class CapMode(StrEnum):
    """Whether a cap acts or only reports."""

    OBSERVE = "Observe"
    ENFORCE = "Enforce"


class OnInfeasible(StrEnum):
    """What to do when no allowed move brings the watts under the cap."""

    HOLD = "Hold"
    PAUSE_LOWEST = "PauseLowest"


class CapState(StrEnum):
    """What a cap is doing now, in one word for `kubectl get`; the conditions say more."""

    WITHIN_CAP = "WithinCap"
    OVER_CAP = "OverCap"
    SHEDDING = "Shedding"
    RESTORING = "Restoring"
    BLIND = "Blind"
    INFEASIBLE = "Infeasible"


class ClusterScope(ApiModel):
    """All accelerators of the cluster; written as `cluster: {}`."""


class NodePoolScope(ApiModel):
    """The accelerators of a set of nodes."""

    node_selector: Labels = Field(min_length=1)
    """Labels that a node must all carry to be in the pool."""

    rules: ClassVar = (has_keys_of_labels("nodeSelector", "node_selector"),)


class NamespaceSelector(ApiModel):
    """Namespaces found by their labels."""

    match_labels: Labels = Field(min_length=1)
    """Labels that a namespace must all carry."""

    rules: ClassVar = (has_keys_of_labels("matchLabels", "match_labels"),)


class NamespacesScope(ApiModel):
    """The workloads of a set of namespaces: those named, and those that the selector matches."""

    names: Annotated[tuple[DnsLabel, ...], Field(max_length=128, json_schema_extra=list_set())] = ()
    """Names of namespaces; one that does not exist yet is counted when it appears."""
    selector: NamespaceSelector | None = None
    """Namespaces by label, in addition to `names`."""

    rules: ClassVar = (
        Rule(
            cel="has(self.selector) || (has(self.names) && size(self.names) > 0)",
            message="a namespaces scope needs at least one entry in names, or a selector",
            holds=lambda it: it.selector is not None or len(it.names) > 0,
        ),
    )


class CapScope(ApiModel):
    """What the watts are counted over: exactly one of cluster, nodePool and namespaces."""

    cluster: ClusterScope | None = None
    """Every accelerator of the cluster; write `cluster: {}`."""
    node_pool: NodePoolScope | None = None
    """The accelerators of the nodes that carry certain labels, e.g. one row of racks behind one breaker."""
    namespaces: NamespacesScope | None = None
    """The workloads of certain namespaces, e.g. those of one team."""

    rules: ClassVar = (
        Rule(
            cel="(has(self.cluster) ? 1 : 0) + (has(self.nodePool) ? 1 : 0) + (has(self.namespaces) ? 1 : 0) == 1",
            message="set exactly one of cluster, nodePool and namespaces (the whole cluster is `cluster: {}`)",
            holds=lambda it: sum(part is not None for part in (it.cluster, it.node_pool, it.namespaces)) == 1,
        ),
    )


class Thresholds(ApiModel):
    """When Lowbeam takes watts away; percent of the usable watts."""

    soft_shed_percent: PercentOfCap = 97
    """Above this mean of the last 10 seconds, dim."""
    hard_shed_percent: Annotated[int, Field(ge=1, le=110)] = 100
    """Above this mean of the last 2 seconds, dim within the same tick (2 s)."""
    emergency_percent: Annotated[int, Field(ge=1, le=150)] = 105
    """Above this twice in a row, use every fast lever at once, then pause by priority."""
    shed_target_percent: PercentOfCap = 94
    """How far a shed goes: low enough not to be needed again at once."""

    rules: ClassVar = (
        Rule(
            cel="self.shedTargetPercent < self.softShedPercent",
            message="shedTargetPercent must be below softShedPercent, else a shed would not end the shedding",
            holds=lambda it: it.shed_target_percent < it.soft_shed_percent,
            field="shedTargetPercent",
        ),
        Rule(
            cel="self.softShedPercent <= self.hardShedPercent && self.hardShedPercent <= self.emergencyPercent",
            message="the thresholds must rise: softShedPercent <= hardShedPercent <= emergencyPercent",
            holds=lambda it: it.soft_shed_percent <= it.hard_shed_percent <= it.emergency_percent,
        ),
    )


class Restore(ApiModel):
    """When and how fast dimmed workloads get their watts back; percent of the usable watts."""

    gate_percent: PercentOfCap = 88
    """The highest measurement of the window must be below this."""
    committed_percent: PercentOfCap = 94
    """The committed watts after the step must be at most this."""
    window_seconds: Annotated[int, Field(ge=1, le=3600)] = 60
    """How long the measurement must stay below the gate."""
    dwell_seconds: Annotated[int, Field(ge=0, le=86400)] = 120
    """Wait at least this long after the last shed under this cap."""
    jitter_seconds: Annotated[int, Field(ge=0, le=3600)] = 30
    """Up to this much more for each workload, so that they do not all come back at once."""
    step_seconds: Annotated[int, Field(ge=1, le=3600)] = 30
    """At most one workload comes back in this time."""
    ramp_percent_per_minute: Annotated[int, Field(ge=1, le=100)] = 5
    """At most this share of the cap comes back in a minute; one whole step is always let through."""
    coverage_percent: Annotated[int, Field(ge=0, le=100)] = 95
    """At least this share of the accelerators must be measured freshly."""


class TelemetryTrust(ApiModel):
    """How old a measurement may be."""

    late_seconds: Annotated[int, Field(ge=1, le=3600)] = 5
    """Older than this, a reading counts 10 % higher."""
    stale_seconds: Annotated[int, Field(ge=2, le=3600)] = 15
    """Older than this, a reading is replaced by the worst case; never by zero."""

    rules: ClassVar = (
        Rule(
            cel="self.lateSeconds < self.staleSeconds",
            message="lateSeconds must be below staleSeconds: a reading is late before it is stale",
            holds=lambda it: it.late_seconds < it.stale_seconds,
            field="lateSeconds",
        ),
    )


class PowerCapSpec(ApiModel):
    """What the platform team allows."""

    parent: Name | None = None
    """Name of the cap above this one. The smallest cap on the way up wins; children may add up to more than their
    parent."""
    scope: CapScope
    """What the watts are counted over."""
    watts: Annotated[int, Field(ge=1, le=MAX_WATTS)]
    """The most that the scope may draw."""
    schedule: Annotated[
        tuple[ScheduleEntry, ...], Field(max_length=MAX_ENTRIES, json_schema_extra=list_map("name"))
    ] = ()
    """Fewer watts at certain times. The smallest of all active entries counts, never the latest."""
    events: Annotated[tuple[CapEvent, ...], Field(max_length=MAX_ENTRIES, json_schema_extra=list_map("name"))] = ()
    """Fewer watts once, from a start to an end. One that is over changes nothing any more."""
    basis: PowerBasis = PowerBasis.GPU
    """Where the watts are counted: GPU = accelerators only; Node and Wall include the rest, as `overheadWatts`."""
    overhead_watts: Watts | None = None
    """What everything except the accelerators draws (hosts, fans, losses). Needed for basis Node and Wall."""
    meter_tolerance_percent: Annotated[int, Field(ge=0, le=50)] = 5
    """How wrong the meters may be; this share of `watts` stays unused. 5 fits NVML."""
    levers: Annotated[tuple[Lever, ...], Field(min_length=1, max_length=8, json_schema_extra=list_set())] = tuple(Lever)
    """What may be done to keep the cap, in no order: Batch = smaller batches, PowerLimit = a lower power limit of the
    boards, where node agents may set them, Replicas = fewer pods, Precision and Model = a cheaper variant that still
    meets the quality floor, Pause = no pods at all."""
    mode: CapMode = CapMode.ENFORCE
    """Enforce = dim workloads to keep the cap; Observe = only report what would be done."""
    thresholds: Thresholds = Field(default_factory=Thresholds)
    """When watts are taken away."""
    restore: Restore = Field(default_factory=Restore)
    """When and how fast they come back."""
    telemetry: TelemetryTrust = Field(default_factory=TelemetryTrust)
    """How old a measurement may be."""
    on_infeasible: OnInfeasible = OnInfeasible.HOLD
    """When no allowed move is enough: Hold = all stay at their least, report CapUnsatisfiable, and a plan leaves out
    the lowest priorities that have no room even so; PauseLowest = pause workloads from the lowest priority up, at once
    and even those whose owners did not consent."""

    rules: ClassVar = (
        Rule(
            cel="(self.basis == 'GPU') != has(self.overheadWatts)",
            message="overheadWatts is needed for basis Node and Wall, and has no meaning for basis GPU",
            holds=lambda it: (it.basis is PowerBasis.GPU) != (it.overhead_watts is not None),
            field="overheadWatts",
        ),
        Rule(
            cel="!has(self.overheadWatts) || "
            "self.watts * (100 - self.meterTolerancePercent) > self.overheadWatts * 100",
            message="nothing is left for accelerators: watts less meterTolerancePercent must be above overheadWatts",
            holds=lambda it: (
                it.overhead_watts is None or it.watts * (100 - it.meter_tolerance_percent) > it.overhead_watts * 100
            ),
            field="watts",
        ),
        Rule(
            cel="!has(self.overheadWatts) || !has(self.schedule) || self.schedule.all(it, !has(it.watts) || "
            "it.watts * (100 - self.meterTolerancePercent) > self.overheadWatts * 100)",
            message="an entry of schedule leaves nothing for accelerators: its watts less meterTolerancePercent must "
            "be above overheadWatts",
            holds=lambda it: it.leaves_something(it.schedule),
            field="schedule",
        ),
        Rule(
            cel="!has(self.overheadWatts) || !has(self.events) || self.events.all(it, !has(it.watts) || "
            "it.watts * (100 - self.meterTolerancePercent) > self.overheadWatts * 100)",
            message="an entry of events leaves nothing for accelerators: its watts less meterTolerancePercent must "
            "be above overheadWatts",
            holds=lambda it: it.leaves_something(it.events),
            field="events",
        ),
        Rule(
            cel="self.restore.gatePercent < self.thresholds.softShedPercent",
            message="restore.gatePercent must be below thresholds.softShedPercent, else workloads would go up and down",
            holds=lambda it: it.restore.gate_percent < it.thresholds.soft_shed_percent,
            field="restore.gatePercent",
        ),
        Rule(
            cel="self.restore.committedPercent <= self.thresholds.hardShedPercent",
            message="restore.committedPercent must not be above thresholds.hardShedPercent: "
            "a restore would commit more than the cap",
            holds=lambda it: it.restore.committed_percent <= it.thresholds.hard_shed_percent,
            field="restore.committedPercent",
        ),
    )

    def leaves_something(self, cuts: Iterable[Cut]) -> bool:
        """Whether tolerance and overhead leave watts for accelerators in every entry that names its watts."""
        least = (self.overhead_watts or 0) * 100
        given = (cut.watts for cut in cuts if self.overhead_watts is not None and cut.watts is not None)
        return all(watts * (100 - self.meter_tolerance_percent) > least for watts in given)


class LastAction(ApiModel):
    """The last thing that Lowbeam did for this cap."""

    time: Time
    """When."""
    decision_id: DecisionId
    """The decision, as in logs, Events and the workloads' history."""
    message: Sentence
    """What was done, and to whom."""


class PowerCapStatus(ApiModel):
    """What Lowbeam sees and does."""

    observed_generation: int | None = None
    """The generation of the spec that this status is about."""
    conditions: Conditions = ()
    """Ready, WithinCap, Shedding, TelemetryHealthy, Satisfiable, Reconciling, Stalled."""
    accelerators: Count | None = None
    """Accelerators on the nodes that it counts, whoever holds them; left out for a scope of namespaces. Where no
    node carries the labels of the selector, the message of Ready says so."""
    namespaces: Count | None = None
    """Namespaces that it counts and that are there; left out for the other scopes."""
    effective_watts: Watts | None = None
    """The smallest cap from here up to the root, as it is now."""
    limited_by: Annotated[str, Field(max_length=253)] | None = None
    """The cap that set `effectiveWatts`: this one, or one above."""
    effective_entry: EntryLabel | None = None
    """The entry of that cap's schedule or events which set it, e.g. `schedule/evening-peak`; left out where its
    `spec.watts` counts."""
    planned_watts: Watts | None = None
    """Fewer watts that a coming entry announces: what workloads are dimmed to already, so that they are down when it
    begins. Left out at other times."""
    next_change: NextChange | None = None
    """When `effectiveWatts` changes next, and to what; left out where no entry changes it."""
    active_entries: Annotated[
        tuple[EntryLabel, ...], Field(max_length=2 * MAX_ENTRIES, json_schema_extra=list_set())
    ] = ()
    """Entries of this cap that are active now, also those that a smaller one hides."""
    usable_watts: Watts | None = None
    """What accelerators may draw: effective watts less meter tolerance and overhead."""
    measured_watts: Watts | None = None
    """What they draw now; stale readings count at their worst case."""
    committed_watts: Watts | None = None
    """What they could draw at most with everything that has been decided."""
    coverage_percent: Annotated[int, Field(ge=0, le=100)] | None = None
    """Share of the accelerators with a fresh reading."""
    state: CapState | None = None
    """What the cap is doing now."""
    price_per_watt: DecimalString | None = None
    """How much loss (priority-weighted unserved requests and missing quality) one more watt would avoid; "0" = the cap
    does not bind."""
    last_action: LastAction | None = None
    """The last thing that was done for this cap."""


class PowerCap(KubeObject):
    """A limit on the watts of a cluster, a node pool or a set of namespaces.

    When measured watts come close, Lowbeam dims the least important workloads first, never below a quality floor whose
    owner did not consent, and brings them back when there is room.
    """

    resource: ClassVar = Resource(
        kind="PowerCap",
        plural="powercaps",
        short_names=("pcap",),
        scope=Scope.CLUSTER,
        columns=(
            condition_column("Ready", "Ready", "Whether the cap is understood and in force"),
            PrinterColumn("Cap", ".spec.watts", "integer", "Watts allowed"),
            PrinterColumn("Usable", ".status.usableWatts", "integer", "Watts left for accelerators"),
            PrinterColumn("Measured", ".status.measuredWatts", "integer", "Watts drawn now"),
            PrinterColumn("Committed", ".status.committedWatts", "integer", "Watts that could be drawn at most"),
            PrinterColumn("Coverage", ".status.coveragePercent", "integer", "Percent of accelerators measured freshly"),
            PrinterColumn("State", ".status.state", "string", "What the cap is doing now"),
            PrinterColumn("Mode", ".spec.mode", "string", "Whether it is enforced or only observes", priority=1),
            PrinterColumn("Accelerators", ".status.accelerators", "integer", "Accelerators that it counts", priority=1),
            PrinterColumn("Limited-By", ".status.limitedBy", "string", "The cap that sets the watts", priority=1),
            PrinterColumn("Entry", ".status.effectiveEntry", "string", "The entry that sets the watts", priority=1),
            PrinterColumn("Next-Change", ".status.nextChange.time", "string", "When they change next", priority=1),
            AGE,
        ),
    )

    kind: Literal["PowerCap"] = "PowerCap"
    """What the object is."""
    spec: PowerCapSpec
    """What the platform team allows."""
    status: PowerCapStatus = Field(default_factory=PowerCapStatus)
    """What Lowbeam sees and does."""

    rules: ClassVar = (
        Rule(
            cel="!has(self.spec.parent) || self.spec.parent != self.metadata.name",
            message="a cap cannot be its own parent; leave parent out for the top of a tree",
            holds=lambda it: it.spec.parent is None or it.spec.parent != it.metadata.name,
            field="spec.parent",
        ),
    )
