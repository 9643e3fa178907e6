"""The JSON of `lowbeam catalog`: every field is in the reference page, and values keep their names and units."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lowbeam.api.v1alpha1.provenance import ReasoningSwitch
from lowbeam.catalog import Finding
from lowbeam.catalog.facts import (
    AcceleratorClass,
    Basis,
    Catalogue,
    EnergyProfile,
    Model,
    ProfilePoint,
    QualityScore,
    Reasoning,
    ReasoningControl,
    Source,
    TaskFacts,
    Variant,
)
from lowbeam.catalog.verify import Severity
from lowbeam.cli import catalog as catalog_cli
from lowbeam.cli import main
from lowbeam.cli.catalog import checking

REFERENCE = (Path(__file__).parents[2] / "docs/reference/catalog-json.md").read_text(encoding="utf-8")
SOURCE = Source("a paper", "2026-11", "page 3")
FREE_FORM = {"source", "variants[].quality[].source", "reasoningControl.values"}
"""Objects whose keys the page describes in words."""

CATALOGUE = Catalogue(
    models={
        "m": Model(
            name="m",
            tasks=("text-generation",),
            licence="mit",
            total_parameters_millions=14_700,
            active_parameters_millions=14_700,
            context_tokens=16_384,
            generative=True,
            variants=(
                Variant(
                    model="m",
                    precision="bf16",
                    reasoning=Reasoning.OFF,
                    weights_mib=28_000,
                    quality=(QualityScore("mmlu-pro", "accuracy-percent", 7045, SOURCE),),
                ),
            ),
            source=SOURCE,
            model_path="microsoft/phi-4",
            predecessors=("small",),
            successors=("large",),
            reasoning_control=ReasoningControl(
                ReasoningSwitch.TEMPLATE_FLAG, "enable_thinking", ((Reasoning.OFF, "false"),)
            ),
        )
    },
    accelerator_classes={
        "h100": AcceleratorClass(
            name="h100",
            product_labels=("NVIDIA-H100-80GB-HBM3",),
            memory_mib=81_559,
            compute_capability=90,
            precisions=("bf16",),
            idle_milliwatts=120_500,
            max_milliwatts=700_000,
            source=SOURCE,
        )
    },
    profiles=(
        EnergyProfile(
            name="m-bf16-h100-x1",
            model="m",
            precision="bf16",
            reasoning=Reasoning.OFF,
            task="text-generation",
            accelerator_class="h100",
            accelerators=1,
            engine="vllm",
            input_tokens=100,
            output_tokens=400,
            points=(ProfilePoint(8, 400_000, 8_000, 1000, 1200, 20_000, None),),
            basis=Basis.PUBLISHED,
            source=SOURCE,
            series="s",
        ),
    ),
    tasks={
        "text-generation": TaskFacts("text-generation", "mmlu-pro", 4500, 6400, True, 500, 400, None, 1000, 50),
    },
)
LABEL = "HF Space AIEnergyScore/Label commit a3a4e38 (text_gen_energyscore.csv, kWh column x1000)"
FINDING = Finding(Severity.SUSPICIOUS, "EnergyProfile/m", "points", "odd", "WattsFall")


@pytest.fixture(autouse=True)
def _one_small_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog_cli, "load_builtin", lambda: CATALOGUE)
    monkeypatch.setattr(checking, "load_builtin", lambda: CATALOGUE)
    monkeypatch.setattr(checking, "verify", lambda *_: [FINDING])


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main(["catalog", *arguments, "-o", "json"]) == 0
    return json.loads(capsys.readouterr().out)


def paths(value: Any, prefix: str = "") -> Iterator[str]:
    """`variants[].quality[].score` for every leaf, and for the objects that the page describes as a whole."""
    if isinstance(value, dict) and prefix not in FREE_FORM:
        if prefix == "reasoningControl":
            yield prefix
        for key, inner in value.items():
            yield from paths(inner, f"{prefix}.{key}" if prefix else key)
    elif isinstance(value, list):
        for inner in value:
            yield from paths(inner, f"{prefix}[]")
    else:
        yield prefix


def documented(heading: str) -> set[str]:
    section = REFERENCE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return set(re.findall(r"^\| `([^`]+)` \|", section, flags=re.MULTILINE))


@pytest.mark.parametrize(
    ("heading", "view", "name"),
    [
        ("Model", "models", "m"),
        ("EnergyProfile", "profiles", "m-bf16-h100-x1"),
        ("AcceleratorClass", "accelerators", "h100"),
        ("Task", "tasks", "text-generation"),
    ],
)
def test_every_field_is_documented_and_every_documented_field_is_printed(
    capsys: pytest.CaptureFixture[str], heading: str, view: str, name: str
) -> None:
    (row,) = printed(capsys, view)
    assert set(paths(row)) == documented(heading)
    assert printed(capsys, "show", name) == {"kind": heading, **row}


def test_findings_are_documented(capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(capsys, "verify")
    assert set(paths(found)) == documented("Findings")
    assert (found["wrong"], found["suspicious"]) == (0, 1)


def test_a_model_reads_as_it_always_did(capsys: pytest.CaptureFixture[str]) -> None:
    source = {"citation": "a paper", "date": "2026-11", "note": "page 3"}
    assert printed(capsys, "models") == [
        {
            "name": "m",
            "modelPath": "microsoft/phi-4",
            "tasks": ["text-generation"],
            "licence": "mit",
            "totalParametersMillions": 14700,
            "activeParametersMillions": 14700,
            "contextTokens": 16384,
            "generative": True,
            "predecessors": ["small"],
            "successors": ["large"],
            "reasoningControl": {
                "switch": "TemplateFlag",
                "parameter": "enable_thinking",
                "values": {"Off": "false"},
            },
            "variants": [
                {
                    "precision": "bf16",
                    "reasoning": "Off",
                    "modelPath": "microsoft/phi-4",
                    "weightsMebibytes": 28000,
                    "quality": [
                        {
                            "benchmark": "mmlu-pro",
                            "metric": "accuracy-percent",
                            "score": 70.45,
                            "setting": "",
                            "confidence": "Primary",
                            "source": source,
                        }
                    ],
                    "profiles": [
                        {
                            "name": "m-bf16-h100-x1",
                            "task": "text-generation",
                            "acceleratorClass": "h100",
                            "accelerators": 1,
                            "leastJoulesPerRequest": 50.0,
                            "stars": 4,
                            "basis": "Published",
                            "uncertaintyPercent": 0,
                            "planned": True,
                        }
                    ],
                }
            ],
            "officialScores": [
                {
                    "task": "text-generation",
                    "reasoning": "Off",
                    "wattHoursPerThousandRequests": 28.741,
                    "stars": 1,
                    "sizeClass": "A",
                    "round": "2025-02",
                    "source": LABEL,
                }
            ],
            "source": source,
        }
    ]


def test_a_profile_and_its_points_read_as_they_always_did(capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = printed(capsys, "profiles")
    assert row["points"] == [
        {
            "batch": 8,
            "watts": 400.0,
            "requestsPerSecond": 8.0,
            "joulesPerRequest": 50.0,
            "stars": 4,
            "latencyP50Milliseconds": 1000,
            "latencyP95Milliseconds": 1200,
            "interTokenP50Microseconds": 20000,
            "interTokenP95Microseconds": None,
        }
    ]
    del row["points"]
    assert row == {
        "name": "m-bf16-h100-x1",
        "model": "m",
        "precision": "bf16",
        "reasoning": "Off",
        "task": "text-generation",
        "acceleratorClass": "h100",
        "accelerators": 1,
        "engine": "vllm",
        "inputTokens": 100,
        "outputTokens": 400,
        "basis": "Published",
        "uncertaintyPercent": 0,
        "series": "s",
        "planned": True,
        "source": {"citation": "a paper", "date": "2026-11", "note": "page 3"},
    }


def test_unknown_is_null_and_never_zero(capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = printed(capsys, "accelerators")
    assert row["bareIdleWatts"] is None
    assert row["memoryBandwidthGigabytesPerSecond"] is None
    assert (row["computeCapability"], row["idleWatts"]) == ("9.0", 120.5)


def test_the_official_score_stands_beside_our_stars_in_words_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["catalog", "show", "microsoft/phi-4"]) == 0
    text = capsys.readouterr().out
    assert "h100 x1 8 50 **** Published text-generation" in " ".join(text.split())
    assert "AI Energy Score 2025-02, text-generation, class A: *, 28.7 Wh per 1,000" in text
    assert "do not compare" in text
