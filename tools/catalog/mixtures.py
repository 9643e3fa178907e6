"""Modelled profiles of mixtures of experts: a published H100 curve, carried to other classes by the physics' ratio.

The physics, fitted on dense models, says a quarter too little for mixtures on every board: their kernels reach less of
the peaks. That cancels in a ratio: watts and seconds of a published point on H100, times what the physics says for the
other class over what it says for the H100, at the same batch on as many boards. How far that is off is checked where
both classes were published, on B200, which the ratio does not know.

A batch reads the experts that its tokens choose: with k of E experts per token a batch of b touches 1 - (1 - k/E)^b of
them. What a model reads for every token follows from its total and active parameters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tools.catalog.accelerators import accelerator_classes
from tools.catalog.decoders import ACCELERATORS, LONGEST_REQUEST, MEMORY_SHARE, SMALLEST_USEFUL_BATCH
from tools.catalog.fits import BYTES_BF16, FITTED_CLASS, Fitted, boards
from tools.catalog.models import kv_bytes_per_token, model_rows, weights_mebibytes
from tools.catalog.physics import Board, Errors, Step
from tools.catalog.profiles import modelled
from tools.catalog.rows import Manifest, Row, csv_rows, decimal_text

CLASSES = ("a100", "a100-40", "h100-pcie", "h200")
"""Ampere and Hopper with enough memory; boards alone where decoders are modelled alone."""
CHECKED_CLASS = "b200"
TASKS = ("text-generation", "code-completion")
SAME_BATCH = 0.05
"""Two measured batches count as the same up to this difference."""
NOTE = "the H100's published curve times the ratio that the physical model says for the two classes"


def mixture_profiles(physics: Fitted, published: Sequence[Manifest]) -> Iterator[Manifest]:
    """All of them, in no particular order."""
    memory = {item["metadata"]["name"]: item["spec"]["memoryMebibytes"] for item in accelerator_classes()}
    check = round(transfer_errors(physics, published).p90_percent)
    for row, spec in _published(published, FITTED_CLASS):
        inputs, outputs, count = spec["inputTokens"], spec["outputTokens"], spec["accelerators"]
        per_request = LONGEST_REQUEST * (inputs + outputs) * kv_bytes_per_token(row)
        for name in CLASSES:
            free_mib = MEMORY_SHARE * memory[name] * count - weights_mebibytes(row, "bf16")
            limit = free_mib * 2**20 // per_request
            points = [_carried(physics, row, spec, point, boards()[name]) for point in _up_to(limit, spec["points"])]
            if count in ACCELERATORS[name] and points and points[-1]["batch"] >= SMALLEST_USEFUL_BATCH:
                yield modelled(
                    row,
                    "bf16",
                    name,
                    points,
                    task=spec["task"],
                    reasoning=spec["reasoning"],
                    accelerators=count,
                    engine=spec["engine"],
                    lengths=(inputs, outputs),
                    uncertainty=max(check, physics.uncertainty_percent(name, int(row["total_m"]))),
                    note=NOTE,
                )


def transfer_errors(physics: Fitted, published: Sequence[Manifest]) -> Errors:
    """Joules on B200 carried from H100 by the ratio, against those published on B200, at equal batches."""
    there = {_subject(spec): spec for _, spec in _published(published, CHECKED_CLASS)}
    errors = []
    for row, spec in _published(published, FITTED_CLASS):
        other = there.get(_subject(spec))
        for point in spec["points"]:
            near = [p for p in other["points"] if abs(p["batch"] / point["batch"] - 1) < SAME_BATCH] if other else []
            if near:
                carried = _carried(physics, row, spec, point, boards()[CHECKED_CLASS])
                errors.append(_joules(carried) / _joules(near[0]) - 1.0)
    return Errors(np.array(errors))


def _published(published: Sequence[Manifest], name: str) -> Iterator[tuple[Row, dict[str, Any]]]:
    shapes = {row["name"]: row for row in csv_rows("mixtures/mixtures.csv")}
    rows = {row["name"]: {**row, **shapes[row["name"]]} for row in model_rows() if row["name"] in shapes}
    for profile in published:
        spec = profile["spec"]
        known = spec["model"] in rows and spec["precision"] == "bf16" and spec["task"] in TASKS
        known = known and spec["basis"] == "Published" and "series" not in spec
        if known and spec["acceleratorClass"] == name:
            yield rows[spec["model"]], spec


def _subject(spec: dict[str, Any]) -> tuple[Any, ...]:
    return spec["model"], spec["reasoning"], spec["task"], spec["accelerators"]


def _up_to(limit: float, points: list[Manifest]) -> list[Manifest]:
    return [point for point in points if point["batch"] <= limit]


def _joules(point: Manifest) -> float:
    return float(point["watts"]) / float(point["requestsPerSecond"])


def _carried(physics: Fitted, row: Row, spec: dict[str, Any], point: Manifest, board: Board) -> Manifest:
    """A published H100 point as it would be on another board."""
    model = physics.models[FITTED_CLASS]
    here, there = (_step(row, spec, it, point["batch"]) for it in (boards()[FITTED_CLASS], board))
    slower = model.seconds(there) / model.seconds(here)
    watts = float(point["watts"]) * model.watts(there) / model.watts(here)
    times = {key: max(1, math.ceil(value * slower)) for key, value in point.items() if key.endswith("seconds")}
    return {
        "batch": point["batch"],
        "watts": decimal_text(min(watts, spec["accelerators"] * board.limit_watts), 1),
        "requestsPerSecond": decimal_text(float(point["requestsPerSecond"]) / slower),
        **times,
    }


def _step(row: Row, spec: dict[str, Any], board: Board, batch: int) -> Step:
    total, active = float(row["total_m"]) * 1e6, float(row["active_m"]) * 1e6
    share = int(row["active_experts"]) / int(row["experts"])
    experts = (total - active) / (1.0 - share)
    read = total - experts + experts * (1.0 - (1.0 - share) ** batch)
    inputs, outputs = spec["inputTokens"], spec["outputTokens"]
    return Step(
        board=board,
        boards=spec["accelerators"],
        bytes_read=read * BYTES_BF16 + batch * (inputs + outputs / 2) * kv_bytes_per_token(row),
        flops=batch * 2 * active * (1 + inputs / outputs),
        layers=int(row["layers"]),
        requests=batch,
    )
