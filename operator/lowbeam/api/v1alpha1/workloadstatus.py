"""What Lowbeam reports about an InferenceWorkload.

Decides the shape only. Figures are rounded before they get here: a status that changes with every sample would be a
write to etcd every second. What a restarted operator needs to go on (the running selection, since when and why it is
dimmed) is here and nowhere else.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from lowbeam.api.v1alpha1.base import (
    MAX_TOKENS,
    ApiModel,
    BatchSize,
    CamelWord,
    Conditions,
    DecimalString,
    DecisionId,
    Name,
    Sentence,
    Time,
    Watts,
)
from lowbeam.api.v1alpha1.provenance import Basis, LoadBasis, Reasoning

MAX_ALTERNATIVES = 3
MAX_RECOMMENDATIONS = 5
MAX_HISTORY = 10
MAX_MEASURED_PROFILES = 8

Count = Annotated[int, Field(ge=0, le=100_000)]
Precision = Annotated[str, Field(min_length=1, max_length=32)]


BoardLimitWatts = Annotated[int, Field(ge=1, le=100_000)]


class Selected(ApiModel):
    """The option that runs, or is being brought up."""

    model: Name
    """Model of the catalogue."""
    precision: Precision
    """Number format of the weights and the arithmetic, e.g. bf16, int8."""
    reasoning: Reasoning = Reasoning.OFF
    """How long the model may think."""
    accelerator_class: Name
    """Kind of accelerator."""
    accelerators_per_replica: Count = 1
    """Accelerators of one pod; 0 for a CPU class."""
    batch_limit: BatchSize
    """Most requests (or rows) in one engine step."""
    replicas: Count
    """Pods that were decided."""
    engine: Annotated[str, Field(max_length=32)]
    """Serving engine."""
    node_pool: Annotated[str, Field(max_length=253)] = ""
    """The PowerCap that defines the node pool; empty = the whole cluster."""
    board_limit_watts: BoardLimitWatts | None = None
    """Power limit that the nodes' agents set on each of its boards; absent = none."""


class EnergyStatus(ApiModel):
    """What the workload costs."""

    stars: Annotated[str, Field(pattern=r"^(\*{1,5}|Unrated)$", max_length=7)] | None = None
    """Energy of a request as it is served, from `*` to `*****` (least), in fixed bands of the task; `Unrated` where the
    figure is modelled or the task has no bands. Where only the effect of a power limit is modelled, its upper end is
    rated."""
    official_stars: Annotated[str, Field(pattern=r"^\*{1,5}$", max_length=5)] | None = None
    """What the AI Energy Score published for this very checkpoint (batch 1, one H100): not comparable with `stars`.
    Absent where nothing was published."""
    joules_per_request: DecimalString | None = None
    """Energy of one request at the present load."""
    basis: Basis | None = None
    """Where joulesPerRequest comes from: Measured here, Published by others, or Modelled from either."""
    measured_watts: Watts | None = None
    """What the pods draw now."""
    committed_watts: Watts | None = None
    """What they could draw at most."""


class Load(ApiModel):
    """The load that the workload is sized for."""

    basis: LoadBasis
    """Declared = spec.load, or a share of it; Observed = what telemetry saw."""
    requests_per_second: DecimalString
    """Rate; an upper quantile of the next ten minutes where it is observed."""
    input_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)]
    """Mean of a request."""
    output_tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS)]
    """Mean of an answer."""
    burstiness_percent: Annotated[int, Field(ge=100, le=1000)]
    """Coefficient of variation of the time between requests; 100 = Poisson."""


class MeasuredProfile(ApiModel):
    """A profile that the workload's own watts contradict."""

    model: Name
    """Model of the catalogue."""
    precision: Precision
    """Number format."""
    reasoning: Reasoning = Reasoning.OFF
    """How long the model may think."""
    accelerator_class: Name
    """Kind of accelerator."""
    accelerators_per_replica: Count
    """Accelerators of one pod; 0 for a CPU class."""
    percent_of_profile: Annotated[int, Field(ge=1, le=10_000)]
    """Measured watts in percent of the profile's; what counts on this workload."""
    profile_digest: Annotated[str, Field(pattern="^[0-9a-f]{8}$", max_length=8)]
    """Of the profile's figures: with others it counts as it is."""


class DimmedBy(StrEnum):
    """What a cap turned down most; finer than what a PowerCap allows as `levers`."""

    BATCH = "Batch"
    POWER_LIMIT = "PowerLimit"
    REPLICAS = "Replicas"
    REASONING = "Reasoning"
    PRECISION = "Precision"
    PLACEMENT = "Placement"
    MODEL = "Model"
    PAUSE = "Pause"


class Dimming(ApiModel):
    """What a power cap took from the workload; absent = nothing."""

    lever: DimmedBy
    """How: Batch, PowerLimit, Replicas, Reasoning, Precision, Model or Pause; Placement = the same model elsewhere, on
    another class, on other accelerators or in another pool. To a cap's `levers`, Reasoning and Placement go with
    Model."""
    since: Time
    """Since when."""
    reason: CamelWord
    """Why, in one word."""
    power_cap: Name
    """The cap that binds."""
    decision_id: DecisionId
    """The decision, as in logs and Events."""
    watts_freed: Watts
    """How much it gave."""
    quality_lost: DecimalString | None = None
    """Points of the benchmark that it cost; absent where quality is as before."""


class Alternative(ApiModel):
    """An option that lost, and why."""

    model: Name
    """Model of the catalogue."""
    precision: Precision
    """Number format."""
    reasoning: Reasoning = Reasoning.OFF
    """How long the model may think."""
    accelerator_class: Annotated[str, Field(max_length=253)] = ""
    """Kind of accelerator; empty where no accelerator could run it."""
    accelerators_per_replica: Count | None = None
    """Accelerators of one pod."""
    batch_limit: BatchSize | None = None
    """Most requests in one engine step."""
    board_limit_watts: BoardLimitWatts | None = None
    """Power limit of each of its boards; absent = none."""
    replicas: Count | None = None
    """Pods."""
    joules_per_request: DecimalString | None = None
    """Energy of one request."""
    watts: Watts | None = None
    """Watts of all its pods at the present load."""
    quality: DecimalString | None = None
    """Its score on the workload's benchmark."""
    reason: CamelWord
    """Why it lost, in one word, e.g. BelowFloor."""
    message: Sentence
    """Why it lost, with the difference in figures."""


class Decision(ApiModel):
    """One entry of the history."""

    time: Time
    """When."""
    decision_id: DecisionId
    """The decision, as in logs and Events."""
    action: CamelWord
    """What was done, in one word: a reason from docs/reference/reasons.md."""
    message: Sentence
    """What was done, and why."""


class InferenceWorkloadStatus(ApiModel):
    """What Lowbeam decided, runs and measures."""

    observed_generation: int | None = None
    """The generation of the spec that this status is about."""
    conditions: Conditions = ()
    """Ready, ModelSelected, Dimmed, CapUnsatisfiable, EnergyMeasured, LoadObserved, ProfileContradicted, Reconciling,
    Stalled."""
    selected: Selected | None = None
    """The option that runs, or is being brought up."""
    energy: EnergyStatus | None = None
    """What the workload costs."""
    load: Load | None = None
    """What it is sized for."""
    measured_profiles: Annotated[tuple[MeasuredProfile, ...], Field(max_length=MAX_MEASURED_PROFILES)] = ()
    """Profiles that its own watts contradict."""
    dimming: Dimming | None = None
    """What a power cap took from the workload."""
    alternatives: Annotated[tuple[Alternative, ...], Field(max_length=MAX_ALTERNATIVES)] = ()
    """The best options that lost."""
    recommendations: Annotated[tuple[Sentence, ...], Field(max_length=MAX_RECOMMENDATIONS)] = ()
    """What of the spec is not used or has run out; then changes of it that would save energy, the largest saving
    first."""
    history: Annotated[tuple[Decision, ...], Field(max_length=MAX_HISTORY)] = ()
    """The last decisions, newest first."""
    replicas: Count | None = None
    """Pods that exist."""
    ready_replicas: Count | None = None
    """Pods that answer."""
    selector: Annotated[str, Field(max_length=512)] | None = None
    """Label selector of the pods, for autoscalers."""
