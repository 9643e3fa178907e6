"""How the physical model carries over to boards that it was not fitted on: ML.ENERGY v2 and v1 as checks.

v2 (vLLM 0.5.4, power averaged over whole runs, bound by its host: 0.4 ms per request and step) and v1 (no batching)
must not be mixed with v3 in a ranking, and no constant of a profile comes from them. But within v2 an H100 and an A100
ran the same software: constants fitted to its H100 runs predict its A100 runs. And v1 gives watts on three more boards.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from tools.catalog.physics import Board, Errors, Observation, PhysicalModel, Step, fit, unseen_hardware
from tools.catalog.rows import SOURCES, csv_rows

A100_NAME = "NVIDIA A100-SXM4-40GB"
H100_NAME = "NVIDIA H100 80GB HBM3"
INPUT_TOKENS = 100
LARGEST_BATCH = 330
"""v2's A100 runs end at 320 but for two models."""

SHAPES = {
    # model: (parameters, layers, keys and values in bytes per token)
    "meta-llama/Meta-Llama-3.1-8B-Instruct": (8.03e9, 32, 2 * 32 * 8 * 128 * 2),
    "meta-llama/Meta-Llama-3.1-70B-Instruct": (70.554e9, 80, 2 * 80 * 8 * 128 * 2),
    "mistralai/Mistral-7B-Instruct-v0.3": (7.248e9, 32, 2 * 32 * 8 * 128 * 2),
    "mistralai/Mistral-Nemo-Instruct-2407": (12.248e9, 40, 2 * 40 * 8 * 128 * 2),
    "google/gemma-2-2b-it": (2.614e9, 26, 2 * 26 * 4 * 256 * 2),
    "google/gemma-2-9b-it": (9.242e9, 42, 2 * 42 * 8 * 256 * 2),
    "google/gemma-2-27b-it": (27.227e9, 46, 2 * 46 * 16 * 128 * 2),
    "microsoft/Phi-3-mini-4k-instruct": (3.821e9, 32, 2 * 32 * 32 * 96 * 2),
    "microsoft/Phi-3-small-8k-instruct": (7.392e9, 32, 2 * 32 * 8 * 128 * 2),
    "microsoft/Phi-3-medium-4k-instruct": (13.96e9, 40, 2 * 40 * 10 * 128 * 2),
}

V1_BOARDS = {"A40": "a40", "V100": "v100", "A100": "a100-40"}
V1_PARAMETERS = {"7b": 6.74e9, "13b": 13.02e9}
V1_FAMILIES = ("llama", "vicuna", "alpaca", "koala", "baize")
"""Fine-tunes of LLaMA-1: one shape per size."""
V1_SHAPES = {"7b": (32, 4096), "13b": (40, 5120)}
"""Layers and hidden size."""


def generation_step(boards: dict[str, Board]) -> Errors:
    """Joules on A100 (40 GB) from constants fitted to the H100 runs of v2."""
    return unseen_hardware(fit(_v2(boards["h100"], H100_NAME)), _v2(boards["a100-40"], A100_NAME))


def _v2(board: Board, gpu: str) -> list[Observation]:
    text = (SOURCES / "ml-energy-v2/llm_text_generation-chat.json").read_text(encoding="utf-8")
    rows: list[dict[str, Any]] = json.loads(text)
    found = []
    for row in rows:
        if row["Model"] not in SHAPES or row["GPU"] != gpu or row["PP"] != 1 or row["Avg BS (reqs)"] > LARGEST_BATCH:
            continue
        parameters, layers, kv_bytes = SHAPES[row["Model"]]
        batch, outputs = row["Avg BS (reqs)"], row["Avg Output Tokens"]
        step = Step(
            board=board,
            boards=row["TP"],
            bytes_read=parameters * 2 + batch * (INPUT_TOKENS + outputs / 2) * kv_bytes,
            flops=batch * 2 * parameters * (1 + INPUT_TOKENS / outputs),
            layers=layers,
            requests=batch,
        )
        rate = row["Token tput (tok/s)"]
        found.append(Observation(row["Model"], step, batch / rate, row["Energy/req (J)"] * rate / outputs))
    return found


def single_request_watts(model: PhysicalModel, boards: dict[str, Board]) -> Errors:
    """Watts at batch 1 on A40, V100 and A100 (v1), given the measured time of a token."""
    errors = []
    for gpu, name in V1_BOARDS.items():
        for row in csv_rows(f"ml-energy-v1/{gpu}_chat_benchmark.csv"):
            owner_and_name = row["model"].lower()
            size = next((size for size in V1_PARAMETERS if owner_and_name.endswith(size)), None)
            if size is None or not any(family in owner_and_name for family in V1_FAMILIES):
                continue
            parameters, (layers, hidden) = V1_PARAMETERS[size], V1_SHAPES[size]
            outputs = float(row["response_length"])
            read = parameters * 2 + (INPUT_TOKENS + outputs / 2) * 2 * layers * hidden * 2
            step = Step(boards[name], 1, read, 2 * parameters * (1 + INPUT_TOKENS / outputs), layers, 1.0)
            measured = float(row["energy"]) / float(row["latency"])
            errors.append(model.watts(step, float(row["latency"]) / outputs) / measured - 1.0)
    return Errors(np.array(errors))
