"""Objects of the catalogue as a user writes them, to be spoiled one field at a time."""

from __future__ import annotations

from typing import Any

from lowbeam.catalog import CatalogueProblem

SOURCE = {"citation": "our own measurement", "date": "2026-11-21"}


def card(name: str = "our-model", **changes: Any) -> dict[str, Any]:
    spec = {
        "modelPath": "/models/our-model",
        "tasks": ["text-classification"],
        "licence": "apache-2.0",
        "totalParametersMillions": 70,
        "activeParametersMillions": 70,
        "contextTokens": 512,
        "generative": False,
        "variants": [
            {
                "precision": "bf16",
                "weightsMebibytes": 140,
                "quality": [{"benchmark": "sst2", "metric": "accuracy-percent", "score": "95.1", "source": SOURCE}],
            }
        ],
        "source": SOURCE,
    }
    return _object("ModelCard", name, spec | changes)


def accelerator(name: str = "l40s", **changes: Any) -> dict[str, Any]:
    spec = {
        "productLabels": ["NVIDIA-L40S"],
        "memoryMebibytes": 46068,
        "computeCapability": "8.9",
        "precisions": ["bf16", "fp8"],
        "idleWatts": "102.1",
        "maxWatts": "350",
        "source": SOURCE,
    }
    return _object("AcceleratorClass", name, spec | changes)


def point(batch: int, watts: str, rate: str, **changes: Any) -> dict[str, Any]:
    return {
        "batch": batch,
        "watts": watts,
        "requestsPerSecond": rate,
        "latencyP50Milliseconds": 10,
        "latencyP95Milliseconds": 14,
    } | changes


def profile(name: str = "our-profile", **changes: Any) -> dict[str, Any]:
    spec = {
        "model": "distilbert-sst2",
        "precision": "bf16",
        "task": "text-classification",
        "acceleratorClass": "l4",
        "engine": "native",
        "inputTokens": 128,
        "points": [point(1, "40.5", "300"), point(8, "60", "1500")],
        "basis": "Measured",
        "source": SOURCE,
    }
    return _object("EnergyProfile", name, spec | changes)


def _object(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "lowbeam.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def only(problems: tuple[CatalogueProblem, ...]) -> CatalogueProblem:
    assert len(problems) == 1, problems
    return problems[0]
