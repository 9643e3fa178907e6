"""A check of the physical model across GPU generations: A100 against H100 in ML.ENERGY v2.

v2 (vLLM 0.5.4, power averaged over whole runs, host-bound: 200 to 340 W on boards of 400 and 700 W) must not be mixed
with v3 in a ranking. But both boards ran the same software there, so the ratio of their joules per request says how the
model carries over from one generation to another; its error is the uncertainty of classes that v3 did not measure.
"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import numpy as np

from tools.catalog.physics import Board, Errors, PhysicalModel, Step
from tools.catalog.rows import SOURCES

A100_40GB = Board(1555e9, 312e12, 80.0, 400.0)
"""The board of v2; idle with a context as read on the 80 GB board."""
A100_NAME = "NVIDIA A100-SXM4-40GB"
H100_NAME = "NVIDIA H100 80GB HBM3"
INPUT_TOKENS = 100
SMALLEST_BATCH = 64
"""The smallest that both boards ran for all three models."""

SHAPES = {
    # model: (parameters, layers, keys and values in bytes per token)
    "meta-llama/Meta-Llama-3.1-8B-Instruct": (8.03e9, 32, 2 * 32 * 8 * 128 * 2),
    "mistralai/Mistral-7B-Instruct-v0.3": (7.248e9, 32, 2 * 32 * 8 * 128 * 2),
    "mistralai/Mistral-Nemo-Instruct-2407": (12.248e9, 40, 2 * 40 * 8 * 128 * 2),
}


def generation_errors(model: PhysicalModel, h100: Board) -> Errors:
    """(modelled ratio A100 / H100) / (measured ratio) - 1 of joules per request, at equal batch limits."""
    rows: list[dict[str, Any]] = json.loads((SOURCES / "ml-energy-v2/chat-single-gpu.json").read_text(encoding="utf-8"))
    runs: dict[tuple[str, int], dict[str, dict[str, Any]]] = defaultdict(dict)
    for row in rows:
        runs[row["Model"], row["Max BS (reqs)"]][row["GPU"]] = row
    errors = []
    for (name, batch), by_board in sorted(runs.items()):
        if batch < SMALLEST_BATCH or len(by_board) < len((A100_NAME, H100_NAME)):
            continue
        a100_row, h100_row = by_board[A100_NAME], by_board[H100_NAME]
        measured = a100_row["Energy/req (J)"] / h100_row["Energy/req (J)"]
        modelled = _joules(model, name, A100_40GB, a100_row) / _joules(model, name, h100, h100_row)
        errors.append(modelled / measured - 1.0)
    return Errors(np.array(errors))


def _joules(model: PhysicalModel, name: str, board: Board, row: dict[str, Any]) -> float:
    parameters, layers, kv_bytes = SHAPES[name]
    batch, outputs = row["Avg BS (reqs)"], row["Avg Output Tokens"]
    bytes_read = parameters * 2 + batch * (INPUT_TOKENS + outputs / 2) * kv_bytes
    step = Step(board, 1, bytes_read, batch * 2 * parameters * (1 + INPUT_TOKENS / outputs), layers)
    return float(model.seconds(step) * model.watts(step) * outputs / batch)
