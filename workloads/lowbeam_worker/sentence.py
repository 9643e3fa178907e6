"""Sentence embeddings: from a batch of token ids to one vector each.

Pooling and normalisation are read from the model's sentence-transformers files, because a wrong pooling gives vectors
that look right. A model without these files is pooled by the mean and normalised, the most common convention.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lowbeam_worker.engines.encoder import Forward
from lowbeam_worker.heads import to_numpy
from lowbeam_worker.models import CannotLoadError, Loaded
from lowbeam_worker.rows import pad

_NO_LIMIT = 1_000_000
"""A tokenizer that knows no length states 10**30; nothing that an encoder could read comes near."""
_T5_TOKENS = 512
"""What T5 and its kin were trained with: they have no table of positions that could end, and often state no length."""


@dataclass(frozen=True, slots=True)
class SentenceRecipe:
    """How one vector is made of a sequence's hidden states."""

    pooling: str
    """`mean` or `cls`."""
    normalise: bool
    max_tokens: int | None
    """The length that the model was trained for, special tokens included; None: not stated."""


def read_recipe(folder: Path | None) -> SentenceRecipe:
    """The recipe from `modules.json`, `1_Pooling/config.json` and `sentence_bert_config.json`."""
    modules = _json(folder, "modules.json") or []
    if not modules:
        return SentenceRecipe("mean", normalise=True, max_tokens=None)
    kinds = {str(module["type"]).rsplit(".", 1)[-1]: str(module["path"]) for module in modules}
    unknown = sorted(set(kinds) - {"Transformer", "Pooling", "Normalize"})
    pooling = _json(folder, f"{kinds.get('Pooling', '1_Pooling')}/config.json") or {}
    modes = [
        key.removeprefix("pooling_mode_")
        for key, on in pooling.items()
        if key.startswith("pooling_mode_") and on is True
    ]
    names = {"mean_tokens": "mean", "cls_token": "cls"}
    if unknown or len(modes) != 1 or modes[0] not in names:
        raise CannotLoadError(
            f"{folder}: this worker makes sentence vectors by mean or cls pooling; the model asks for "
            f"{', '.join([*unknown, *modes]) or 'no pooling at all'}"
        )
    maximum = (_json(folder, "sentence_bert_config.json") or {}).get("max_seq_length")
    return SentenceRecipe(names[modes[0]], normalise="Normalize" in kinds, max_tokens=maximum)


def max_tokens(loaded: Loaded, recipe: SentenceRecipe | None = None) -> int:
    """Longest sequence, special tokens included: the smallest of the recipe, the tokenizer and the position table.

    Where none of them has a limit it is the `n_positions` of the config, which T5 has for this alone.
    """
    stated = [
        recipe.max_tokens if recipe else None,
        loaded.positions,
        loaded.tokenizer.model_max_length,
    ]
    limits = [int(value) for value in stated if value and value < _NO_LIMIT]
    return min(limits, default=int(getattr(loaded.model.config, "n_positions", None) or _T5_TOKENS))


def embedder(loaded: Loaded, recipe: SentenceRecipe) -> Forward:
    """Batch of token ids -> float32 vectors, pooled and not normalised: the front knows what its client wants."""

    @torch.inference_mode()
    def forward(batch: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        inputs = pad(batch, loaded)
        hidden = loaded.model(**inputs).last_hidden_state.float()
        if recipe.pooling == "cls":
            return to_numpy(hidden[:, 0])
        weights = inputs["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        return to_numpy((hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-9))

    return forward


def normalised(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of length 1, as cosine similarity wants it."""
    length = float(np.linalg.norm(vector))
    return (vector / np.float32(max(length, 1e-12))).astype(np.float32)


def _json(folder: Path | None, name: str) -> Any:
    path = folder / name if folder else None
    return json.loads(path.read_text(encoding="utf-8")) if path and path.is_file() else None
