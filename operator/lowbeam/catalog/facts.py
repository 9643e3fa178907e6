"""Measured facts as values: models, variants, accelerator classes, energy profiles.

Decides nothing; it is the vocabulary of the catalogue. Integers with the unit in the name. `None` means unknown.

Invariants: profile points are sorted by batch and have positive power and throughput; a profile belongs to exactly one
(model, precision, reasoning, task, class, accelerators) and is never interpolated across precisions.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from lowbeam.api.v1alpha1.provenance import Basis, Confidence, Reasoning, ReasoningSwitch

__all__ = [
    "AcceleratorClass",
    "Basis",
    "Benchmark",
    "Catalogue",
    "Confidence",
    "EnergyProfile",
    "Model",
    "ProfilePoint",
    "QualityScore",
    "Reasoning",
    "ReasoningControl",
    "Source",
    "TaskFacts",
    "Variant",
]


@dataclass(frozen=True, slots=True)
class Source:
    """Where a figure was read: a citation, its date (ISO), and how far it can be trusted."""

    citation: str
    date: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One series of results that may be compared: one metric, measured in one setting. Higher is better."""

    name: str
    metric: str
    setting: str
    """Data set, harness and shots: a result of another setting belongs to another benchmark."""
    highest_centi: int | None = None
    """The best score there can be (10,000 for percentages); None = no bound."""


@dataclass(frozen=True, slots=True)
class QualityScore:
    """One benchmark result. `score_centi` is in hundredths of the benchmark's own unit (90.25 -> 9025)."""

    benchmark: str
    metric: str
    score_centi: int
    source: Source
    setting: str = ""
    """As the source states it; always that of the benchmark. Empty where the source says no more than the benchmark."""
    confidence: Confidence = Confidence.PRIMARY


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run a model: precision x reasoning mode."""

    model: str
    precision: str
    reasoning: Reasoning
    weights_mib: int
    quality: tuple[QualityScore, ...]
    model_path: str = ""
    """What the worker loads for this precision when it is not the model's own path, e.g. an FP8 checkpoint."""

    @property
    def key(self) -> tuple[str, str, Reasoning]:
        """Identity of the variant."""
        return (self.model, self.precision, self.reasoning)

    def quality_centi(self, benchmark: str) -> int | None:
        """Score on `benchmark` in hundredths, or None where the catalogue has none."""
        return next((q.score_centi for q in self.quality if q.benchmark == benchmark), None)


@dataclass(frozen=True, slots=True)
class ReasoningControl:
    """How a request switches the reasoning of a model, e.g. the flag `enable_thinking` of its chat template."""

    switch: ReasoningSwitch
    parameter: str
    """Name of the flag or request field; empty where the value is written into the prompt."""
    values: tuple[tuple[Reasoning, str], ...]

    def value(self, reasoning: Reasoning) -> str | None:
        """What to send for a mode, or None where the model has no such mode."""
        return dict(self.values).get(reasoning)


@dataclass(frozen=True, slots=True)
class Model:
    """One model of the catalogue."""

    name: str
    tasks: tuple[str, ...]
    licence: str
    total_parameters_millions: int
    active_parameters_millions: int
    context_tokens: int
    """Longest input and output together; 0 where the model reads no text, or cuts what is too long."""
    generative: bool
    variants: tuple[Variant, ...]
    source: Source
    model_path: str = ""
    """What the worker loads: a Hugging Face id, a folder, or a scheme the worker documents. Empty: the name."""
    kv_bytes_per_token: int | None = None
    """Key-value cache of one token of context; None = unknown, or no such cache."""
    predecessors: tuple[str, ...] = ()
    """Where to step down to: the next smaller models of the family, each doing one of the same tasks."""
    successors: tuple[str, ...] = ()
    """Where to step up to: the models that name this one as a predecessor."""
    reasoning_control: ReasoningControl | None = None
    """None for models with one reasoning mode."""

    def path_for(self, precision: str) -> str:
        """What the worker loads to run this precision."""
        own = next((v.model_path for v in self.variants if v.precision == precision and v.model_path), "")
        return own or self.model_path or self.name


@dataclass(frozen=True, slots=True)
class AcceleratorClass:
    """One kind of accelerator and how to recognise its nodes. Power figures are per board, in milliwatts."""

    name: str
    product_labels: tuple[str, ...]
    """Values of `nvidia.com/gpu.product`; empty for the class `cpu`, whose replicas ask for no accelerator."""
    memory_mib: int
    compute_capability: int
    """major x 10 + minor (8.9 -> 89); 0 for no CUDA device."""
    precisions: tuple[str, ...]
    idle_milliwatts: int
    """With a context loaded and no work: what a replica costs when nobody calls."""
    max_milliwatts: int
    """Default enforced limit: the worst case of a board whose meter is silent."""
    source: Source
    bandwidth_gb_s: int | None = None
    dense_tflops_bf16: int | None = None
    dense_tflops_fp16: int | None = None
    """None where it equals BF16."""
    dense_tflops_fp8: int | None = None
    dense_tops_int8: int | None = None
    bare_idle_milliwatts: int | None = None
    """With no context loaded: what the board draws when no replica is on it."""
    min_milliwatts: int | None = None
    """The lowest power limit that the board accepts."""

    def dense_tflops(self, precision: str) -> int | None:
        """Peak of the arithmetic that weights of `precision` take part in, without sparsity; None = unknown.

        Four-bit weights are widened to BF16 first.
        """
        return {
            "bf16": self.dense_tflops_bf16,
            "fp16": self.dense_tflops_fp16 or self.dense_tflops_bf16,
            "fp8": self.dense_tflops_fp8,
            "int8": self.dense_tops_int8,
            "int4": self.dense_tflops_bf16,
            "mxfp4": self.dense_tflops_bf16,
        }.get(precision)


@dataclass(frozen=True, slots=True)
class ProfilePoint:
    """Steady state at one batch; watts are the sum over the accelerators of one replica."""

    batch: int
    """Requests that run together (the measured average where one was recorded)."""
    milliwatts: int
    requests_per_second_milli: int
    """Saturated throughput of one replica at this batch, thousandths of a request per second."""
    latency_p50_ms: int
    """End-to-end service time of one request at this batch, queueing excluded."""
    latency_p95_ms: int
    inter_token_p50_us: int | None = None
    inter_token_p95_us: int | None = None


@dataclass(frozen=True, slots=True)
class EnergyProfile:
    """One measured curve."""

    name: str
    model: str
    precision: str
    reasoning: Reasoning
    task: str
    accelerator_class: str
    accelerators: int
    engine: str
    input_tokens: int
    """Mean input length of the measured requests; an estimate on the low side where the source does not say."""
    output_tokens: int
    """Mean output length of the measured requests: throughput scales by it for other lengths. 1 for encoders."""
    points: tuple[ProfilePoint, ...]
    basis: Basis
    source: Source
    uncertainty_percent: int = 0
    """Half-width of the error of modelled figures; 0 for measured and published ones."""
    series: str = ""
    """Not empty, e.g. `ml-energy-v2`: of another engine generation or way to meter, never ranked with the others."""
    board_limit_watts: int = 0
    """Power limit of each board that the points hold for; 0 = as the boards are. Only from `board_limits`."""
    unlimited_basis: Basis | None = None
    """Of the figures that the limit was worked out for; None without one."""


@dataclass(frozen=True, slots=True)
class TaskFacts:
    """What Lowbeam assumes for a Hugging Face pipeline tag unless the workload says it; why: `catalog.tasks`."""

    name: str
    benchmark: str
    floor_centi: int
    target_centi: int
    """The knee of quality against joules; the floor where the catalogue has no joules for the task (`catalog.knee`)."""
    generative: bool
    """Whether the answer is text of several tokens. Where it is not, models that generate text need an opt-in."""
    default_input_tokens: int
    default_output_tokens: int
    end_to_end_ms: int | None
    time_to_first_token_ms: int | None
    inter_token_ms: int | None
    default_reasoning: Reasoning = Reasoning.OFF
    target_from: str = ""
    """What the target was computed from: the model at the knee, where; empty = no joules, so no knee."""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All facts, by name. Build with `lowbeam.catalog.load_builtin()`; override with `overlay`."""

    models: dict[str, Model] = field(default_factory=dict)
    accelerator_classes: dict[str, AcceleratorClass] = field(default_factory=dict)
    profiles: tuple[EnergyProfile, ...] = ()
    """What is planned with: all of one series, so that any two may be ranked."""
    tasks: dict[str, TaskFacts] = field(default_factory=dict)
    benchmarks: dict[str, Benchmark] = field(default_factory=dict)
    reference_profiles: tuple[EnergyProfile, ...] = ()
    """Profiles of other series: shown and compared, never planned with."""
    _index: dict[tuple[str, str], list[EnergyProfile]] = field(init=False, repr=False, compare=False)
    """`profiles` by model and task: every tick asks for those of every pod."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_index", {})
        for profile in self.profiles:
            self._index.setdefault((profile.model, profile.task), []).append(profile)

    def profiles_of(self, model: str, task: str) -> tuple[EnergyProfile, ...]:
        """Profiles of one model measured for one task, in name order."""
        return tuple(self._index.get((model, task), ()))
