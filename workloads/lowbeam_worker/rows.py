"""One sequence of token ids on its way through an encoder engine, and the rectangle that a batch of them makes.

An engine sees a row's length only; the model's own extras (segments, how to write the answer) travel inside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import torch

from lowbeam_worker.models import Loaded


class TokenRow(Sequence[int]):
    """Token ids with what else the model needs to know about them."""

    __slots__ = ("generation", "ids", "segments")

    def __init__(
        self,
        ids: Sequence[int],
        segments: Sequence[int] | None = None,
        generation: tuple[tuple[str, int | float], ...] = (),
    ) -> None:
        self.ids = ids
        self.segments = segments
        """0 for the first text of a pair and 1 for the second, where the model tells them apart."""
        self.generation = generation
        """Parameters of `generate`, sorted by name; rows with different ones share no batch."""

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[int]: ...
    def __getitem__(self, index: int | slice) -> int | Sequence[int]:
        return self.ids[index]


def generation_of(row: Sequence[int]) -> tuple[tuple[str, int | float], ...]:
    """How the answer to a row is written; empty where nothing was said."""
    return row.generation if isinstance(row, TokenRow) else ()


def pad(batch: Sequence[Sequence[int]], loaded: Loaded) -> dict[str, torch.Tensor]:
    """The model's inputs: ids, mask and, where rows have them, segments; shorter rows are filled on the right.

    They are filled with the model's own padding, which may be another than the tokenizer's: some models do not look at
    the mask to find where a row ends.
    """
    longest = max(len(row) for row in batch)
    inputs = {
        "input_ids": _rectangle(batch, longest, loaded.padding or 0),
        "attention_mask": _rectangle([[1] * len(row) for row in batch], longest, 0),
    }
    segments = [row.segments if isinstance(row, TokenRow) else None for row in batch]
    if any(segments) and loaded.takes_segments:
        filled = [given or [0] * len(row) for given, row in zip(segments, batch, strict=True)]
        inputs["token_type_ids"] = _rectangle(filled, longest, 0)
    return {name: tensor.to(loaded.device) for name, tensor in inputs.items()}


def _rectangle(rows: Sequence[Sequence[int]], longest: int, fill: int) -> torch.Tensor:
    return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows], dtype=torch.long)


def encoded_rows(encoded: Any) -> list[TokenRow]:
    """Rows of what a tokenizer gave for a batch of texts."""
    segments = encoded.get("token_type_ids") or [None] * len(encoded["input_ids"])
    return [TokenRow(ids, kinds) for ids, kinds in zip(encoded["input_ids"], segments, strict=True)]
