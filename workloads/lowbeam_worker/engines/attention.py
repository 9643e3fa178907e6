"""SDPA on a CPU for rows that lie end to end: each sequence attends to its own keys, not to everybody's.

transformers lays the keys of all requests of a step side by side and masks what does not belong together, so that one
call does it all: work grows with (requests x sum of their lengths), and at 32 requests most of it is masked away. On a
GPU flash kernels know where each sequence ends. Here each sequence gets a call of its own, over views of the same
tensors, but short neighbours share one, for a call costs about as much as a few thousand products. The rows of a packed
encoder (`packing.py`) get a call each. Everything else goes to transformers' own function.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

FULL_ATTENTION = "full_attention"
CALL_PRODUCTS = 150_000
"""A call of SDPA on one thread takes as long as so many multiplications of a query's number with a key's."""


def register() -> None:
    """Let every model of this process that runs on `sdpa` use it; again: the same."""
    AttentionInterface.register("sdpa", attend)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """As `sdpa_attention_forward`; query, key and value are [1, heads, tokens of all sequences, size of a head]."""
    if (lengths := kwargs.get("row_lengths")) is not None:
        return _row_by_row(query, key, value, lengths, kwargs.get("scaling")), None
    cache: Any = kwargs.get("cache")
    if attention_mask is None or not _can_split(module, query, kwargs):
        result: tuple[torch.Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return result
    key, value = cache.update(key_states=key, value_states=value, layer_idx=module.layer_idx, kwargs=kwargs)
    out = query.new_empty(1, query.shape[2], query.shape[1], query.shape[3])
    borders = kwargs["cu_seq_lens_q"].tolist(), kwargs["cu_seq_lens_k"].tolist()
    for rows, keys in calls(*borders, width=query.shape[1] * query.shape[3]):
        if rows.stop - rows.start == 1:
            out[:, rows] = next_token(query[:, :, rows], key[:, :, keys], value[:, :, keys], kwargs.get("scaling"))
            continue
        answer = torch.nn.functional.scaled_dot_product_attention(
            query[:, :, rows],
            key[:, :, keys],
            value[:, :, keys],
            attn_mask=attention_mask[:, :, rows, keys],
            scale=kwargs.get("scaling"),
            enable_gqa=key.shape[1] != query.shape[1],
        )
        out[:, rows] = answer.transpose(1, 2)
    return out, None


def next_token(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None) -> torch.Tensor:
    """The new token of one sequence, which attends to all that is there: [1, 1, heads, size].

    Heads that share their keys are queries of one head here. With `enable_gqa` torch copies the keys for each of them,
    which takes most of its time in bf16 (`tools.bench linear`).
    """
    _, heads, _, size = query.shape
    queries = query.reshape(1, key.shape[1], -1, size)
    answer = torch.nn.functional.scaled_dot_product_attention(queries, key, value, scale=scale)
    return answer.reshape(1, 1, heads, size)


def calls(queries: Sequence[int], keys: Sequence[int], *, width: int) -> Iterator[tuple[slice, slice]]:
    """Rows and the keys that they attend to, call by call, from the borders of the sequences.

    Neighbours share a call while what it then computes in vain costs less than another call. `width`: numbers in all
    heads of a row.
    """
    begun: tuple[int, int] | None = None
    end = (0, 0)
    for (row, next_row), (key, next_key) in zip(itertools.pairwise(queries), itertools.pairwise(keys), strict=True):
        if next_row == row:
            continue
        if begun is not None:
            in_vain = (end[0] - begun[0]) * (next_key - key) + (next_row - row) * (end[1] - begun[1])
            if in_vain * width > CALL_PRODUCTS:
                yield slice(begun[0], end[0]), slice(begun[1], end[1])
                begun = None
        begun, end = begun or (row, key), (next_row, next_key)
    if begun is not None:
        yield slice(begun[0], end[0]), slice(begun[1], end[1])


def _row_by_row(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: Sequence[int], scale: float | None
) -> torch.Tensor:
    out = query.new_empty(1, query.shape[2], query.shape[1], query.shape[3])
    end = 0
    for length in lengths:
        first, end = end, end + length
        answer = torch.nn.functional.scaled_dot_product_attention(
            query[:, :, first:end], key[:, :, first:end], value[:, :, first:end], scale=scale
        )
        out[:, first:end] = answer.transpose(1, 2)
    out[:, end:] = 0  # rows that only fill up: nobody reads them, but numbers of any size may be slow to multiply
    return out


def _can_split(module: torch.nn.Module, query: torch.Tensor, kwargs: dict[str, Any]) -> bool:
    cache: Any = kwargs.get("cache")
    return (
        query.device.type == "cpu"
        and hasattr(cache, "layer_to_allocator")
        and cache.layer_to_allocator[module.layer_idx].layer_type == FULL_ATTENTION
        and kwargs.get("block_table") is None
        and kwargs.get("position_bias") is None
        and not kwargs.get("softcap")
        and not kwargs.get("dropout")
        and not kwargs.get("output_attentions")
    )
