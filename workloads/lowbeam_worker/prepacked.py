"""Linear layers on a CPU with weights in the order in which oneDNN multiplies, at fp32 and bf16.

oneDNN makes a kernel for each number of rows that it meets, of 0.6 MiB, and keeps 1,024 of them: as every step of a
server has another number, bf16 took a gigabyte. Here rows are filled up to a few numbers
(docs/design/linear-layers-on-a-cpu.md; `python -m tools.bench linear`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch

_LEAST_STEP = 4
"""Rows are filled up to a multiple of so many at least; but one row, as a decoder alone has."""
_STEPS_PER_OCTAVE_BITS = 3
LEAST_WEIGHTS_FOR_FEW_ROWS, LEAST_WEIGHTS_FOR_MANY = 1 << 19, 1 << 17
"""At fp32, smaller layers cost more to call this way than they gain: a decoder has some rows in a step, an encoder some
hundred."""
_OPS: Any = torch.ops.mkldnn


def gains(linear: torch.nn.Linear, least_weights: int) -> bool:
    """Whether a layer is faster this way: oneDNN is there, and this CPU has instructions for the type."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if linear.weight.dtype is torch.bfloat16:
        return bool(_OPS._is_mkldnn_bf16_supported())
    return linear.weight.dtype is torch.float32 and linear.weight.numel() >= least_weights


def filled_up(rows: int) -> int:
    """The number of rows that is computed: 1, multiples of 4 up to 64, then eight numbers from each power of two on."""
    if rows == 1:
        return 1
    step = max(_LEAST_STEP, 1 << max(0, (rows - 1).bit_length() - _STEPS_PER_OCTAVE_BITS - 1))
    return -(-rows // step) * step


class PrepackedLinear(torch.nn.Module):
    """A linear layer whose rows are filled up; no row changes another's figures."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.out_features = linear.out_features
        self.bias = linear.bias
        self._packed = _OPS._reorder_linear_weight(linear.weight.detach())
        self._multiply = _OPS._linear_pointwise.default

    def weight(self) -> torch.Tensor:
        """Not what a plain layer has, but a method, by which models see that it is none."""
        packed: torch.Tensor = self._packed
        return packed

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """`inputs`: [..., inputs], of the weights' type."""
        *shape, size = inputs.shape
        count = math.prod(shape)
        found: torch.Tensor
        if (more := filled_up(count) - count) == 0:
            found = self._multiply(inputs, self._packed, self.bias, "none", [], "")
            return found
        rows = torch.cat((inputs.reshape(count, size), inputs.new_zeros(more, size)))
        found = self._multiply(rows, self._packed, self.bias, "none", [], "")
        return found[:count].view(*shape, self.out_features)


def prepack(model: Any, names: Iterable[str]) -> None:
    """Replace these linear layers of a model in place."""
    for name in names:
        model.set_submodule(name, PrepackedLinear(model.get_submodule(name)))
