"""SDPA on a CPU for rows that lie end to end: each sequence attends to its own keys, not to everybody's.

transformers lays the keys of all requests of a step side by side and masks what does not belong together, so that one
call does it all: work grows with (requests x sum of their lengths), and at 32 requests most of it is masked away. On a
GPU flash kernels know where each sequence ends. Here each sequence gets a call of its own, over views of the same
tensors; grouped heads share their keys without copying them. The rows of a packed encoder (`packing.py`) are treated in
the same way. Everything else goes to transformers' own function.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

FULL_ATTENTION = "full_attention"


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
    groups = query.shape[1] // key.shape[1]
    queries, keys = kwargs["cu_seq_lens_q"].tolist(), kwargs["cu_seq_lens_k"].tolist()
    out = torch.empty_like(query)
    for (first, end), (start, stop) in zip(itertools.pairwise(queries), itertools.pairwise(keys), strict=True):
        if end == first:
            continue
        own, past, held = query[:, :, first:end], key[:, :, start:stop], value[:, :, start:stop]
        if end - first == 1:  # heads that share keys are rows of one query
            packed = own.reshape(1, key.shape[1], groups, own.shape[-1])
            answer = torch.nn.functional.scaled_dot_product_attention(
                packed, past, held, scale=kwargs.get("scaling")
            ).reshape(own.shape)
        else:
            answer = torch.nn.functional.scaled_dot_product_attention(
                own,
                past.repeat_interleave(groups, dim=1) if groups > 1 else past,
                held.repeat_interleave(groups, dim=1) if groups > 1 else held,
                attn_mask=attention_mask[:, :, first:end, start:stop],
                scale=kwargs.get("scaling"),
            )
        out[:, :, first:end] = answer
    return out.transpose(1, 2).contiguous(), None


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
