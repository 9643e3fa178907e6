"""The layers of `linear`, in a process of its own: `time`, `attention`, or `memory TYPE WAY`; prints JSON."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import torch

from lowbeam_worker.engines.attention import next_token
from lowbeam_worker.memory import resident_bytes
from lowbeam_worker.prepacked import PrepackedLinear

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SHAPES = ((256, 256), (384, 384), (384, 1536), (768, 768), (2048, 2048))
COUNTS = (1, 8, 32, 448, 500)
HEADS = ((8, 4, 32), (16, 8, 64), (32, 8, 64), (16, 8, 128))
"""Heads, heads of keys, and the size of one: the bench's own model, and those of common small ones."""
KEYS = (100, 400, 1600)
_MINILM = ((384, 384), (384, 1536), (1536, 384))
_ROWS = 500
_TURNS = 15
_TURN_PRODUCTS = 4e8


def main() -> None:
    """Run what the command line names."""
    torch.set_num_threads(1)
    with torch.inference_mode():
        ways: dict[str, Callable[..., dict[str, float]]] = {"time": _times, "attention": _attention, "memory": _growth}
        json.dump(ways[sys.argv[1]](*sys.argv[2:]), sys.stdout)


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
                found[f"{name} {width} {height} {count}"] = _share(partial(packed, rows), partial(plain, rows), calls)
    return found


def _attention() -> dict[str, float]:
    """ "TYPE HEADS KEYHEADS SIZE KEYS" -> CPU time as a share of torch's. Keys lie as the cache gives them."""
    found = {}
    for name, dtype in TYPES.items():
        for heads, shared, size in HEADS:
            for keys in KEYS:
                query = torch.randn(1, 1, heads, size).to(dtype).transpose(1, 2)
                key, value = (torch.randn(1, keys, shared, size).to(dtype).transpose(1, 2) for _ in range(2))
                plain = partial(torch.nn.functional.scaled_dot_product_attention, query, key, value, enable_gqa=True)
                calls = max(2, round(_TURN_PRODUCTS / (100 * keys * heads * size)))
                found[f"{name} {heads} {shared} {size} {keys}"] = _share(
                    partial(next_token, query, key, value, None), plain, calls
                )
    return found


def _share(way: Callable[[], object], reference: Callable[[], object], calls: int) -> float:
    seconds: dict[Callable[[], object], list[float]] = {way: [], reference: []}
    for one in seconds:
        one()
    for _ in range(_TURNS):
        for one, turns in seconds.items():
            began = time.thread_time()
            for _ in range(calls):
                one()
            turns.append(time.thread_time() - began)
    return statistics.median(seconds[way]) / statistics.median(seconds[reference])


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
