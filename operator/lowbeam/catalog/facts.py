"""Measured facts as values: models, variants, accelerator classes, energy profiles.

Decides nothing; it is the vocabulary of the catalogue. Integers with the unit in the name. `None` means unknown.

Invariants: profile points are sorted by batch and have positive power and throughput; a profile belongs to exactly one
(model, precision, reasoning, task, class, accelerators) and is never interpolated across precisions.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from lowbeam.api.v1alpha1.provenance import Basis, Reasoning

__all__ = [
    "AcceleratorClass",
    "Basis",
    "Catalogue",
    "EnergyProfile",
    "Model",
    "ProfilePoint",
    "QualityScore",
    "Reasoning",
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
class QualityScore:
    """One benchmark result. `score_centi` is in hundredths of the benchmark's own unit (90.25 -> 9025)."""

    benchmark: str
    metric: str
    score_centi: int
    source: Source


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
class Model:
    """One model of the catalogue."""

    name: str
    tasks: tuple[str, ...]
    licence: str
    total_parameters_millions: int
    active_parameters_millions: int
    context_tokens: int
    generative: bool
    variants: tuple[Variant, ...]
    source: Source
    model_path: str = ""
    """What the worker loads: a Hugging Face id, a folder, or a scheme the worker documents. Empty: the name."""

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
    bandwidth_gb_s: int = 0
    dense_tflops_bf16: int = 0


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


@dataclass(frozen=True, slots=True)
class TaskFacts:
    """What Lowbeam assumes for a Hugging Face pipeline tag unless the workload says it; why: `catalog.tasks`."""

    name: str
    benchmark: str
    floor_centi: int
    target_centi: int
    generative: bool
    default_input_tokens: int
    default_output_tokens: int
    end_to_end_ms: int | None
    time_to_first_token_ms: int | None
    inter_token_ms: int | None


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All facts, by name. Build with `lowbeam.catalog.load_builtin()`; override with `overlay`."""

    models: dict[str, Model] = field(default_factory=dict)
    accelerator_classes: dict[str, AcceleratorClass] = field(default_factory=dict)
    profiles: tuple[EnergyProfile, ...] = ()
    tasks: dict[str, TaskFacts] = field(default_factory=dict)

    def profiles_of(self, model: str, task: str) -> tuple[EnergyProfile, ...]:
        """Profiles of one model measured for one task, in name order."""
        return tuple(p for p in self.profiles if p.model == model and p.task == task)
