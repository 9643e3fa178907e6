"""Encoders without padding, on a CPU: the layers see the real tokens of a batch, one row after the other.

A batch of ragged rows is a rectangle, and most of an encoder's time goes into layers that compute its empty corners as
well. Here the rectangle stays what embeddings and heads see, which cost little; between them the rows are laid end to
end, and attention goes row by row (`attention.py`). Outputs are those of the padded batch: padding was masked anyway.

It decides for which models this is done: those whose layers know nothing of positions, and hand what they are called
with on to attention. Others, and GPUs, compute the rectangle.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from lowbeam_worker.engines import attention

FAMILIES = frozenset({"bert", "roberta", "xlm-roberta", "camembert", "electra"})
"""`model_type` of the models that transformers writes alike: absolute positions in the embeddings, then `encoder`."""


def pack(model: Any) -> bool:
    """Let a model's layers pass over padding, from now on; False where that cannot be done for it."""
    config = model.config
    fits = (
        config.model_type in FAMILIES
        and getattr(config, "position_embedding_type", "absolute") == "absolute"
        and not getattr(config, "is_decoder", False)
        and config._attn_implementation == "sdpa"
        and model.device.type == "cpu"
    )
    if fits:
        attention.register()
        layers = model.base_model.encoder
        layers.forward = _without_padding(layers.forward)
    return fits


def _without_padding(original: Callable[..., Any]) -> Callable[..., Any]:
    def forward(hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **more: Any) -> Any:
        if attention_mask is None:  # all rows are of one length
            return original(hidden_states, attention_mask=None, **more)
        rows, longest, size = hidden_states.shape
        # True where a key may be seen, the same for all queries of a row; rows are filled on the right.
        real = attention_mask[:, 0, 0]
        lengths = real.sum(dim=-1).tolist()
        places = real.reshape(-1).nonzero().squeeze(1)
        packed = hidden_states.reshape(rows * longest, size).index_select(0, places).unsqueeze(0)
        found = original(packed, attention_mask=None, row_lengths=lengths, **more)
        whole = packed.new_zeros(rows * longest, size)
        found.last_hidden_state = whole.index_copy_(0, places, found.last_hidden_state[0]).view(rows, longest, size)
        return found

    return forward
