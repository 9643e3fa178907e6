"""What a batch of token ids becomes at the end of a model: class scores, a score per token, answer spans, summaries.

Each function makes an engine's `Forward`. The figures are the model's logits: softmax, sigmoid and the rest are the
front's, so that one engine serves every form in which a client may ask.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from lowbeam_worker.engines.encoder import Forward
from lowbeam_worker.models import Loaded
from lowbeam_worker.rows import generation_of, pad


def class_logits(loaded: Loaded) -> Forward:
    """One figure per label.

    A decoder that classifies reads the last token of a row that is not its padding. Where it names no padding, or one
    that it does not have, rows go one at a time: there is then nothing to tell the end of a shorter one by.
    """
    forward = _logits(loaded)
    if loaded.padding is not None:
        return forward
    return lambda batch: np.concatenate([forward([row]) for row in batch])


def token_logits(loaded: Loaded) -> Forward:
    """One figure per token and label; beyond a row's own length they mean nothing."""
    return _logits(loaded)


def span_logits(loaded: Loaded) -> Forward:
    """For each token how well an answer begins there, and how well it ends there: two figures per token."""

    @torch.inference_mode()
    def forward(batch: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        out = loaded.model(**pad(batch, loaded))
        return to_numpy(torch.stack([out.start_logits, out.end_logits], dim=-1).float())

    return forward


def summaries(loaded: Loaded) -> Forward:
    """Token ids of the answer, filled with the padding id; float32 holds every id below 2^24 exactly.

    One call of `generate` writes them all, so that the rows of a batch must want the same (`generation_of`).
    """

    @torch.inference_mode()
    def forward(batch: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        wish, *others = {generation_of(row) for row in batch}
        if others:
            raise ValueError("summaries with different parameters cannot be written in one step")
        return to_numpy(loaded.model.generate(**pad(batch, loaded), **dict(wish)))

    return forward


def _logits(loaded: Loaded) -> Forward:
    @torch.inference_mode()
    def forward(batch: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        return to_numpy(loaded.model(**pad(batch, loaded)).logits.float())

    return forward


def to_numpy(values: torch.Tensor) -> NDArray[np.float32]:
    """On the CPU, in one piece."""
    return np.ascontiguousarray(values.cpu().numpy(), dtype=np.float32)
