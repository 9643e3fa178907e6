"""Sentence embeddings and class scores: from a batch of token ids to one row of numbers each.

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
from lowbeam_worker.models import CannotLoadError, Loaded


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
    """Longest sequence, special tokens included: the smallest of the recipe, the tokenizer and the position table."""
    stated = [
        recipe.max_tokens if recipe else None,
        getattr(loaded.model.config, "max_position_embeddings", None),
        loaded.tokenizer.model_max_length,
    ]
    return min(int(value) for value in stated if value)


def embedder(loaded: Loaded, recipe: SentenceRecipe) -> Forward:
    """Batch of token ids -> float32 vectors."""

    @torch.inference_mode()
    def forward(batch: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        ids, mask = _pad(batch, loaded)
        hidden = loaded.model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        if recipe.pooling == "cls":
            vectors = hidden[:, 0]
        else:
            weights = mask.unsqueeze(-1).to(hidden.dtype)
            vectors = (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-9)
        if recipe.normalise:
            vectors = torch.nn.functional.normalize(vectors, dim=-1)
        return _to_numpy(vectors)

    return forward


def classifier(loaded: Loaded) -> Forward:
    """Batch of token ids -> scores per label: sigmoid where labels are independent, softmax otherwise."""
    config = loaded.model.config
    independent = config.num_labels == 1 or config.problem_type == "multi_label_classification"

    @torch.inference_mode()
    def forward(batch: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        ids, mask = _pad(batch, loaded)
        logits = loaded.model(input_ids=ids, attention_mask=mask).logits.float()
        return _to_numpy(torch.sigmoid(logits) if independent else torch.softmax(logits, dim=-1))

    return forward


def _pad(batch: Sequence[Sequence[int]], loaded: Loaded) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(len(ids) for ids in batch)
    pad = loaded.tokenizer.pad_token_id or 0
    ids = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in batch], dtype=torch.long)
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in batch], dtype=torch.long)
    return ids.to(loaded.device), mask.to(loaded.device)


def _to_numpy(values: torch.Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(values.cpu().numpy(), dtype=np.float32)


def _json(folder: Path | None, name: str) -> Any:
    path = folder / name if folder else None
    return json.loads(path.read_text(encoding="utf-8")) if path and path.is_file() else None
