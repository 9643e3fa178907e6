"""The worker's engines against what people use instead: CPU per token and per request, as ratios within one run.

Targets come from issue 5; a ratio above its target is said to be missed.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.stubs.nvml.build import build_stub

from .figures import Section, Table, number

_ROOT = Path(__file__).parents[2]
_DECODER_TARGETS = {"serial": 0.25, "best padded": 0.8}
"""Most CPU per token of the worker at 32, as a share of the other way's."""
_ENCODER_TARGETS = {"no batching": 0.65, "first in, first out": 0.3, "sentence-transformers": 0.8}
_SERVE_TARGET = 0.7
_METERING_TARGET = 0.01


def measure(say: Callable[[str], None], rounds: int) -> Section:
    """All comparisons, each `rounds` times; medians."""
    say("transformers serve")
    serving = [_child("worker_serve", say) for _ in range(rounds)]
    say("decoder")
    decoder = [_child("worker_decoder", say) for _ in range(rounds)]
    say("encoder")
    encoder = [_child("worker_encoder", say) for _ in range(rounds)]
    say("metering")
    with tempfile.TemporaryDirectory() as folder:
        metering = _child("worker_metering", say, LD_LIBRARY_PATH=str(build_stub(Path(folder))))
    decoder_table, decoder_missed = _decoder(decoder)
    encoder_table, encoder_missed = _encoder(encoder)
    metering_table, metering_missed = _metering(metering, decoder)
    serving_table, serving_missed = _serving(serving)
    missed = [*decoder_missed, *serving_missed, *encoder_missed, *metering_missed]
    used = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "sentence-transformers"))
    return Section(
        "Worker engines",
        "Decoder: 64 greedy requests, prompts of 8 to 96 and answers of 8 to 64 tokens, on a Llama of 3.7 million "
        "random weights, fp32; the worker's answers are compared token by token with `generate`. Served: 256 greedy "
        "requests of 2 to 24 words on the same model, from 32 clients over HTTP, CPU time of the server's processes. "
        "Encoder: 320 texts of 8 to 230 words from 32 clients, MiniLM (22 million), fp32, from text to vector. "
        "One thread, CPU time of the "
        f"whole process, medians of {rounds} runs; ratios compare within a run. {used}.",
        [decoder_table, serving_table, encoder_table, metering_table],
        [
            *(missed or ["every target is met"]),
            "Random weights and one small model: ratios say how the engines spend CPU, not how a GPU would.",
        ],
    )


def _decoder(runs: Sequence[Mapping[str, float]]) -> tuple[Table, list[str]]:
    padded = [min(run[name] for name in run if name.startswith("padded")) for run in runs]
    others = {"serial": [run["serial"] for run in runs], "best padded": padded}
    rows, missed = [], []
    names = [name for name in runs[0] if name.startswith("worker")]
    for name in ("serial", *(name for name in runs[0] if name.startswith("padded")), *names):
        seconds = [run[name] for run in runs]
        ratios = {
            other: statistics.median(own / their for own, their in zip(seconds, values, strict=True))
            for other, values in others.items()
        }
        shares = [number(ratio, 2) for ratio in ratios.values()]
        rows.append([name, number(statistics.median(seconds) * 1000, 2), *shares])
        if name == names[-1]:
            missed = _missed("decoder at 32", ratios, _DECODER_TARGETS)
    header = ["decoder", "CPU ms/token", "of serial (target 0.25)", "of best padded (target 0.8)"]
    return Table(header, rows), missed


def _serving(runs: Sequence[Mapping[str, float]]) -> tuple[Table, list[str]]:
    ratio = statistics.median(run["worker"] / run["transformers serve"] for run in runs)
    rows = [
        [name, number(statistics.median(run[name] for run in runs) * 1000, 2), number(share, 2)]
        for name, share in (("worker", ratio), ("transformers serve", 1.0))
    ]
    missed = _missed("served, 32 clients", {"transformers serve": ratio}, {"transformers serve": _SERVE_TARGET})
    return Table(["served, 32 clients", "CPU ms/token", "of transformers serve (target 0.7)"], rows), missed


def _encoder(runs: Sequence[Mapping[str, Mapping[str, float]]]) -> tuple[Table, list[str]]:
    rows = []
    for name in runs[0]:
        mine = [statistics.median(run[name][kind] for run in runs) * 1000 for kind in ("cpu", "p50", "p99")]
        ratio = statistics.median(run["worker"]["cpu"] / run[name]["cpu"] for run in runs)
        rows.append([name, *(number(value) for value in mine), number(ratio, 2), number(_ENCODER_TARGETS.get(name), 2)])
    ratios = {
        other: statistics.median(run["worker"]["cpu"] / run[other]["cpu"] for run in runs) for other in _ENCODER_TARGETS
    }
    missed = _missed("encoder", ratios, _ENCODER_TARGETS)
    latencies = {
        other: statistics.median(run["worker"]["p99"] / run[other]["p99"] for run in runs) for other in _ENCODER_TARGETS
    }
    missed += _missed("encoder p99", latencies, dict.fromkeys(_ENCODER_TARGETS, 1.0))
    header = ["encoder, 32 clients", "CPU ms/request", "p50 ms", "p99 ms", "worker's CPU as a share", "target"]
    return Table(header, rows), missed


def _metering(cost: Mapping[str, float], runs: Sequence[Mapping[str, float]]) -> tuple[Table, list[str]]:
    rows, shares = [], {}
    for members in (1, 8, 32):
        # A step of that many gives each a token: its CPU is at least so many tokens' worth.
        step_s = statistics.median(run[f"worker {members}"] for run in runs) * members
        own_s, name = cost[f"step {members}"], f"ledger, {members} in a step"
        shares[name] = own_s / step_s
        rows.append([name, number(own_s * 1e6), number(100 * shares[name], 2)])
    shares["sampling"] = cost["sampling"]
    name = "sampling, per second" if cost["metered"] else "sampling, per second (no library: nothing was read)"
    rows.append([name, number(cost["sampling"] * 1e6), number(100 * cost["sampling"], 2)])
    table = Table(["metering", "CPU us", "% of the engine's CPU (target 1)"], rows)
    return table, _missed("metering", shares, dict.fromkeys(shares, _METERING_TARGET), digits=4)


def _missed(what: str, ratios: Mapping[str, float], targets: Mapping[str, float], digits: int = 2) -> list[str]:
    return [
        f"**Target missed**: {what}, {name}: {ratios[name]:.{digits}f}, at most {target} wanted"
        for name, target in targets.items()
        if ratios[name] > target
    ]


def _child(module: str, say: Callable[[str], None], **environment: str) -> Any:
    say(module)
    threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    done = subprocess.run(
        [sys.executable, "-m", f"tools.bench.{module}"],
        cwd=_ROOT,
        env=os.environ | threads | offline | environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)
