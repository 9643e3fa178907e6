"""How much memory a model needs at most, before it is loaded; and how much may still be taken.

The figures are upper bounds from the shapes in a model's config and the headers of its safetensors: nothing is read but
a few kilobytes. tests/worker/test_peak_memory.py holds them against the real peak of a worker process.

    runtime      Python, torch and transformers, as resident before the first model; a GPU has none of it
    loading      the file as mapped, and what is made of it: another dtype, int8 layers
    weights      as they stay
    cache        keys and values that are promised to requests (decoders)
    activations  of one step at its limits, with the mask and the scores

Invariant: `peak_bytes` is runtime + the larger of loading and (weights + cache + activations).
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from lowbeam_worker.cgroup import memory_limit_bytes
from lowbeam_worker.options import Precision

atexit.register(gc.unfreeze)  # what the interpreter's last collection does not see, extensions report as leaked

DTYPES = {Precision.FP32: torch.float32, Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}
"""int8 is made from fp32 weights; what is not a linear layer stays fp32."""
DTYPE_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
"""As safetensors writes them."""
_KERNEL_BYTES = 320 << 20
"""Tokenizer, what the allocator keeps between blocks (140 MiB were seen), MKL's buffers (80), and oneDNN's kernels: 0.6
MiB for each shape of weights and each of some 40 numbers of rows (`prepacked.py`)."""
_TRIM = getattr(ctypes.CDLL(None), "malloc_trim", None)
"""Of glibc; other C libraries keep less."""
_BEAMS = 4
"""What a summary is written with, where the model says nothing else."""


class NoRoomError(Exception):
    """There is less memory than the model needs; the message has both."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes at most, on the device of the model."""

    loading: int
    weights: int
    cache: int
    activations: int

    @property
    def peak_bytes(self) -> int:
        """Beside the runtime."""
        return max(self.loading, self.weights + self.cache + self.activations)


@dataclass(frozen=True, slots=True)
class StoredWeights:
    """What the headers of a model's files say."""

    parameters: int
    stored_bytes: int
    dtypes: frozenset[str]


def read_headers(folder: Path) -> StoredWeights | None:
    """Of all safetensors in a folder; None where there are none."""
    parameters = stored = 0
    dtypes: set[str] = set()
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(str(file), framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - not a mapping
                part = opened.get_slice(name)
                dtypes.add(part.get_dtype())
                numbers = 1
                for side in part.get_shape():
                    numbers *= side
                parameters += numbers
        stored += file.stat().st_size
    return StoredWeights(parameters, stored, frozenset(dtypes)) if parameters else None


def weight_bytes(stored: StoredWeights, precision: Precision, device: torch.device) -> tuple[int, int]:
    """(while they are loaded, as they stay)."""
    dtype = DTYPES.get(precision, torch.float32)
    made = stored.parameters * dtype.itemsize
    # On a CPU weights of the same dtype are the mapped file itself, but those that `models.lay_out` copies.
    as_stored = stored.dtypes == {DTYPE_NAMES[dtype]} and precision is Precision.FP16
    loading = made if as_stored or device.type != "cpu" else stored.stored_bytes + made
    if precision is Precision.INT8:
        return loading + made // 2, made  # embeddings stay fp32, so that the bound is that of nothing but embeddings
    return loading, made


def encoder_activations(config: Any, tokens: int, longest: int, precision: Precision, *, writes: bool) -> int:
    """Of a batch of so many padded tokens in rows of at most `longest`; `writes`: an encoder-decoder, with beams."""
    item = DTYPES.get(precision, torch.float32).itemsize
    hidden = int(getattr(config, "hidden_size", 0) or getattr(config, "d_model", 0) or 1024)
    inner = int(getattr(config, "intermediate_size", 0) or getattr(config, "encoder_ffn_dim", 0) or 4 * hidden)
    heads = int(getattr(config, "num_attention_heads", 0) or 16)
    # Hidden states in and out, queries, keys, values and the answer of attention; the wide layer before and after.
    step = tokens * (8 * hidden + 3 * inner) * max(item, 4) + heads * tokens * longest * item
    if not writes:
        return step + _KERNEL_BYTES
    layers = int(getattr(config, "decoder_layers", 0) or getattr(config, "num_hidden_layers", 0) or 12)
    scores = int(getattr(config, "vocab_size", 0)) * 4
    return step + _BEAMS * tokens * (4 * layers * hidden * item + 4 * scores) + _KERNEL_BYTES


def decoder_activations(
    config: Any, *, cache_tokens: int, step_tokens: int, requests: int, dtype: torch.dtype
) -> tuple[int, int]:
    """(cache, activations) of a step that is as full as its limits allow."""
    item, hidden = dtype.itemsize, int(config.hidden_size)
    heads = int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
    head_size = int(getattr(config, "head_dim", None) or hidden // config.num_attention_heads)
    inner = int(getattr(config, "intermediate_size", 0) or 4 * hidden)
    row = 2 * heads * head_size * item
    cache = cache_tokens * row * int(config.num_hidden_layers)
    # One layer's keys and values are gathered for a step; scores exist for those who get a token.
    step = step_tokens * (8 * hidden + 3 * inner) * item + cache_tokens * (row + step_tokens * item)
    return cache, step + requests * int(config.vocab_size) * 12 + _KERNEL_BYTES


def resident_bytes() -> int:
    """Of this process, now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def free_bytes(device: torch.device, taken: int = 0) -> int | None:
    """What may still be taken on the device; None: no limit is known.

    On a CPU `taken` is what this process may grow to with the models that it has; on a GPU they took it when they came.
    """
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + held
    limit = memory_limit_bytes()
    return None if limit is None else max(0, limit - max(resident_bytes(), taken))


def give_back() -> None:
    """Return the memory of a model that is gone to the system; takes tenths of a second.

    Engines and their models refer to each other, so that without a collection they would wait for some later one; and
    what is free between two blocks that are not, glibc keeps: 190 MiB after ten minutes of changes were seen.

    What is left then stays, and Python's collector need not look at it again: torch and transformers are
    most of what it would look at, and every request waits meanwhile.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    if _TRIM is not None:
        _TRIM(0)


def check_room(what: str, needed: int, free: int | None) -> None:
    """Raises NoRoomError where it does not fit."""
    if free is not None and needed > free:
        raise NoRoomError(f"{what} needs up to {needed >> 20} MiB and {free >> 20} MiB are free")
