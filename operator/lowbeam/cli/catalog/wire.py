"""The JSON of `lowbeam catalog`: one function per kind of fact. Documented in docs/reference/catalog-json.md.

Decides names and units: those of the CRDs, as numbers. `null` means unknown. Fields are added, never renamed; a test
compares every key with the reference page.
"""

from __future__ import annotations

from typing import Any

from lowbeam.catalog import Catalogue, Finding, benchmarks_of, official_score
from lowbeam.catalog.comparison import least_millijoules, millijoules_per_request
from lowbeam.catalog.facts import (
    AcceleratorClass,
    EnergyProfile,
    Model,
    ProfilePoint,
    QualityScore,
    Source,
    TaskFacts,
    Variant,
)
from lowbeam.catalog.official_stars import load_official
from lowbeam.catalog.stars import BANDS, UNRATED, VERSION
from lowbeam.cli.catalog.words import rating_of

Json = dict[str, Any]


def model_json(catalogue: Catalogue, model: Model, variants: list[Variant]) -> Json:
    """A model with the given variants."""
    control = model.reasoning_control
    return {
        "name": model.name,
        "modelPath": model.model_path or model.name,
        "tasks": list(model.tasks),
        "licence": model.licence,
        "totalParametersMillions": model.total_parameters_millions,
        "activeParametersMillions": model.active_parameters_millions,
        "contextTokens": model.context_tokens,
        "generative": model.generative,
        "predecessors": list(model.predecessors),
        "successors": list(model.successors),
        "reasoningControl": None
        if control is None
        else {
            "switch": control.switch.value,
            "parameter": control.parameter,
            "values": {reasoning.value: value for reasoning, value in control.values},
        },
        "variants": [_variant(catalogue, model, variant) for variant in variants],
        "officialScores": _official(model),
        "source": source_json(model.source),
    }


def _variant(catalogue: Catalogue, model: Model, variant: Variant) -> Json:
    profiles = [
        (p, planned)
        for found, planned in ((catalogue.profiles, True), (catalogue.reference_profiles, False))
        for p in found
        if (p.model, p.precision, p.reasoning) == variant.key
    ]
    return {
        "precision": variant.precision,
        "reasoning": variant.reasoning.value,
        "modelPath": variant.model_path or model.model_path or model.name,
        "weightsMebibytes": variant.weights_mib,
        "quality": [_quality(score) for score in variant.quality],
        "profiles": [_least(profile, planned=planned) for profile, planned in profiles],
    }


def _quality(score: QualityScore) -> Json:
    return {
        "benchmark": score.benchmark,
        "metric": score.metric,
        "score": score.score_centi / 100,
        "setting": score.setting,
        "confidence": score.confidence.value,
        "source": source_json(score.source),
    }


def _least(profile: EnergyProfile, *, planned: bool) -> Json:
    least = least_millijoules(profile)
    return {
        "name": profile.name,
        "task": profile.task,
        "acceleratorClass": profile.accelerator_class,
        "accelerators": profile.accelerators,
        "leastJoulesPerRequest": None if least is None else least / 1000,
        "stars": None if least is None else rating_of(profile, least),
        "basis": profile.basis.value,
        "uncertaintyPercent": profile.uncertainty_percent,
        "planned": planned,
    }


def _official(model: Model) -> list[Json]:
    modes = sorted({variant.reasoning for variant in model.variants})
    found = [score for task in model.tasks for mode in modes if (score := official_score(model, task, mode))]
    return [
        {
            "task": score.task,
            "reasoning": score.reasoning.value,
            "wattHoursPerThousandRequests": score.milliwatt_hours_per_thousand / 1000,
            "stars": score.published_stars,
            "sizeClass": score.size_class,
            "round": load_official().round,
            "source": score.source,
        }
        for score in found
    ]


def profile_json(profile: EnergyProfile, *, planned: bool) -> Json:
    """A profile with all its points."""
    return {
        "name": profile.name,
        "model": profile.model,
        "precision": profile.precision,
        "reasoning": profile.reasoning.value,
        "task": profile.task,
        "acceleratorClass": profile.accelerator_class,
        "accelerators": profile.accelerators,
        "engine": profile.engine,
        "inputTokens": profile.input_tokens,
        "outputTokens": profile.output_tokens,
        "basis": profile.basis.value,
        "uncertaintyPercent": profile.uncertainty_percent,
        "series": profile.series,
        "planned": planned,
        "points": [_point(profile, point) for point in profile.points],
        "source": source_json(profile.source),
    }


def _point(profile: EnergyProfile, point: ProfilePoint) -> Json:
    millijoules = millijoules_per_request(point)
    return {
        "batch": point.batch,
        "watts": point.milliwatts / 1000,
        "requestsPerSecond": point.requests_per_second_milli / 1000,
        "joulesPerRequest": millijoules / 1000,
        "stars": rating_of(profile, millijoules),
        "latencyP50Milliseconds": point.latency_p50_ms,
        "latencyP95Milliseconds": point.latency_p95_ms,
        "interTokenP50Microseconds": point.inter_token_p50_us,
        "interTokenP95Microseconds": point.inter_token_p95_us,
    }


def accelerator_json(accelerator: AcceleratorClass) -> Json:
    """An accelerator class."""
    capability = accelerator.compute_capability
    return {
        "name": accelerator.name,
        "productLabels": list(accelerator.product_labels),
        "memoryMebibytes": accelerator.memory_mib,
        "computeCapability": f"{capability // 10}.{capability % 10}" if capability else None,
        "precisions": list(accelerator.precisions),
        "idleWatts": accelerator.idle_milliwatts / 1000,
        "bareIdleWatts": _watts(accelerator.bare_idle_milliwatts),
        "minWatts": _watts(accelerator.min_milliwatts),
        "maxWatts": accelerator.max_milliwatts / 1000,
        "memoryBandwidthGigabytesPerSecond": accelerator.bandwidth_gb_s or None,
        "denseTeraflopsBf16": accelerator.dense_tflops_bf16 or None,
        "source": source_json(accelerator.source),
    }


def _watts(milliwatts: int | None) -> float | None:
    return None if milliwatts is None else milliwatts / 1000


def task_json(catalogue: Catalogue, task: TaskFacts) -> Json:
    """What is assumed about a task, and its star bands."""
    return {
        "name": task.name,
        "benchmark": task.benchmark,
        "benchmarks": [
            {"name": name, "models": models} for name, models in benchmarks_of(catalogue, task.name).items()
        ],
        "floor": task.floor_centi / 100,
        "target": task.target_centi / 100,
        "targetFrom": task.target_from,
        "generative": task.generative,
        "defaultInputTokens": task.default_input_tokens,
        "defaultOutputTokens": task.default_output_tokens,
        "defaultReasoning": task.default_reasoning.value,
        "endToEndMilliseconds": task.end_to_end_ms,
        "timeToFirstTokenMilliseconds": task.time_to_first_token_ms,
        "interTokenMilliseconds": task.inter_token_ms,
        "starsVersion": VERSION,
        "stars": [
            {
                "reasoning": thinks,
                "mostJoulesPerRequest": [edge / 1000 for edge in BANDS[name, thinks].edges],
                "because": BANDS[name, thinks].because,
            }
            for name, thinks in BANDS
            if name == task.name
        ],
        "unratedBecause": UNRATED.get(task.name),
    }


def finding_json(finding: Finding) -> Json:
    """One thing to look at."""
    return {
        "severity": finding.severity.value,
        "check": finding.check,
        "subject": finding.subject,
        "field": finding.field,
        "message": finding.message,
    }


def source_json(source: Source) -> Json:
    """Where a figure was read."""
    return {"citation": source.citation, "date": source.date, "note": source.note}
