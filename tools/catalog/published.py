"""EnergyProfiles of basis Published: the ML.ENERGY v3 measurements, one curve per way to run a model.

Approximations, all of them here
- Throughput in requests/s = output tokens/s / mean output tokens.
- p50 of the service time = mean time that a request spends in the engine, from Little's law on the recorded average
  batch (prefill included), but never below median inter-token time x mean output tokens.
- p95 = p50 + (p95 - median inter-token time) x mean output tokens: as if one request met the p95 step every time, so an
  upper estimate.
- A point that serves no more requests/s than a smaller batch is left out: it costs latency and gains nothing. Of the
  rest at most ten are kept (`thinning`).
- Where a model was run in several parallel layouts on the same number of GPUs, the layout with the most points counts.

Series of models and tasks that the catalogue does not have are skipped.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from lowbeam.catalog.tasks import TASKS
from tools.catalog.models import model_rows
from tools.catalog.rows import Manifest, Row, decimal_text, json_rows, manifest, profile_name, source
from tools.catalog.thinning import thinned

CITATION = (
    "The ML.ENERGY Benchmark v3.0 (Chung et al., NeurIPS 2025 Datasets and Benchmarks, arXiv 2505.06371), "
    "github ml-energy/leaderboard @0cd52da"
)
DATE = "2026-02-16"
ENGINE = "vllm-0.11.1"
MAX_ACCELERATORS = 8
PRECISIONS = {"bfloat16": "bf16", "fp8": "fp8", "mxfp4": "mxfp4"}


@dataclass(frozen=True, slots=True)
class Workload:
    """What one ML.ENERGY task measured, in our words."""

    file: str
    task: str
    input_tokens: int
    """The source does not record input lengths: an estimate on the low side, so that longer prompts cost extra."""
    note: str


WORKLOADS = (
    Workload("lm-arena-chat", "text-generation", 100, "LM Arena chat requests, reasoning off"),
    Workload("gpqa", "text-generation", 200, "GPQA Diamond questions, reasoning on: long answers"),
    Workload("sourcegraph-fim", "code-completion", 500, "Sourcegraph fill-in-the-middle requests"),
    Workload("image-chat", "image-text-to-text", 100, "questions about images; their tokens are not counted"),
    Workload("video-chat", "video-text-to-text", 100, "questions about videos; their tokens are not counted"),
)

LEFT_OUT = {
    ("nvidia/NVIDIA-Nemotron-Nano-9B-v2", "B200", "lm-arena-chat"): "answers 2.1-2.4 times as long as on H100 for the "
    "same requests: not the same setting",
    ("nvidia/NVIDIA-Nemotron-Nano-12B-v2", "B200", "lm-arena-chat"): "answers 2.9-3.2 times as long as on H100 for the "
    "same requests: not the same setting",
}
"""Series that contradict themselves, and why they are not in the catalogue."""

Key = tuple[str, str, str, int, str]


def series() -> dict[Key, list[dict[str, Any]]]:
    """(file, Hugging Face id, GPU, GPUs, precision) -> rows by batch, of one parallel layout."""
    groups: dict[Key, list[dict[str, Any]]] = defaultdict(list)
    for workload in WORKLOADS:
        for row in json_rows(f"ml-energy-v3/{workload.file}.json"):
            if row["num_gpus"] > MAX_ACCELERATORS or (row["model_id"], row["gpu_model"], workload.file) in LEFT_OUT:
                continue
            precision = PRECISIONS[row["weight_precision"]]
            groups[workload.file, row["model_id"], row["gpu_model"], row["num_gpus"], precision].append(row)
    return {key: _one_layout(rows) for key, rows in sorted(groups.items())}


def _layout(row: dict[str, Any]) -> tuple[int, int, int]:
    return (row["tensor_parallel"], row["expert_parallel"], row["data_parallel"])


def _one_layout(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    counts: dict[tuple[int, int, int], int] = defaultdict(int)
    for row in rows:
        counts[_layout(row)] += 1
    best = max(sorted(counts), key=lambda layout: counts[layout])
    ordered = sorted((r for r in rows if _layout(r) == best), key=lambda r: r["avg_batch_size"])
    kept: list[dict[str, Any]] = []
    for row in ordered:
        rises = not kept or (
            requests_per_second(row) > requests_per_second(kept[-1])
            and round(row["avg_batch_size"]) > round(kept[-1]["avg_batch_size"])
        )
        if rises:
            kept.append(row)
    return kept


def requests_per_second(row: dict[str, Any]) -> float:
    """Saturated throughput of one replica."""
    return float(row["output_throughput_tokens_per_sec"] / row["avg_output_len"])


def latency_milliseconds(row: dict[str, Any]) -> tuple[float, float]:
    """(p50, p95) of the service time; see the module docstring."""
    little = 1000 * row["avg_batch_size"] / requests_per_second(row)
    p50 = max(little, row["median_itl_ms"] * row["avg_output_len"])
    return p50, p50 + (row["p95_itl_ms"] - row["median_itl_ms"]) * row["avg_output_len"]


def point(row: dict[str, Any]) -> Manifest:
    """One point of a curve."""
    p50, p95 = latency_milliseconds(row)
    return {
        "batch": round(row["avg_batch_size"]),
        "watts": decimal_text(row["avg_power_watts"]),
        "requestsPerSecond": decimal_text(requests_per_second(row)),
        "latencyP50Milliseconds": round(p50),
        "latencyP95Milliseconds": round(p95),
        "interTokenP50Microseconds": round(1000 * row["median_itl_ms"]),
        "interTokenP95Microseconds": round(1000 * row["p95_itl_ms"]),
    }


def published_profiles() -> list[Manifest]:
    """All curves of language models, by name."""
    cards = cards_by_path()
    workloads = {workload.file: workload for workload in WORKLOADS}
    profiles = []
    for (file, model_id, gpu, gpus, precision), rows in series().items():
        workload = workloads[file]
        row = cards.get((model_id, precision))
        if row is None or workload.task not in row["tasks"].split() or workload.task not in TASKS:
            continue
        modes = row["reasoning"].split()
        reasoning = "Off" if file != "gpqa" else ("Medium" if "Medium" in modes else "High")
        tensor, expert, data = _layout(rows[0])
        profiles.append(
            manifest(
                "EnergyProfile",
                profile_name(row, precision, gpu.lower(), gpus, task=workload.task, reasoning=reasoning),
                {
                    "model": row["name"],
                    "precision": precision,
                    "reasoning": reasoning,
                    "task": workload.task,
                    "acceleratorClass": gpu.lower(),
                    "accelerators": gpus,
                    "engine": ENGINE,
                    "inputTokens": workload.input_tokens,
                    "outputTokens": round(sum(r["avg_output_len"] for r in rows) / len(rows)),
                    "points": thinned([point(r) for r in rows]),
                    "basis": "Published",
                    "source": source(
                        CITATION,
                        DATE,
                        f"{workload.note}; input length estimated; "
                        f"tensor x expert x data parallel {tensor}x{expert}x{data}",
                    ),
                },
            )
        )
    return sorted(profiles, key=lambda item: item["metadata"]["name"])


def cards_by_path() -> dict[tuple[str, str], Row]:
    """Rows of the tables of models by what is loaded and the precision."""
    return {(row["model_path"], precision): row for row in model_rows() for precision in row["precision"].split()}
