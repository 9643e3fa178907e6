"""From API objects to facts: the one conversion for built-in data and for objects of the cluster.

Never judges: what does not fit together is refused in `overlay`. Decimal strings become integers exactly; digits below
the integer's unit are rounded half to even.
"""

from __future__ import annotations

from decimal import Decimal

from lowbeam.api.v1alpha1.acceleratorclass import AcceleratorClass as AcceleratorClassObject
from lowbeam.api.v1alpha1.energyprofile import EnergyProfile as EnergyProfileObject
from lowbeam.api.v1alpha1.modelcard import ModelCard
from lowbeam.api.v1alpha1.provenance import Provenance
from lowbeam.catalog.facts import (
    AcceleratorClass,
    EnergyProfile,
    Model,
    ProfilePoint,
    QualityScore,
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
        context_tokens=spec.context_tokens,
        generative=spec.generative,
        variants=tuple(
            Variant(
                model=name,
                precision=variant.precision,
                reasoning=variant.reasoning,
                weights_mib=variant.weights_mebibytes,
                quality=tuple(
                    QualityScore(entry.benchmark, entry.metric, _scaled(entry.score, 100), _source(entry.source))
                    for entry in variant.quality
                ),
                model_path=variant.model_path or "",
            )
            for variant in spec.variants
        ),
        source=_source(spec.source),
        model_path=spec.model_path,
    )


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
        bandwidth_gb_s=spec.memory_bandwidth_gigabytes_per_second or 0,
        dense_tflops_bf16=spec.dense_teraflops_bf16 or 0,
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
    )


def _scaled(value: str, factor: int) -> int:
    return round(Decimal(value) * factor)


def _source(provenance: Provenance) -> Source:
    return Source(provenance.citation, provenance.date, provenance.note or "")
