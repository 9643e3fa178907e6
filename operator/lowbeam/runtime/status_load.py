"""What the status of a workload says about the load that it is sized for, and about its profile. Pure.

Invariant: the texts change only when a figure in use does: nothing is written while nothing happens.
"""

from __future__ import annotations

from typing import Any

from lowbeam.api.v1alpha1 import reasons
from lowbeam.api.v1alpha1.provenance import LoadBasis
from lowbeam.runtime.condition_rows import Row
from lowbeam.runtime.demand import LoadFacts
from lowbeam.sizing import Demand
from lowbeam.sizing.measured_power import Judgement


def load_rows(facts: LoadFacts | None) -> list[Row]:
    """LoadObserved, and ProfileContradicted once something was compared."""
    if facts is None:
        return []
    figures = _figures(facts.demand)
    if facts.demand.basis == LoadBasis.DECLARED:
        row: Row = (reasons.LOAD_OBSERVED, False, reasons.DECLARED, f"sized for {figures}, from spec.load")
    elif facts.gap:
        message = f"no pod has reported its load lately; still sized for {figures}: check the workers' control ports"
        row = (reasons.LOAD_OBSERVED, None, reasons.DATA_GAP, message)
    else:
        row = (reasons.LOAD_OBSERVED, True, reasons.OBSERVED, f"sized for {figures}, from telemetry")
    running = facts.running
    if running is None or not (running.contradicted or running.compared):
        return [row]
    return [row, _profile_row(running)]


def load_status(facts: LoadFacts | None) -> dict[str, Any]:
    """`load` and `measuredProfiles`."""
    if facts is None:
        return {}
    demand = facts.demand
    status: dict[str, Any] = {
        "load": {
            "basis": demand.basis,
            "requestsPerSecond": _per_second(demand.requests_per_second_milli),
            "inputTokens": demand.input_tokens,
            "outputTokens": demand.output_tokens,
            "burstinessPercent": demand.arrival_cv_percent,
        }
    }
    if contradicted := [it for it in facts.judgements if it.contradicted]:
        status["measuredProfiles"] = [_measured_profile(it) for it in sorted(contradicted, key=lambda it: it.key)]
    return status


def _profile_row(running: Judgement) -> Row:
    model, precision, _, accelerator, _ = running.key
    subject = f"{model} {precision} on {accelerator}"
    if not running.contradicted:
        return (reasons.PROFILE_CONTRADICTED_CONDITION, False, reasons.PROFILE_HOLDS, "")
    figures = f" ({running.evidence})" if running.evidence else ""
    message = (
        f"{subject} draws {running.percent} % of what its profile says{figures}; the measured value counts on this "
        "workload. Compare the boards' power limits with the profile's, or add an EnergyProfile of your own."
    )
    return (reasons.PROFILE_CONTRADICTED_CONDITION, True, reasons.PROFILE_CONTRADICTED, message)


def _measured_profile(judgement: Judgement) -> dict[str, Any]:
    model, precision, reasoning, accelerator, boards = judgement.key
    return {
        "model": model,
        "precision": precision,
        "reasoning": reasoning.value,
        "acceleratorClass": accelerator,
        "acceleratorsPerReplica": boards,
        "percentOfProfile": judgement.percent,
        "profileDigest": judgement.digest,
    }


def _figures(demand: Demand) -> str:
    answer = f", {demand.output_tokens} out" if demand.output_tokens > 1 else ""
    rate = _per_second(demand.requests_per_second_milli)
    return f"{rate} requests/s of {demand.input_tokens} tokens in{answer}"


def _per_second(millirps: int) -> str:
    """Exact: a successor reads it back. 20500 -> "20.5"."""
    text = f"{millirps // 1000}.{millirps % 1000:03d}".rstrip("0")
    return text.rstrip(".")
