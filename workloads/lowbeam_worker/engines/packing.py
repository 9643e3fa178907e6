"""Encoders without padding, on a CPU: the layers see the real tokens of a batch, one row after the other.

A batch of ragged rows is a rectangle, and most of an encoder's time goes into layers that compute its empty corners as
well. Here the rectangle stays what embeddings and heads see, which cost little; between them the rows are laid end to
end, and attention goes row by row (`attention.py`). Outputs are those of the padded batch: padding was masked anyway.
Where layers compute a few numbers of rows only (`prepacked.py`), rows are filled up once for all of them.

It decides for which models this is done: those whose layers know nothing of positions, and hand what they are called
with on to attention. Others, and GPUs, compute the rectangle.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from lowbeam_worker.engines import attention
from lowbeam_worker.prepacked import PrepackedLinear, filled_up

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
        prepacked = any(isinstance(layer, PrepackedLinear) for layer in layers.modules())
        layers.forward = _without_padding(layers.forward, filled_up if prepacked else int)
    return fits


def _without_padding(original: Callable[..., Any], computed: Callable[[int], int]) -> Callable[..., Any]:
    """`computed`: how many rows the layers are to have for so many tokens."""

    def forward(hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **more: Any) -> Any:
        rows, longest, size = hidden_states.shape
        everything = hidden_states.reshape(rows * longest, size)
        places = None
        if attention_mask is None:  # all rows are of one length
            if computed(rows * longest) == rows * longest:
                return original(hidden_states, attention_mask=None, **more)
            lengths = [longest] * rows
        else:
            # True where a key may be seen, the same for all queries of a row; rows are filled on the right.
            real = attention_mask[:, 0, 0]
            lengths = real.sum(dim=-1).tolist()
            places = real.reshape(-1).nonzero().squeeze(1)
        tokens = sum(lengths)
        packed = everything if places is None else everything.index_select(0, places)
        if (spare := computed(tokens) - tokens) > 0:
            packed = torch.cat((packed, packed.new_zeros(spare, size)))
        found = original(packed.unsqueeze(0), attention_mask=None, row_lengths=lengths, **more)
        whole = found.last_hidden_state[0, :tokens]
        if places is not None:
            whole = everything.new_zeros(rows * longest, size).index_copy_(0, places, whole)
        found.last_hidden_state = whole.view(rows, longest, size)
        return found

    return forward
