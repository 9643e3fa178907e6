"""Layers on a CPU as the worker computes them, against torch's own: CPU per call, and memory that calls leave.

Evidence of docs/design/linear-layers-on-a-cpu.md, and of the attention of a next token (`engines/attention.py`).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version

from .figures import Section, Table, number
from .linear_layers import COUNTS, HEADS, KEYS, SHAPES, TYPES


def measure(say: Callable[[str], None]) -> Section:
    """Each way in a process of its own where memory is what is asked for."""
    say("time")
    times = _child("time")
    say("attention")
    attention = _child("attention")
    growth: dict[str, dict[str, float]] = {}
    for name in TYPES:
        for way in ("torch", "prepacked"):
            say(f"memory, {name}, {way}")
            growth.setdefault(name, {})[way] = _child("memory", name, way)["MiB"]
    rows = [
        [
            f"{name}, {width} to {height}",
            *(number(times[f"{name} {width} {height} {count}"], 2) for count in COUNTS),
        ]
        for name in TYPES
        for width, height in SHAPES
    ]
    attended = [
        [
            f"{name}, {heads} heads of {size} on {shared} of keys",
            *(number(attention[f"{name} {heads} {shared} {size} {keys}"], 2) for keys in KEYS),
        ]
        for name in TYPES
        for heads, shared, size in HEADS
    ]
    kept = [[name, *(number(growth[name][way], 0) for way in ("torch", "prepacked"))] for name in TYPES]
    return Section(
        "Layers on a CPU",
        "CPU time of a call of the worker's prepacked layer as a share of torch's, whose fp32 weights lie transposed, "
        "as the worker keeps those of small layers: medians of 15 alternating turns, one thread. Memory: what a "
        "process grows by when three layers of MiniLM (384 to 384, 384 to 1536, 1536 to 384) meet each number of rows "
        "up to 500, twice. Attention: the next token of one sequence, against torch's call with `enable_gqa`. "
        f"torch {version('torch')}.",
        [
            Table(("share of torch's CPU time", *(f"{count} rows" for count in COUNTS)), rows),
            Table(("share of torch's CPU time", *(f"{keys} keys" for keys in KEYS)), attended),
            Table(("memory", "torch's layers, MiB", "prepacked, MiB"), kept),
        ],
    )


def _child(*arguments: str) -> dict[str, float]:
    command = [sys.executable, "-m", "tools.bench.linear_layers", *arguments]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return found
