"""InferenceWorkload: what a team needs from inference, and what Lowbeam gave it.

Decides the shape of the request, its defaults (chosen for efficiency: reasoning off, no generation where none is
needed) and the rules between fields. Whether a task or a model exists is the catalogue's business and becomes a
condition: a workload may be applied before the ModelCard that serves it.
"""

from __future__ import annotations

from datetime import date
from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from lowbeam.api.v1alpha1.base import (
    AGE,
    MAX_REQUESTS_PER_MINUTE,
    MAX_TOKENS,
    MAX_WATTS,
    ApiModel,
    DecimalString,
    KubeObject,
    Name,
    PrinterColumn,
    Resource,
    Rule,
    ScaleSubresource,
    Scope,
    Task,
    condition_column,
    decimal,
    list_map,
    list_set,
)
from lowbeam.api.v1alpha1.labels import Labels, has_keys_of_labels
from lowbeam.api.v1alpha1.pod import PodOptions, Toleration
from lowbeam.api.v1alpha1.provenance import Reasoning
from lowbeam.api.v1alpha1.workloadstatus import InferenceWorkloadStatus

DEFAULT_PRIORITY = 500
"""The middle, never the highest: who says nothing is dimmed before those who asked for more."""

DEFAULT_TIME_TO_FIRST_TOKEN_MILLISECONDS = 1000
DEFAULT_INTER_TOKEN_MILLISECONDS = 50
"""50 ms per token is about four times as fast as people read."""

Milliseconds = Annotated[int, Field(ge=1, le=3_600_000)]


class BelowFloor(StrEnum):
    """Whether quality may fall below the floor."""

    NEVER = "Never"
    WHEN_CAPPED = "WhenCapped"


class Feature(StrEnum):
    """Something that costs many times the energy and is therefore off until somebody asks for it."""

    HIGH_REASONING = "HighReasoning"
    GENERATIVE_MODEL = "GenerativeModel"


class WorkloadMode(StrEnum):
    """Whether Lowbeam acts on a workload or only explains."""

    ENFORCE = "Enforce"
    ADVISE = "Advise"


class Engine(StrEnum):
    """What serves the model."""

    AUTO = "Auto"
    NATIVE = "Native"
    VLLM = "VLLM"
    SGLANG = "SGLang"
    TEI = "TEI"
    LLAMA_CPP = "LlamaCpp"


class Load(ApiModel):
    """How much work is expected."""

    requests_per_minute: Annotated[int, Field(ge=0, le=MAX_REQUESTS_PER_MINUTE)]
    """Requests in a busy minute."""
    input_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)]
    """Tokens in a typical request. Of a task that writes no text: in one text; a request with several counts as
    several."""
    output_tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS)]
    """Tokens in a typical answer; 0 or 1 for tasks that generate no text."""


class Quality(ApiModel):
    """How good is good enough, on one benchmark."""

    benchmark: Annotated[str, Field(min_length=1, max_length=63)]
    """Name of the benchmark in the catalogue, e.g. `sst2` or `mmlu-pro`; `lowbeam catalog show TASK` lists those of a
    task."""
    floor: DecimalString | None = None
    """Models below this score are not used, e.g. "90.0"."""
    target: DecimalString | None = None
    """More than this brings nothing: between floor and target, missing points count as a loss. Left out = the floor."""
    below_floor: BelowFloor = BelowFloor.NEVER
    """Never = the floor always holds; WhenCapped = a power cap may push quality below the floor before it pauses
    pods."""

    rules: ClassVar = (
        Rule(
            cel="has(self.floor) || has(self.target)",
            message="give a floor, a target, or both; a benchmark alone decides nothing",
            holds=lambda it: it.floor is not None or it.target is not None,
        ),
        Rule(
            cel="!(has(self.floor) && has(self.target)) || double(self.target) >= double(self.floor)",
            message="target must not be below floor",
            holds=lambda it: it.floor is None or it.target is None or decimal(it.target) >= decimal(it.floor),
            field="target",
        ),
        Rule(
            cel="self.belowFloor == 'Never' || has(self.floor)",
            message="belowFloor WhenCapped needs a floor to fall below",
            holds=lambda it: it.below_floor is BelowFloor.NEVER or it.floor is not None,
            field="belowFloor",
        ),
    )


class Latency(ApiModel):
    """How fast is fast enough, at the 95th percentile."""

    end_to_end_milliseconds: Milliseconds | None = None
    """From request to complete answer. Left out = what the catalogue holds good for the task; no limit where answers
    are generated token by token."""
    time_to_first_token_milliseconds: Milliseconds | None = None
    """From request to the first token. Left out = 1000; only for tasks that generate text."""
    inter_token_milliseconds: Milliseconds | None = None
    """Between two tokens. Left out = 50; only for tasks that generate text. Slower costs less energy, and people read
    at about 200."""

    def targets(self, *, generates_text: bool) -> Latency:
        """The limits of the spec for a task of this sort: defaults filled in, those that do not apply as None.

        `end_to_end_milliseconds` stays as given: its default is a fact of the catalogue.
        """
        if not generates_text:
            return Latency(end_to_end_milliseconds=self.end_to_end_milliseconds)
        first = self.time_to_first_token_milliseconds or DEFAULT_TIME_TO_FIRST_TOKEN_MILLISECONDS
        between = self.inter_token_milliseconds or DEFAULT_INTER_TOKEN_MILLISECONDS
        return Latency(
            end_to_end_milliseconds=self.end_to_end_milliseconds,
            time_to_first_token_milliseconds=first,
            inter_token_milliseconds=between,
        )


class ModelChoice(ApiModel):
    """Narrows or fixes the choice of the model; empty = every model of the catalogue that fits the task."""

    names: Annotated[tuple[Name, ...], Field(max_length=32, json_schema_extra=list_set())] = ()
    """Only these models of the catalogue."""
    licences: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=63)], ...],
        Field(max_length=32, json_schema_extra=list_set()),
    ] = ()
    """Only models under one of these licences, by SPDX identifier, e.g. `apache-2.0`."""
    pinned: Annotated[str, Field(max_length=253)] = ""
    """Exactly this model of the catalogue; precision, batch and replicas stay Lowbeam's choice."""

    rules: ClassVar = (
        Rule(
            cel="!has(self.pinned) || self.pinned == '' || !has(self.names) || size(self.names) == 0",
            message="pinned and names exclude each other: pinned is the one model, names is a list to choose from",
            holds=lambda it: not (it.pinned and it.names),
            field="pinned",
        ),
    )


class OptIn(ApiModel):
    """A request for something that costs many times the energy, with a reason and an end."""

    feature: Feature
    """HighReasoning = reasoning above Low; GenerativeModel = a text-generating model for a task that needs none."""
    reason: Annotated[str, Field(max_length=256)]
    """Why; shown to whoever asks where the joules went."""
    until: date
    """Last day on which it holds, e.g. 2027-03-31; from the next day on the efficient default applies again."""

    rules: ClassVar = (
        Rule(
            cel="self.reason.trim().size() >= 3",
            message="say why, in a few words: the reason is shown to whoever asks where the joules went",
            holds=lambda it: len(it.reason.strip()) >= 3,
            field="reason",
        ),
    )


class Scaling(ApiModel):
    """How many pods there may be. A power cap may go below the minimum, down to none, where a lever allows it."""

    min_replicas: Annotated[int, Field(ge=1, le=1000)] = 1
    """Fewest pods while no power cap binds; the status says so where the free accelerators hold fewer."""
    max_replicas: Annotated[int, Field(ge=1, le=1000)] = 20
    """Most pods, however high the load."""

    rules: ClassVar = (
        Rule(
            cel="self.minReplicas <= self.maxReplicas",
            message="minReplicas must not be above maxReplicas (20 where it is left out)",
            holds=lambda it: it.min_replicas <= it.max_replicas,
            field="minReplicas",
        ),
    )


class EnergyLimits(ApiModel):
    """What the workload may cost at most, whatever the caps allow."""

    max_joules_per_request: DecimalString | None = None
    """Options above this energy per request are not used, e.g. "40"."""
    max_watts: Annotated[int, Field(ge=1, le=MAX_WATTS)] | None = None
    """Options that may draw more than this in total are not used."""


class Placement(ApiModel):
    """Where the pods may run."""

    accelerator_classes: Annotated[tuple[Name, ...], Field(max_length=32, json_schema_extra=list_set())] = ()
    """Only these AcceleratorClasses, e.g. `h100` or `cpu`; empty = any."""
    node_selector: Labels = Field(default_factory=dict)
    """Labels that the nodes must carry, besides those of the accelerator class."""
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=16)] = ()
    """Taints of nodes that the pods accept."""

    rules: ClassVar = (has_keys_of_labels("nodeSelector", "node_selector"),)


class InferenceWorkloadSpec(ApiModel):
    """What the team needs."""

    task: Task
    """What the model must do: a Hugging Face pipeline tag, e.g. text-classification, text-generation,
    feature-extraction."""
    load: Load
    """How much work is expected."""
    quality: Quality | None = None
    """How good is good enough; left out = what the catalogue holds good for the task."""
    latency: Latency = Field(default_factory=Latency)
    """How fast is fast enough, at the 95th percentile."""
    model: ModelChoice = Field(default_factory=ModelChoice)
    """Narrows or fixes the choice of the model."""
    reasoning: Reasoning = Reasoning.OFF
    """How long the model may think before it answers. Above Low it needs an opt-in. Write "Off" in quotes: YAML reads
    it as false otherwise."""
    opt_in: Annotated[tuple[OptIn, ...], Field(max_length=8, json_schema_extra=list_map("feature"))] = ()
    """Expensive features that are wanted, each with a reason and an end."""
    priority: Annotated[int, Field(ge=0, le=1000)] = DEFAULT_PRIORITY
    """When watts are scarce, workloads with a lower number are dimmed first."""
    replicas: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Number of pods wanted by an autoscaler, written through /scale; Lowbeam may run fewer under a cap, never more.
    Left out = Lowbeam decides, also again once the field is removed. HPA and KEDA find it once it has a first value:
    written here, or by `kubectl scale`."""
    scaling: Scaling = Field(default_factory=Scaling)
    """How many pods there may be."""
    energy: EnergyLimits = Field(default_factory=EnergyLimits)
    """What the workload may cost at most."""
    placement: Placement = Field(default_factory=Placement)
    """Where the pods may run."""
    engine: Engine = Engine.AUTO
    """What serves the model. Native = Lowbeam's worker; VLLM, SGLang, TEI, LlamaCpp = that engine, started with its own
    arguments from the operator's default image or from spec.pod.image. Auto = Native, except that an image in
    spec.pod.image answers for itself what it can serve."""
    pod: PodOptions = Field(default_factory=PodOptions)
    """What the pods look like."""
    mode: WorkloadMode = WorkloadMode.ENFORCE
    """Enforce = decide and run; Advise = decide and explain in the status, change nothing."""

    rules: ClassVar = (
        Rule(
            cel="self.reasoning in ['Off', 'Low'] || "
            "(has(self.optIn) && self.optIn.exists(o, o.feature == 'HighReasoning'))",
            message="reasoning above Low costs many times the energy; add an optIn with feature HighReasoning, "
            "a reason and an until date, or use Low",
            holds=lambda it: (
                it.reasoning in (Reasoning.OFF, Reasoning.LOW)
                or any(entry.feature is Feature.HIGH_REASONING for entry in it.opt_in)
            ),
            field="reasoning",
        ),
    )

    def opted_in(self, feature: Feature, today: date) -> bool:
        """Whether the owner asked for the feature and the request has not run out."""
        return any(entry.feature is feature and today <= entry.until for entry in self.opt_in)


class InferenceWorkload(KubeObject):
    """A need for inference: a task, a load, and what is good and fast enough.

    Lowbeam picks the smallest model and the cheapest precision, batch and replica setting that meet it, runs it as pods
    behind a Service of the same name, and shows the energy that it uses.
    """

    resource: ClassVar = Resource(
        kind="InferenceWorkload",
        plural="inferenceworkloads",
        short_names=("iw",),
        scope=Scope.NAMESPACED,
        scale=ScaleSubresource(),
        columns=(
            condition_column("Ready", "Ready", "Whether the workload is served as asked"),
            PrinterColumn("Model", ".status.selected.model", "string", "The model that serves"),
            PrinterColumn("Precision", ".status.selected.precision", "string", "Its number format"),
            PrinterColumn("Replicas", ".status.replicas", "integer", "Pods"),
            PrinterColumn("Watts", ".status.energy.measuredWatts", "integer", "Watts drawn now"),
            PrinterColumn("J/req", ".status.energy.joulesPerRequest", "string", "Joules per request"),
            PrinterColumn("Stars", ".status.energy.stars", "string", "Energy rating among models for the task"),
            PrinterColumn("Dimmed", ".status.dimming.lever", "string", "What a power cap took away"),
            PrinterColumn("Class", ".status.selected.acceleratorClass", "string", "Accelerator class", priority=1),
            PrinterColumn(
                "Official", ".status.energy.officialStars", "string", "Stars of the AI Energy Score, at batch 1", 1
            ),
            PrinterColumn("Priority", ".spec.priority", "integer", "Lower is dimmed first", priority=1),
            PrinterColumn(
                "Reason", '.status.conditions[?(@.type=="Ready")].reason', "string", "Why it is or is not Ready", 1
            ),
            AGE,
        ),
    )

    kind: Literal["InferenceWorkload"] = "InferenceWorkload"
    """What the object is."""
    spec: InferenceWorkloadSpec
    """What the team needs."""
    status: InferenceWorkloadStatus = Field(default_factory=InferenceWorkloadStatus)
    """What Lowbeam decided, runs and measures."""
