"""Modelled profiles of encoders: text models that read and write no text, on accelerators and on CPUs.

No published measurement of encoders at batch was found, so every constant that no fit supports stands here with its
reason, and their uncertainty is twice that of the classes that the fit has not seen. Families whose work is not that of
a transformer encoder of known shape (convolutions, detection, speech, translation, captioning) get no modelled profile:
there is nothing to check such a figure against.
"""

from __future__ import annotations

from collections.abc import Iterator

from tools.catalog.accelerators import CPU_CORES
from tools.catalog.fits import Fitted, boards, encoder_flops, encoder_step
from tools.catalog.models import model_rows
from tools.catalog.profiles import modelled
from tools.catalog.rows import Manifest, Row, csv_rows, decimal_text
from tools.catalog.thinning import thinned

ENGINE = "native"
TOKENS = 128
CLASSES = ("a100", "a100-40", "a10g", "a40", "b200", "h100", "h100-pcie", "h200", "l4", "l40s")
"""T4 and V100 have no BF16, and no peak of FP32 was read."""
TASKS_OF_ENCODERS = (
    "text-classification",
    "feature-extraction",
    "text-ranking",
    "token-classification",
    "question-answering",
    "sentence-similarity",
)
"""One pass over the text, and no word of an answer."""

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
MOST_POINTS = 6
LAUNCH_SECONDS_PER_LAYER = 0.4e-3
"""PyTorch without graph capture: a dozen kernels per layer from Python. Assumed; a BERT-base then takes 5 to 7 ms at
batch 1, as is commonly seen on such boards."""
HOST_SECONDS_PER_REQUEST = 0.35e-3
"""One Python process parses, tokenises and answers a request while the board works on another batch. Assumed; it caps
a replica at 2,857 requests/s, so that a small model cannot fill a large board."""
CPU_SECONDS_PER_LAYER = 0.2e-3
"""Launching a layer on a CPU, without the way to a device. Assumed."""
CPU_BATCHES = (1, 2, 4, 8)
"""A CPU gains little from larger batches, and their latency is seconds."""
UNCERTAINTY_FACTOR = 2
"""No published measurement of encoders at batch was found to fit or to check watts and small batches."""
CPU_UNCERTAINTY_PERCENT = 100
"""Judged, not computed: speed from another processor, watts as a share of a server, no meter."""
USEFUL_GAIN = 1.01
"""A point must serve 1 % more than the one before it."""
P95_FACTOR = 1.3
"""Lengths within a batch vary; the batch waits for its longest request. Assumed."""


def encoder_profiles(physics: Fitted) -> Iterator[Manifest]:
    """All of them, in no particular order."""
    uncertainty = UNCERTAINTY_FACTOR * physics.uncertainty_percent("", 10**6)
    for row in model_rows():
        if row["generative"] == "yes" or not row["layers"] or not row["hidden"]:
            continue
        precisions = row["precision"].split()
        for task in (task for task in row["tasks"].split() if task in TASKS_OF_ENCODERS):
            if "bf16" in precisions:
                for name in CLASSES:
                    yield _on_accelerator(physics, row, task, name, uncertainty)
            if "fp32" in precisions:
                yield _on_cpu(row, task)


def _on_accelerator(physics: Fitted, row: Row, task: str, name: str, uncertainty: int) -> Manifest:
    curve: list[tuple[int, float, float]] = []
    for batch in BATCHES:
        step = encoder_step(row, boards()[name], batch=batch, tokens=TOKENS)
        host = max(LAUNCH_SECONDS_PER_LAYER * step.layers, HOST_SECONDS_PER_REQUEST * batch)
        curve.append((batch, *physics.model_for(name).encoder_step(step, host)))
    note = (
        "FLOPs and activations with the efficiency fitted on decoders; launch time per layer and host time per request"
    )
    return _profile(row, "bf16", task, name, curve, uncertainty=uncertainty, note=note)


def cpu_flops_per_second() -> float:
    """Of one replica: the slowest published transformer per core, times our cores."""
    rows = csv_rows("accelerators/cpu-throughput.csv")
    per_core = [float(r["gflop_per_item"]) * 1e9 * float(r["items_per_second"]) / int(r["cores"]) for r in rows]
    return min(per_core) * CPU_CORES


def _on_cpu(row: Row, task: str) -> Manifest:
    board = boards()["cpu"]
    curve = []
    for batch in CPU_BATCHES:
        seconds = CPU_SECONDS_PER_LAYER * int(row["layers"]) + batch * HOST_SECONDS_PER_REQUEST
        seconds += batch * encoder_flops(row, TOKENS) / cpu_flops_per_second()
        curve.append((batch, seconds, board.limit_watts))
    note = (
        "FLOPs at the rate published for a vision transformer on another CPU; watts: the slot's share of a busy server"
    )
    return _profile(row, "fp32", task, "cpu", curve, uncertainty=CPU_UNCERTAINTY_PERCENT, note=note)


def _profile(
    row: Row,
    precision: str,
    task: str,
    name: str,
    curve: list[tuple[int, float, float]],
    *,
    uncertainty: int,
    note: str,
) -> Manifest:
    points = []
    best = 0.0
    for batch, seconds, watts in curve:
        if batch / seconds < best * USEFUL_GAIN:
            break  # bound by the host: a larger batch only waits longer
        best = batch / seconds
        points.append(
            {
                "batch": batch,
                "watts": decimal_text(watts, 1),
                "requestsPerSecond": decimal_text(batch / seconds),
                "latencyP50Milliseconds": max(1, round(seconds * 1e3)),
                "latencyP95Milliseconds": max(1, round(seconds * 1e3 * P95_FACTOR)),
            }
        )
    return modelled(
        row,
        precision,
        name,
        thinned(points, MOST_POINTS),
        task=task,
        accelerators=1,
        engine=ENGINE,
        lengths=(TOKENS, 1),
        uncertainty=uncertainty,
        note=note,
    )
