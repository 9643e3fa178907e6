"""AcceleratorClass: one kind of accelerator, how to recognise its nodes, and its limits.

Decides the shape of the facts about hardware; which node belongs to which class is decided by `lowbeam.catalog`.
Power figures are per board and leave out host, fans and losses.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from lowbeam.api.v1alpha1.base import (
    AGE,
    ApiModel,
    DecimalString,
    KubeObject,
    PrinterColumn,
    Resource,
    Rule,
    Scope,
    condition_column,
    decimal,
    list_set,
)
from lowbeam.api.v1alpha1.labels import LABEL_VALUE_PATTERN, LONGEST_LABEL_VALUE
from lowbeam.api.v1alpha1.modelcard import CatalogueObjectStatus, Precision
from lowbeam.api.v1alpha1.provenance import Provenance

ProductLabel = Annotated[
    str, StringConstraints(min_length=1, max_length=LONGEST_LABEL_VALUE, pattern=LABEL_VALUE_PATTERN)
]
"""A value of the node label nvidia.com/gpu.product, in full."""

Teraflops = Annotated[int, Field(ge=1, le=1_000_000)]


class AcceleratorClassSpec(ApiModel):
    """The facts about one kind of accelerator."""

    product_labels: Annotated[tuple[ProductLabel, ...], Field(max_length=16, json_schema_extra=list_set())] = ()
    """Values of the node label nvidia.com/gpu.product that mean this class, each in full: a label that only begins so
    is another product, and `...-SHARED` or `...-MIG-1g.10gb` is a part of a board. Nodes of a class without labels
    carry lowbeam.dev/accelerator-class=NAME."""
    memory_mebibytes: Annotated[int, Field(ge=1, le=100_000_000)]
    """Memory that a replica can use: what the driver reports."""
    compute_capability: Annotated[str, StringConstraints(pattern=r"^[0-9]{1,2}\.[0-9]$")] | None = None
    """CUDA compute capability, e.g. "9.0"; left out when it is no CUDA device."""
    precisions: Annotated[tuple[Precision, ...], Field(min_length=1, max_length=16, json_schema_extra=list_set())]
    """Precisions that it can run."""
    idle_watts: DecimalString
    """Draw of one board with a model loaded and no work."""
    max_watts: DecimalString
    """Default power limit of one board: the worst case when its meter is silent."""
    min_watts: DecimalString | None = None
    """The lowest power limit that the board accepts; left out when nobody read it from a device."""
    bare_idle_watts: DecimalString | None = None
    """Draw of one board without any process; left out when unknown."""
    memory_bandwidth_gigabytes_per_second: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Peak memory bandwidth (10^9 bytes); left out when unknown."""
    dense_teraflops_bf16: Teraflops | None = None
    """Peak dense BF16 throughput without sparsity; left out when unknown or when the board has no BF16."""
    dense_teraflops_fp16: Teraflops | None = None
    """The same for FP16; left out where it equals BF16."""
    dense_teraflops_fp8: Teraflops | None = None
    """The same for FP8."""
    dense_teraops_int8: Teraflops | None = None
    """The same for INT8, in 10^12 operations a second."""
    source: Provenance
    """Where these facts were read."""

    rules: ClassVar = (
        Rule(
            cel="double(self.idleWatts) <= double(self.maxWatts) && double(self.maxWatts) > 0.0",
            message="maxWatts must be above zero and not below idleWatts",
            holds=lambda it: 0 < decimal(it.max_watts) >= decimal(it.idle_watts),
            field="maxWatts",
        ),
        Rule(
            cel="!has(self.minWatts) || double(self.minWatts) <= double(self.maxWatts)",
            message="minWatts must not be above maxWatts",
            holds=lambda it: it.min_watts is None or decimal(it.min_watts) <= decimal(it.max_watts),
            field="minWatts",
        ),
        Rule(
            cel="!has(self.bareIdleWatts) || double(self.bareIdleWatts) <= double(self.idleWatts)",
            message="bareIdleWatts must not be above idleWatts: a loaded model adds to the draw",
            holds=lambda it: it.bare_idle_watts is None or decimal(it.bare_idle_watts) <= decimal(it.idle_watts),
            field="bareIdleWatts",
        ),
    )


class AcceleratorClass(KubeObject):
    """A kind of accelerator that workloads may run on.

    Adds to the built-in catalogue, or replaces the built-in class of the same name.
    """

    resource: ClassVar = Resource(
        kind="AcceleratorClass",
        plural="acceleratorclasses",
        short_names=("accel",),
        scope=Scope.CLUSTER,
        columns=(
            condition_column("Ready", "Ready", "Whether the class is understood and in force"),
            PrinterColumn("Memory-MiB", ".spec.memoryMebibytes", "integer", "Memory that a replica can use"),
            PrinterColumn("Idle-W", ".spec.idleWatts", "string", "Watts of a loaded board without work"),
            PrinterColumn("Max-W", ".spec.maxWatts", "string", "Watts at the default power limit"),
            PrinterColumn("Products", ".spec.productLabels", "string", "Node labels that mean it", priority=1),
            AGE,
        ),
    )

    kind: Literal["AcceleratorClass"] = "AcceleratorClass"
    """What the object is."""
    spec: AcceleratorClassSpec
    """The facts."""
    status: CatalogueObjectStatus = Field(default_factory=CatalogueObjectStatus)
    """Whether Lowbeam uses them."""

    rules: ClassVar = (
        Rule(
            cel=f"size(self.metadata.name) <= {LONGEST_LABEL_VALUE}",
            message=f"the name of a class must have at most {LONGEST_LABEL_VALUE} characters: "
            "nodes and pods carry it as the value of a label",
            holds=lambda it: len(it.metadata.name) <= LONGEST_LABEL_VALUE,
            field="metadata",
        ),
    )
