"""EnergyProfiles of basis Published: the ML.ENERGY v3 measurements of image and video generators (xDiT).

A batch takes one time for all its requests, so p50 and p95 of the service time are the recorded batch latency: the
source has no spread. One profile per model and number of GPUs: of several parallel layouts the one that is cheapest at
its best batch. Frames, size and denoising steps are those that the source ran and stand in the note. A prompt is padded
to a fixed length, so its own length costs nothing: INPUT_TOKENS is the padding.

The catalogue counts thousandths of a request per second. Points slower than SLOWEST would be off by more than 2.5 %, so
they are left out; of the films most are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lowbeam.catalog.tasks import TASKS
from tools.catalog.published import CITATION, DATE, PRECISIONS, cards_by_path
from tools.catalog.rows import Manifest, decimal_text, json_rows, manifest, profile_name, source
from tools.catalog.thinning import thinned

ENGINE = "xdit-0.4.5"
INPUT_TOKENS = 512
SLOWEST = 0.02
"""Requests per second."""


@dataclass(frozen=True, slots=True)
class Medium:
    """One ML.ENERGY task of a kind of output."""

    file: str
    task: str
    rate: str
    """Column of outputs per second."""


MEDIA = (
    Medium("text-to-image", "text-to-image", "throughput_images_per_sec"),
    Medium("text-to-video", "text-to-video", "throughput_videos_per_sec"),
)


def diffusion_profiles() -> Iterator[Manifest]:
    """All of them, in no particular order."""
    cards = cards_by_path()
    for medium in MEDIA:
        groups: dict[tuple[str, str, str, int], dict[tuple[int, int], list[dict[str, Any]]]] = defaultdict(dict)
        for row in json_rows(f"ml-energy-v3/{medium.file}.json"):
            precision = PRECISIONS[row["weight_precision"]]
            layouts = groups[row["model_id"], precision, row["gpu_model"], row["num_gpus"]]
            layouts.setdefault((row["ulysses_degree"], row["ring_degree"]), []).append(row)
        for (model_id, precision, gpu, gpus), layouts in sorted(groups.items()):
            card = cards.get((model_id, precision))
            if card is None or medium.task not in card["tasks"].split() or medium.task not in TASKS:
                continue
            curves = [curve for _, rows in sorted(layouts.items()) if (curve := _rising(medium, rows))]
            if not curves:
                continue
            best = min(curves, key=lambda rows: min(r["avg_power_watts"] / r[medium.rate] for r in rows))
            first = best[0]
            yield manifest(
                "EnergyProfile",
                profile_name(card, precision, gpu.lower(), gpus, task=medium.task),
                {
                    "model": card["name"],
                    "precision": precision,
                    "reasoning": "Off",
                    "task": medium.task,
                    "acceleratorClass": gpu.lower(),
                    "accelerators": gpus,
                    "engine": ENGINE,
                    "inputTokens": INPUT_TOKENS,
                    "outputTokens": 1,
                    "points": thinned([_point(medium, row) for row in best]),
                    "basis": "Published",
                    "source": source(CITATION, DATE, _settings(first)),
                },
            )


def _rising(medium: Medium, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    kept: list[dict[str, Any]] = []
    for row in sorted(rows, key=lambda r: r["batch_size"]):
        rises = not kept or round(row[medium.rate], 3) > round(kept[-1][medium.rate], 3)
        if row[medium.rate] >= SLOWEST and rises:
            kept.append(row)
    return kept


def _point(medium: Medium, row: dict[str, Any]) -> Manifest:
    milliseconds = round(row["batch_latency_s"] * 1000)
    return {
        "batch": row["batch_size"],
        "watts": decimal_text(row["avg_power_watts"]),
        "requestsPerSecond": decimal_text(row[medium.rate]),
        "latencyP50Milliseconds": milliseconds,
        "latencyP95Milliseconds": milliseconds,
    }


def _settings(row: dict[str, Any]) -> str:
    if "num_frames" in row:
        size = f"{row['num_frames']} frames of {row['video_width']} x {row['video_height']}"
    else:
        size = f"{row['image_width']} x {row['image_height']}"
    layout = f"ulysses x ring {row['ulysses_degree']}x{row['ring_degree']}"
    return f"{size}, {row['inference_steps']} denoising steps; {layout}; no spread of the latency in the source"
