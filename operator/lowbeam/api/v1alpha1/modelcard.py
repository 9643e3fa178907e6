"""ModelCard: one model, the ways to run it, and how good each is.

Decides the shape of the facts about a model; whether they fit together with the rest of the catalogue (unknown
benchmarks, twin variants) is decided by `lowbeam.catalog`. Never holds energy figures: those depend on hardware.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from lowbeam.api.v1alpha1.base import (
    AGE,
    ApiModel,
    Conditions,
    DecimalString,
    KubeObject,
    PrinterColumn,
    Resource,
    Rule,
    Scope,
    Task,
    condition_column,
    list_map,
    list_set,
)
from lowbeam.api.v1alpha1.provenance import Provenance, Reasoning

Precision = Annotated[str, StringConstraints(min_length=2, max_length=16, pattern=r"^[a-z0-9]+$")]
"""Number format of the weights: bf16, fp16, fp32, fp8, int8, int4, mxfp4, ..."""

Benchmark = Annotated[str, StringConstraints(min_length=1, max_length=63, pattern=r"^[a-z0-9]+([.-][a-z0-9]+)*$")]
"""A benchmark as a lower-case slug, e.g. mmlu-pro, gpqa-diamond, sst2."""

Millions = Annotated[int, Field(ge=1, le=100_000_000)]


class QualityEntry(ApiModel):
    """One benchmark result of one variant."""

    benchmark: Benchmark
    """Which benchmark; floors are compared only within one benchmark."""
    metric: Annotated[str, Field(min_length=1, max_length=63)]
    """What is counted, e.g. accuracy-percent. Higher is better."""
    score: DecimalString
    """The result in the benchmark's own unit, e.g. "67.5"."""
    source: Provenance
    """Who reported it, when, in which setting."""


class ModelVariant(ApiModel):
    """One way to run the model: a precision and a reasoning mode."""

    precision: Precision
    """Number format of the weights."""
    reasoning: Reasoning = Reasoning.OFF
    """How much it thinks before it answers."""
    weights_mebibytes: Annotated[int, Field(ge=1, le=100_000_000)]
    """Size of the weights in accelerator memory."""
    model_path: Annotated[str, Field(max_length=512)] | None = None
    """What to load for this precision when it is not the card's `modelPath`, e.g. an FP8 checkpoint."""
    quality: Annotated[tuple[QualityEntry, ...], Field(max_length=64, json_schema_extra=list_map("benchmark"))] = ()
    """Benchmark results; empty = unknown, and then no quality floor is met."""


class ModelCardSpec(ApiModel):
    """The facts about one model."""

    model_path: Annotated[str, Field(min_length=1, max_length=512)]
    """What the worker loads: a Hugging Face id, a folder, or `package:NAME` for a model inside a Python package."""
    tasks: Annotated[tuple[Task, ...], Field(min_length=1, max_length=16, json_schema_extra=list_set())]
    """Tasks it can serve."""
    licence: Annotated[str, Field(min_length=1, max_length=63)]
    """Licence of the weights, as Hugging Face writes it."""
    total_parameters_millions: Millions
    """All parameters."""
    active_parameters_millions: Millions
    """Parameters used per token; the same as the total except in mixtures of experts."""
    context_tokens: Annotated[int, Field(ge=1, le=100_000_000)]
    """Longest input and output together."""
    generative: bool
    """Whether it writes text token by token."""
    variants: Annotated[
        tuple[ModelVariant, ...],
        Field(min_length=1, max_length=32, json_schema_extra=list_map("precision", "reasoning")),
    ]
    """The ways to run it."""
    source: Provenance
    """Where these facts were read."""

    rules: ClassVar = (
        Rule(
            cel="self.activeParametersMillions <= self.totalParametersMillions",
            message="activeParametersMillions must not be above totalParametersMillions",
            holds=lambda it: it.active_parameters_millions <= it.total_parameters_millions,
            field="activeParametersMillions",
        ),
    )


class CatalogueObjectStatus(ApiModel):
    """Whether Lowbeam uses this object."""

    observed_generation: int | None = None
    """The generation of the spec that this status is about."""
    conditions: Conditions = ()
    """Ready: in force, or refused with the field and the reason."""


class ModelCard(KubeObject):
    """A model that workloads may run, with its variants and their quality.

    Adds to the built-in catalogue, or replaces the built-in model of the same name.
    """

    resource: ClassVar = Resource(
        kind="ModelCard",
        plural="modelcards",
        short_names=("mcard",),
        scope=Scope.CLUSTER,
        columns=(
            condition_column("Ready", "Ready", "Whether the card is understood and in force"),
            PrinterColumn("Licence", ".spec.licence", "string", "Licence of the weights"),
            PrinterColumn("Parameters-M", ".spec.totalParametersMillions", "integer", "Parameters in millions"),
            PrinterColumn("Tasks", ".spec.tasks", "string", "Tasks it can serve"),
            PrinterColumn("Path", ".spec.modelPath", "string", "What the worker loads", priority=1),
            AGE,
        ),
    )

    kind: Literal["ModelCard"] = "ModelCard"
    """What the object is."""
    spec: ModelCardSpec
    """The facts."""
    status: CatalogueObjectStatus = Field(default_factory=CatalogueObjectStatus)
    """Whether Lowbeam uses them."""
