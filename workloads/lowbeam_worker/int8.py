"""Linear layers in int8 on a CPU: weights with a scale per output channel, activations with a scale per row.

torch's dynamic quantisation takes one scale for the activations of a whole step. Large numbers of one request then cost
the others their precision, and an answer depends on who shares its step. Here each row is divided by its largest number
before torch's layer and multiplied by it afterwards (docs/worker-engines.md).
"""

from __future__ import annotations

import warnings
from typing import Any

import torch

_quantise_dynamic: Any = torch.ao.quantization.quantize_dynamic
_PER_CHANNEL: Any = torch.ao.quantization.per_channel_dynamic_qconfig
"""The one int8 route that beats bf16 on a CPU without a long compilation; torch calls it old, and keeps it."""
_LEAST = torch.finfo(torch.float32).tiny


class RowScaledLinear(torch.nn.Module):
    """A quantised layer without bias, between the scales of its rows."""

    def __init__(self, quantised: Any, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.quantised = quantised
        self.bias = bias

    @property
    def weight(self) -> Any:
        """As torch's own layer has it: a method, by which models see that it is no plain layer."""
        return self.quantised.weight

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """`rows`: [..., inputs], fp32; a row of zeros stays one."""
        scales = torch.maximum(rows.amax(-1, keepdim=True), rows.amin(-1, keepdim=True).neg_()).clamp_min_(_LEAST)
        out: torch.Tensor = self.quantised(rows / scales)
        return out.mul_(scales) if self.bias is None else torch.addcmul(self.bias, out, scales, out=out)


def quantise(model: Any) -> None:
    """Replace the linear layers of a model in place."""
    modules = model.named_modules(remove_duplicate=False)  # a layer that has two names is replaced under both
    biases = {name: module.bias for name, module in modules if type(module) is torch.nn.Linear}
    for name in biases:
        model.get_submodule(name).register_parameter("bias", None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that torch.ao will be removed some day, once per layer
        _quantise_dynamic(model, {torch.nn.Linear: _PER_CHANNEL}, inplace=True)  # a copy would stand beside it
    for name, bias in biases.items():
        model.set_submodule(name, RowScaledLinear(model.get_submodule(name), bias))
