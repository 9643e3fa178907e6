"""The physical model fitted to the published measurements, its errors, and the uncertainty that follows from them.

Decides which constants a class gets (its own where it was measured, else the H100's) and how uncertain a modelled
figure is. Never uses a figure to check itself: every error is of a model or of a class that the fit has not seen.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

from tools.catalog.accelerators import accelerator_classes
from tools.catalog.crosschecks import generation_step, single_request_watts
from tools.catalog.models import kv_bytes_per_token, model_rows
from tools.catalog.physics import (
    FITTED_BATCH_LIMIT,
    Board,
    Errors,
    Observation,
    PhysicalModel,
    Step,
    fit,
    leave_one_model_out,
    unseen_hardware,
)
from tools.catalog.published import WORKLOADS, series
from tools.catalog.rows import Row, csv_rows

FITTED_CLASS = "h100"
"""Its constants serve every class that was not measured."""
MEASURED_CLASSES = ("h100", "b200")
CHECKED_GENERATION = ("a100", "a100-40")
BYTES_BF16 = 2

ENCODER_VALUES_PER_TOKEN_AND_LAYER = 16
"""Activations that an encoder writes and reads, in multiples of the hidden size: chosen on the vision transformers of
sources/accelerators/gpu-throughput.csv, whose errors the documentation prints."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """The fits and their errors."""

    models: dict[str, PhysicalModel]
    """By measured class."""
    left_out: dict[str, Errors]
    """By measured class: each model predicted from the others of the class."""
    points: dict[str, int]
    other_class: Errors
    """B200 predicted from H100."""
    generation: Errors
    """A100 predicted from H100, within ML.ENERGY v2."""
    single_request_watts: Errors
    """Watts at batch 1 on A40, V100 and A100, ML.ENERGY v1."""
    encoder_throughput: Errors
    """Vision transformers on an RTX 4090 at batch 1,024: seconds."""
    smallest_fitted_millions: int
    p95_factors: dict[str, float]
    """By measured class: median ratio of p95 to median inter-token time in the fitted data."""

    def model_for(self, accelerator_class: str) -> PhysicalModel:
        """The class's own constants, or those of the H100."""
        return self.models.get(accelerator_class, self.models[FITTED_CLASS])

    def p95_factor_for(self, accelerator_class: str) -> float:
        """p95 over median inter-token time: the class's own, or that of the H100."""
        return self.p95_factors.get(accelerator_class, self.p95_factors[FITTED_CLASS])

    def uncertainty_percent(self, accelerator_class: str, millions: int) -> int:
        """Nine of ten checked points are closer.

        A measured class: the error on its left-out models. A100: that and the checked step from H100 to A100, as errors
        that do not know each other. Other classes, and models smaller than any fitted one: the worse of the checks on
        classes that the fit has not seen.
        """
        unseen = max(self.other_class.p90_percent, self.single_request_watts.p90_percent)
        if millions < self.smallest_fitted_millions:
            return round(unseen)
        if accelerator_class in self.left_out:
            return round(self.left_out[accelerator_class].p90_percent)
        if accelerator_class in CHECKED_GENERATION:
            return round(math.hypot(self.left_out[FITTED_CLASS].p90_percent, self.generation.p90_percent))
        return round(unseen)


@cache
def boards() -> dict[str, Board]:
    """Hardware facts by class; no peak where neither BF16 nor FP16 is known (cpu)."""
    found = {}
    for item in accelerator_classes():
        spec = item["spec"]
        peak = spec.get("denseTeraflopsBf16", spec.get("denseTeraflopsFp16", 0))
        found[item["metadata"]["name"]] = Board(
            spec["memoryBandwidthGigabytesPerSecond"] * 1e9,
            peak * 1e12,
            float(spec["idleWatts"]),
            float(spec["maxWatts"]),
        )
    return found


@cache
def fitted() -> Fitted:
    """Fits on H100 and on B200, and their errors."""
    known = {name: list(_observations(name)) for name in MEASURED_CLASSES}
    steps = {name: [observation for observation, _ in found] for name, found in known.items()}
    models = {name: fit(observations) for name, observations in steps.items()}
    on_h100 = models[FITTED_CLASS]
    names = {observation.group for observations in steps.values() for observation in observations}
    return Fitted(
        models=models,
        left_out={name: leave_one_model_out(observations) for name, observations in steps.items()},
        points={name: len(observations) for name, observations in steps.items()},
        other_class=unseen_hardware(on_h100, steps["b200"]),
        generation=generation_step(boards()),
        single_request_watts=single_request_watts(on_h100, boards()),
        encoder_throughput=_encoder_throughput(on_h100),
        smallest_fitted_millions=min(int(row["total_m"]) for row in decoders().values() if row["name"] in names),
        p95_factors={name: statistics.median(ratio for _, ratio in found) for name, found in known.items()},
    )


@cache
def decoders() -> dict[tuple[str, str], Row]:
    """Dense BF16 language models whose shape the table has, by path and precision."""
    return {
        (row["model_path"], row["precision"]): row
        for row in model_rows()
        if row["generative"] == "yes" and row["kv_heads"] and row["head_dim"] and row["precision"] == "bf16"
        if row["total_m"] == row["active_m"]
    }


def _observations(accelerator_class: str) -> Iterator[tuple[Observation, float]]:
    """Published points of dense BF16 chat models on one class, with their ratio of p95 to median inter-token time."""
    board = boards()[accelerator_class]
    chat = WORKLOADS[0]
    for (file, model_id, gpu, gpus, precision), rows in series().items():
        row = decoders().get((model_id, precision))
        if row is None or file != chat.file or gpu.lower() != accelerator_class:
            continue
        for point in rows:
            batch = point["avg_batch_size"]
            if batch <= FITTED_BATCH_LIMIT:
                step = decoder_step(
                    row, board, count=gpus, batch=batch, inputs=chat.input_tokens, outputs=point["avg_output_len"]
                )
                seconds = batch / point["output_throughput_tokens_per_sec"]
                ratio = point["p95_itl_ms"] / point["median_itl_ms"]
                yield Observation(row["name"], step, seconds, point["avg_power_watts"]), ratio


def decoder_step(row: Row, board: Board, *, count: int, batch: float, inputs: float, outputs: float) -> Step:
    """One token for each request of the batch; the prompts' share spread over the answers."""
    parameters = float(row["active_m"]) * 1e6
    context = inputs + outputs / 2
    return Step(
        board=board,
        boards=count,
        bytes_read=parameters * BYTES_BF16 + batch * context * kv_bytes_per_token(row),
        flops=batch * 2 * parameters * (1 + inputs / outputs),
        layers=int(row["layers"]),
        requests=batch,
    )


def encoder_step(row: Row, board: Board, *, batch: int, tokens: int) -> Step:
    """One batch: weights once, activations of every token, 12 x hidden^2 parameters per layer, attention."""
    layers, hidden = int(row["layers"]), int(row["hidden"])
    values = ENCODER_VALUES_PER_TOKEN_AND_LAYER * tokens * layers * hidden
    read = BYTES_BF16 * (float(row["total_m"]) * 1e6 + batch * values)
    return Step(board, 1, read, batch * encoder_flops(row, tokens), layers, batch)


def encoder_flops(row: Row, tokens: int) -> float:
    """Per request: two per parameter of a layer and token, and attention between the tokens."""
    layers, hidden = int(row["layers"]), int(row["hidden"])
    return tokens * (24.0 * layers * hidden**2 + 4.0 * layers * tokens * hidden)


def _encoder_throughput(model: PhysicalModel) -> Errors:
    errors = []
    for row in csv_rows("accelerators/gpu-throughput.csv"):
        board = Board(float(row["bandwidth_gb_s"]) * 1e9, float(row["dense_tflops"]) * 1e12, 0.0, 0.0)
        batch = int(row["batch"])
        shape = {"layers": row["layers"], "hidden": row["hidden"], "total_m": row["parameters_m"]}
        step = encoder_step(shape, board, batch=batch, tokens=int(row["tokens"]))
        errors.append(model.board_seconds(step) * float(row["items_per_second"]) / batch - 1.0)
    return Errors(np.array(errors))
