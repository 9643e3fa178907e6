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
from lowbeam.api.v1alpha1.provenance import Confidence, Provenance, Reasoning, ReasoningSwitch

Precision = Annotated[str, StringConstraints(min_length=2, max_length=16, pattern=r"^[a-z0-9]+$")]
"""Number format of the weights: bf16, fp16, fp32, fp8, int8, int4, mxfp4, ..."""

Benchmark = Annotated[str, StringConstraints(min_length=1, max_length=63, pattern=r"^[a-z0-9]+([.-][a-z0-9]+)*$")]
"""A benchmark as a lower-case slug, e.g. mmlu-pro, gpqa-diamond, sst2."""

NAME_PATTERN = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
"""Name of a cluster-scoped object (RFC 1123 subdomain)."""

Millions = Annotated[int, Field(ge=1, le=100_000_000)]


Metric = Annotated[str, Field(min_length=1, max_length=63)]
"""What a benchmark counts, with its unit, e.g. accuracy-percent. Higher is better."""

Setting = Annotated[str, Field(min_length=1, max_length=256)]
"""Data set, harness and shots of a benchmark."""


class BenchmarkDefinition(ApiModel):
    """A benchmark that Lowbeam does not know: one series of results that may be compared with each other."""

    name: Benchmark
    """What quality entries and the floors of workloads call it."""
    metric: Metric
    """What is counted, e.g. accuracy-percent. Higher is better."""
    setting: Setting
    """Data set, harness and shots. A result of another setting belongs to another benchmark."""


class QualityEntry(ApiModel):
    """One benchmark result of one variant."""

    benchmark: Benchmark
    """Which benchmark, built in or one of `benchmarks`; floors are compared only within one benchmark."""
    metric: Metric
    """What is counted, e.g. accuracy-percent: the benchmark's metric."""
    score: DecimalString
    """The result in the benchmark's own unit, e.g. "67.5"."""
    setting: Setting | None = None
    """How it was measured, where the source says so: the benchmark's setting, or the card is refused."""
    confidence: Confidence = Confidence.PRIMARY
    """How sure the figure is: Primary, Secondary (quoted elsewhere), Recalled (to be checked) or Conflicting."""
    source: Provenance
    """Who reported it and when."""


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


class ReasoningValue(ApiModel):
    """What to send for one reasoning mode."""

    reasoning: Reasoning
    """The mode."""
    value: Annotated[str, Field(min_length=1, max_length=63)]
    """The value of the flag or field, or the words for the prompt."""


class ReasoningControl(ApiModel):
    """How a request switches the reasoning of a model."""

    switch: ReasoningSwitch
    """TemplateFlag (a variable of the chat template), Effort or Budget (a field of the request), or Prompt (words)."""
    parameter: Annotated[str, StringConstraints(max_length=63, pattern=r"^[A-Za-z][A-Za-z0-9_]*$")] | None = None
    """Name of the flag or field, e.g. enable_thinking; none for Prompt."""
    values: Annotated[
        tuple[ReasoningValue, ...], Field(min_length=2, max_length=4, json_schema_extra=list_map("reasoning"))
    ]
    """What to send for each mode that the variants have."""

    rules: ClassVar = (
        Rule(
            cel="has(self.parameter) == (self.switch != 'Prompt')",
            message="parameter is needed to switch by TemplateFlag, Effort or Budget, and is left out for Prompt",
            holds=lambda it: (it.parameter is not None) == (it.switch is not ReasoningSwitch.PROMPT),
            field="parameter",
        ),
    )


def _switches_every_mode(card: ModelCardSpec) -> bool:
    if card.reasoning_control is None:
        return len({variant.reasoning for variant in card.variants}) == 1
    switched = {entry.reasoning for entry in card.reasoning_control.values}
    return all(variant.reasoning in switched for variant in card.variants)


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
    context_tokens: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    """Longest input and output together, of a model that writes no text the longest input; left out where it reads no
    text, or takes texts of any length."""
    key_value_bytes_per_token: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = None
    """Memory that one token of context takes while a request runs: 2 x layers x key-value heads x head size x bytes of
    a number. Left out = unknown: batches are then only limited by what was measured."""
    generative: bool
    """Whether it writes text token by token."""
    variants: Annotated[
        tuple[ModelVariant, ...],
        Field(min_length=1, max_length=32, json_schema_extra=list_map("precision", "reasoning")),
    ]
    """The ways to run it."""
    reasoning_control: ReasoningControl | None = None
    """How a request switches between the reasoning modes; needed where the variants have more than one."""
    predecessors: Annotated[
        tuple[Annotated[str, StringConstraints(min_length=1, max_length=253, pattern=NAME_PATTERN)], ...],
        Field(max_length=8, json_schema_extra=list_set()),
    ] = ()
    """Where to step down to: the next smaller ModelCards of the family. Steps up are the same edges read backwards."""
    benchmarks: Annotated[
        tuple[BenchmarkDefinition, ...], Field(max_length=16, json_schema_extra=list_map("name"))
    ] = ()
    """Benchmarks of your own that the quality entries name."""
    source: Provenance
    """Where these facts were read."""

    rules: ClassVar = (
        Rule(
            cel=(
                "has(self.reasoningControl) ? self.variants.all(v, "
                "self.reasoningControl.values.exists(m, m.reasoning == v.reasoning)) : "
                "self.variants.all(v, v.reasoning == self.variants[0].reasoning)"
            ),
            message="reasoningControl must say what to send for every reasoning mode that the variants have",
            holds=_switches_every_mode,
            field="reasoningControl",
        ),
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
