"""EnergyProfile: one curve of watts, throughput and latency over batch size.

Decides the shape of a measured, published or modelled curve. Whether its model, class and task exist, and whether the
curve makes physical sense, is decided by `lowbeam.catalog`. Never mixes precisions, engines or accelerator counts.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from lowbeam.api.v1alpha1.base import (
    AGE,
    ApiModel,
    BatchSize,
    DecimalString,
    KubeObject,
    Name,
    PrinterColumn,
    Resource,
    Rule,
    Scope,
    Task,
    condition_column,
    decimal,
    list_map,
)
from lowbeam.api.v1alpha1.modelcard import CatalogueObjectStatus, Precision
from lowbeam.api.v1alpha1.provenance import Basis, Provenance, Reasoning

MAX_MILLISECONDS = 86_400_000
"""One day: no request takes longer."""

Milliseconds = Annotated[int, Field(ge=1, le=MAX_MILLISECONDS)]
Microseconds = Annotated[int, Field(ge=1, le=MAX_MILLISECONDS)]
Series = Annotated[str, StringConstraints(min_length=1, max_length=63, pattern=r"^[a-z0-9]+([.-][a-z0-9]+)*$")]
Tokens = Annotated[int, Field(ge=1, le=100_000_000)]


class EnergyProfilePoint(ApiModel):
    """The steady state at one batch size."""

    batch: BatchSize
    """Requests that run together; the measured average where one was recorded."""
    watts: DecimalString
    """Draw of one replica: the sum over its accelerators."""
    requests_per_second: DecimalString
    """Throughput of one replica when there is always more work."""
    latency_p50_milliseconds: Milliseconds
    """Service time of one request, waiting excluded, median."""
    latency_p95_milliseconds: Milliseconds
    """The same, 95th percentile."""
    inter_token_p50_microseconds: Microseconds | None = None
    """Time between two output tokens, median; left out for models that write no text."""
    inter_token_p95_microseconds: Microseconds | None = None
    """The same, 95th percentile."""

    rules: ClassVar = (
        Rule(
            cel="double(self.watts) > 0.0",
            message="watts must be above zero: a board always draws something",
            holds=lambda it: decimal(it.watts) > 0,
            field="watts",
        ),
        Rule(
            cel="double(self.requestsPerSecond) > 0.0",
            message="requestsPerSecond must be above zero",
            holds=lambda it: decimal(it.requests_per_second) > 0,
            field="requestsPerSecond",
        ),
        Rule(
            cel="self.latencyP95Milliseconds >= self.latencyP50Milliseconds",
            message="latencyP95Milliseconds must not be below latencyP50Milliseconds",
            holds=lambda it: it.latency_p95_milliseconds >= it.latency_p50_milliseconds,
            field="latencyP95Milliseconds",
        ),
        Rule(
            cel="has(self.interTokenP50Microseconds) == has(self.interTokenP95Microseconds) && "
            "(!has(self.interTokenP95Microseconds) || "
            "self.interTokenP95Microseconds >= self.interTokenP50Microseconds)",
            message="give interTokenP50Microseconds and interTokenP95Microseconds together, the second not below the "
            "first",
            holds=lambda it: (
                (it.inter_token_p50_microseconds is None and it.inter_token_p95_microseconds is None)
                or (
                    it.inter_token_p50_microseconds is not None
                    and it.inter_token_p95_microseconds is not None
                    and it.inter_token_p95_microseconds >= it.inter_token_p50_microseconds
                )
            ),
            field="interTokenP95Microseconds",
        ),
    )


class EnergyProfileSpec(ApiModel):
    """What was run, on what, and what it drew."""

    model: Name
    """Name of the model: a ModelCard or a built-in one."""
    precision: Precision
    """Number format of the weights."""
    reasoning: Reasoning = Reasoning.OFF
    """Reasoning mode of the measured requests."""
    task: Task
    """Task of the measured requests."""
    accelerator_class: Name
    """Name of the accelerator class."""
    accelerators: Annotated[int, Field(ge=1, le=64)] = 1
    """Accelerators of one replica; 1 for a replica on CPU, which is one slot of the class."""
    engine: Annotated[str, StringConstraints(min_length=1, max_length=63)]
    """Serving software and version, e.g. `vllm-0.11.1`."""
    input_tokens: Tokens
    """Mean input length of the measured requests; when the source does not say, an estimate on the low side, so that
    longer prompts are charged extra."""
    output_tokens: Tokens = 1
    """Mean output length; 1 for models that write no text."""
    points: Annotated[
        tuple[EnergyProfilePoint, ...], Field(min_length=1, max_length=64, json_schema_extra=list_map("batch"))
    ]
    """The curve, in ascending order of batch."""
    basis: Basis
    """Measured here, published by others, or modelled from hardware facts."""
    uncertainty_percent: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Half-width of the error of joules per request; needed for Modelled, else left out."""
    series: Series | None = None
    """Set it for figures that must not be ranked with the others, such as another generation of engine or another way
    to meter: `ml-energy-v2`. They are shown and compared, and never planned with. Left out: planned with."""
    source: Provenance
    """Where the figures come from."""

    rules: ClassVar = (
        Rule(
            cel="(self.basis == 'Modelled') == has(self.uncertaintyPercent)",
            message="uncertaintyPercent is needed for basis Modelled, and has no meaning for the others",
            holds=lambda it: (it.basis is Basis.MODELLED) == (it.uncertainty_percent is not None),
            field="uncertaintyPercent",
        ),
    )


class EnergyProfile(KubeObject):
    """What one way to run a model draws, and how fast it is, over batch size.

    Adds to the built-in catalogue, or replaces the built-in profile of the same name.
    """

    resource: ClassVar = Resource(
        kind="EnergyProfile",
        plural="energyprofiles",
        short_names=("eprof",),
        scope=Scope.CLUSTER,
        columns=(
            condition_column("Ready", "Ready", "Whether the profile is understood and in force"),
            PrinterColumn("Model", ".spec.model", "string", "The model"),
            PrinterColumn("Precision", ".spec.precision", "string", "Number format of the weights"),
            PrinterColumn("Class", ".spec.acceleratorClass", "string", "Accelerator class"),
            PrinterColumn("Count", ".spec.accelerators", "integer", "Accelerators of one replica"),
            PrinterColumn("Basis", ".spec.basis", "string", "Measured, Published or Modelled"),
            PrinterColumn("Task", ".spec.task", "string", "Task of the measured requests", priority=1),
            PrinterColumn("Reasoning", ".spec.reasoning", "string", "Reasoning mode", priority=1),
            AGE,
        ),
    )

    kind: Literal["EnergyProfile"] = "EnergyProfile"
    """What the object is."""
    spec: EnergyProfileSpec
    """The curve."""
    status: CatalogueObjectStatus = Field(default_factory=CatalogueObjectStatus)
    """Whether Lowbeam uses it."""
