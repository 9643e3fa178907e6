"""The layers of `linear`, in a process of its own: `time`, or `memory TYPE WAY`; prints one JSON object."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable

import torch

from lowbeam_worker.memory import resident_bytes
from lowbeam_worker.prepacked import PrepackedLinear

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SHAPES = ((256, 256), (384, 384), (384, 1536), (768, 768), (2048, 2048))
COUNTS = (1, 8, 32, 448, 500)
_MINILM = ((384, 384), (384, 1536), (1536, 384))
_ROWS = 500
_TURNS = 15
_TURN_PRODUCTS = 4e8


def main() -> None:
    """Run what the command line names."""
    torch.set_num_threads(1)
    with torch.inference_mode():
        json.dump(_times() if sys.argv[1] == "time" else _growth(*sys.argv[2:]), sys.stdout)


def _times() -> dict[str, float]:
    """ "TYPE WIDTH HEIGHT ROWS" -> CPU time as a share of torch's."""
    found = {}
    for name, dtype in TYPES.items():
        for width, height in SHAPES:
            plain = torch.nn.Linear(width, height, dtype=dtype)
            packed = PrepackedLinear(plain)
            if dtype is torch.float32:
                plain.weight.data = plain.weight.t().contiguous().t()
            for count in COUNTS:
                rows = torch.randn(count, width).to(dtype)
                calls = max(2, round(_TURN_PRODUCTS / (count * width * height)))
                found[f"{name} {width} {height} {count}"] = _share(packed, plain, rows, calls)
    return found


def _share(layer: torch.nn.Module, reference: torch.nn.Module, rows: torch.Tensor, calls: int) -> float:
    seconds: dict[torch.nn.Module, list[float]] = {layer: [], reference: []}
    for way in seconds:
        way(rows)
    for _ in range(_TURNS):
        for way, turns in seconds.items():
            began = time.thread_time()
            for _ in range(calls):
                way(rows)
            turns.append(time.thread_time() - began)
    return statistics.median(seconds[layer]) / statistics.median(seconds[reference])


def _growth(name: str, way: str) -> dict[str, float]:
    """MiB that are resident after every number of rows was met twice, and were not before."""
    make: Callable[[torch.nn.Linear], torch.nn.Module] = PrepackedLinear if way == "prepacked" else lambda it: it
    layers = [make(torch.nn.Linear(*shape, dtype=TYPES[name])) for shape in _MINILM]
    inputs = [torch.randn(_ROWS, width).to(TYPES[name]) for width, _ in _MINILM]
    for layer, rows in zip(layers, inputs, strict=True):
        layer(rows)
    before = resident_bytes()
    for count in (*range(1, _ROWS), *range(1, _ROWS)):
        for layer, rows in zip(layers, inputs, strict=True):
            layer(rows[:count])
    return {"MiB": (resident_bytes() - before) / (1 << 20)}


if __name__ == "__main__":
    main()
