"""EnergyProfiles of ML.ENERGY v2, a series of its own: shown and compared, never planned with.

vLLM 0.5.4 served a fraction of what 0.11.1 does on the same boards (docs/catalogue-physics.md), and watts are means of
whole runs, ramps included: a v2 figure beside a v3 figure says more about the year than about the model. The source
records no spread of latencies, so p95 stands at p50; no precision (the checkpoints' own); no input lengths.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from lowbeam.catalog.tasks import TASKS
from tools.catalog.crosschecks import A100_NAME, H100_NAME
from tools.catalog.models import model_rows
from tools.catalog.published import MAX_ACCELERATORS
from tools.catalog.rows import SOURCES, Manifest, Row, decimal_text, manifest, profile_name, source
from tools.catalog.thinning import thinned

SERIES = "ml-energy-v2"
CITATION = (
    "The ML.ENERGY Benchmark v2.0 (Chung et al., NeurIPS 2025 Datasets and Benchmarks, arXiv 2505.06371), "
    "github ml-energy/leaderboard-v2 @c3af7f3"
)
DATE = "2024-09"
CLASSES = {A100_NAME: "a100-40", H100_NAME: "h100"}
RENAMED = {
    "meta-llama/Meta-Llama-3.1-8B-Instruct": "meta-llama/Llama-3.1-8B-Instruct",
    "meta-llama/Meta-Llama-3.1-70B-Instruct": "meta-llama/Llama-3.1-70B-Instruct",
    "meta-llama/Meta-Llama-3.1-405B-Instruct": "meta-llama/Llama-3.1-405B-Instruct",
}
"""The same checkpoints under their names of today."""

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Kind:
    """How one file of v2 is read."""

    file: str
    task: str
    engine: str
    input_tokens: int
    """An estimate on the low side; of prompts that are padded to a fixed length, the padding."""
    point: Callable[[Record], Manifest]


def _text_point(row: Record) -> Manifest:
    rate = row["Token tput (tok/s)"] / row["Avg Output Tokens"]
    milliseconds = round(1000 * max(row["Avg BS (reqs)"] / rate, row["Avg TPOT (s)"] * row["Avg Output Tokens"]))
    between = round(row["Avg TPOT (s)"] * 1e6)
    return {
        "batch": round(row["Avg BS (reqs)"]),
        "watts": decimal_text(row["Energy/req (J)"] * rate),
        "requestsPerSecond": decimal_text(rate),
        "latencyP50Milliseconds": milliseconds,
        "latencyP95Milliseconds": milliseconds,
        "interTokenP50Microseconds": between,
        "interTokenP95Microseconds": between,
    }


def _picture_point(row: Record) -> Manifest:
    rate = row["Batch size"] / row["Batch latency (s)"]
    joules = row.get("Energy/image (J)") or row["Energy/video (J)"]
    milliseconds = round(row["Batch latency (s)"] * 1000)
    return {
        "batch": row["Batch size"],
        "watts": decimal_text(joules * rate),
        "requestsPerSecond": decimal_text(rate),
        "latencyP50Milliseconds": milliseconds,
        "latencyP95Milliseconds": milliseconds,
    }


KINDS = (
    Kind("llm_text_generation-chat", "text-generation", "vllm-0.5.4", 100, _text_point),
    Kind("llm_text_generation-code", "code-completion", "vllm-0.5.4", 100, _text_point),
    Kind("mllm_text_generation-chat", "image-text-to-text", "vllm-0.5.4", 100, _text_point),
    Kind("diffusion-text-to-image", "text-to-image", "diffusers", 77, _picture_point),
    Kind("diffusion-text-to-video", "text-to-video", "diffusers", 77, _picture_point),
)


def reference_profiles() -> Iterator[Manifest]:
    """All of them, in no particular order."""
    cards = {row["model_path"]: row for row in model_rows() if row["precision"] in ("bf16", "fp16")}
    for kind in KINDS:
        rows: list[Record] = json.loads((SOURCES / f"ml-energy-v2/{kind.file}.json").read_text(encoding="utf-8"))
        groups: dict[tuple[str, str, int], dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
        for row in rows:
            model_id: str = row["Model"]
            subject = RENAMED.get(model_id, model_id), row["GPU"], row.get("TP", 1) * row.get("PP", 1)
            groups[subject][_setting(row)].append(row)
        for (model_id, gpu, gpus), settings in sorted(groups.items()):
            card = cards.get(model_id)
            if card is None or gpus > MAX_ACCELERATORS or kind.task not in card["tasks"].split():
                continue
            if kind.task in TASKS:
                setting, found = max(sorted(settings.items()), key=lambda item: len(item[1]))
                yield _profile(kind, card, (CLASSES[gpu], gpus), found, setting)


def _profile(kind: Kind, card: Row, boards: tuple[str, int], rows: list[Record], setting: str) -> Manifest:
    name, gpus = boards
    points = _rising([kind.point(row) for row in rows])
    lengths = [row.get("Avg Output Tokens", 1) for row in rows]
    precision = card["precision"]
    return manifest(
        "EnergyProfile",
        f"{profile_name(card, precision, name, gpus, task=kind.task)}-v2",
        {
            "model": card["name"],
            "precision": precision,
            "reasoning": "Off",
            "task": kind.task,
            "acceleratorClass": name,
            "accelerators": gpus,
            "engine": kind.engine,
            "inputTokens": kind.input_tokens,
            "outputTokens": round(sum(lengths) / len(lengths)),
            "points": thinned(points),
            "basis": "Published",
            "series": SERIES,
            "source": source(
                CITATION,
                DATE,
                f"{setting}; watts are means of whole runs; no spread of latency and no precision recorded; input "
                "length estimated",
            ),
        },
    )


def _setting(row: Record) -> str:
    """What must be equal within a curve."""
    if "TP" in row:
        return f"tensor x pipeline parallel {row['TP']}x{row['PP']}"
    frames = f", {row['Frames']} frames" if "Frames" in row else ""
    return f"{row['Denoising steps']} denoising steps{frames}"


def _rising(points: list[Manifest]) -> list[Manifest]:
    kept: list[Manifest] = []
    for point in sorted(points, key=lambda p: p["batch"]):
        rises = not kept or (
            float(point["requestsPerSecond"]) > float(kept[-1]["requestsPerSecond"])
            and point["batch"] > kept[-1]["batch"]
        )
        if rises:
            kept.append(point)
    return kept
