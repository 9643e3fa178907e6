"""From API objects to facts: the one conversion for built-in data and for objects of the cluster.

Never judges: what does not fit together is refused in `overlay`. Decimal strings become integers exactly; digits below
the integer's unit are rounded half to even.
"""

from __future__ import annotations

from decimal import Decimal

from lowbeam.api.v1alpha1.acceleratorclass import AcceleratorClass as AcceleratorClassObject
from lowbeam.api.v1alpha1.energyprofile import EnergyProfile as EnergyProfileObject
from lowbeam.api.v1alpha1.modelcard import ModelCard, QualityEntry
from lowbeam.api.v1alpha1.modelcard import ReasoningControl as ReasoningControlObject
from lowbeam.api.v1alpha1.provenance import Provenance
from lowbeam.catalog.facts import (
    AcceleratorClass,
    Benchmark,
    EnergyProfile,
    Model,
    ProfilePoint,
    QualityScore,
    ReasoningControl,
    Source,
    Variant,
)


def model_of(card: ModelCard) -> Model:
    """The facts of a ModelCard."""
    name, spec = card.metadata.name, card.spec
    return Model(
        name=name,
        tasks=spec.tasks,
        licence=spec.licence,
        total_parameters_millions=spec.total_parameters_millions,
        active_parameters_millions=spec.active_parameters_millions,
        context_tokens=spec.context_tokens or 0,
        generative=spec.generative,
        variants=tuple(
            Variant(
                model=name,
                precision=variant.precision,
                reasoning=variant.reasoning,
                weights_mib=variant.weights_mebibytes,
                quality=tuple(_score_of(entry) for entry in variant.quality),
                model_path=variant.model_path or "",
            )
            for variant in spec.variants
        ),
        source=_source(spec.source),
        model_path=spec.model_path,
        kv_bytes_per_token=spec.key_value_bytes_per_token,
        predecessors=spec.predecessors,
        reasoning_control=_control_of(spec.reasoning_control),
    )


def benchmarks_of(card: ModelCard) -> tuple[Benchmark, ...]:
    """The benchmarks that a ModelCard brings with it."""
    return tuple(Benchmark(it.name, it.metric, it.setting) for it in card.spec.benchmarks)


def _score_of(entry: QualityEntry) -> QualityScore:
    return QualityScore(
        benchmark=entry.benchmark,
        metric=entry.metric,
        score_centi=_scaled(entry.score, 100),
        source=_source(entry.source),
        setting=entry.setting or "",
        confidence=entry.confidence,
    )


def _control_of(control: ReasoningControlObject | None) -> ReasoningControl | None:
    if control is None:
        return None
    values = tuple((entry.reasoning, entry.value) for entry in control.values)
    return ReasoningControl(control.switch, control.parameter or "", values)


def class_of(accelerator: AcceleratorClassObject) -> AcceleratorClass:
    """The facts of an AcceleratorClass."""
    spec = accelerator.spec
    return AcceleratorClass(
        name=accelerator.metadata.name,
        product_labels=spec.product_labels,
        memory_mib=spec.memory_mebibytes,
        compute_capability=0 if spec.compute_capability is None else int(spec.compute_capability.replace(".", "")),
        precisions=spec.precisions,
        idle_milliwatts=_scaled(spec.idle_watts, 1000),
        max_milliwatts=_scaled(spec.max_watts, 1000),
        source=_source(spec.source),
        bandwidth_gb_s=spec.memory_bandwidth_gigabytes_per_second,
        dense_tflops_bf16=spec.dense_teraflops_bf16,
        dense_tflops_fp16=spec.dense_teraflops_fp16,
        dense_tflops_fp8=spec.dense_teraflops_fp8,
        dense_tops_int8=spec.dense_teraops_int8,
        bare_idle_milliwatts=None if spec.bare_idle_watts is None else _scaled(spec.bare_idle_watts, 1000),
        min_milliwatts=None if spec.min_watts is None else _scaled(spec.min_watts, 1000),
    )


def profile_of(profile: EnergyProfileObject) -> EnergyProfile:
    """The facts of an EnergyProfile."""
    spec = profile.spec
    return EnergyProfile(
        name=profile.metadata.name,
        model=spec.model,
        precision=spec.precision,
        reasoning=spec.reasoning,
        task=spec.task,
        accelerator_class=spec.accelerator_class,
        accelerators=spec.accelerators,
        engine=spec.engine,
        input_tokens=spec.input_tokens,
        output_tokens=spec.output_tokens,
        points=tuple(
            ProfilePoint(
                batch=point.batch,
                milliwatts=_scaled(point.watts, 1000),
                requests_per_second_milli=_scaled(point.requests_per_second, 1000),
                latency_p50_ms=point.latency_p50_milliseconds,
                latency_p95_ms=point.latency_p95_milliseconds,
                inter_token_p50_us=point.inter_token_p50_microseconds,
                inter_token_p95_us=point.inter_token_p95_microseconds,
            )
            for point in spec.points
        ),
        basis=spec.basis,
        source=_source(spec.source),
        uncertainty_percent=spec.uncertainty_percent or 0,
        series=spec.series or "",
    )


def _scaled(value: str, factor: int) -> int:
    return round(Decimal(value) * factor)


def _source(provenance: Provenance) -> Source:
    return Source(provenance.citation, provenance.date, provenance.note or "")
