"""How a CPU keeps weights: fp32 in the order it multiplies fast, int8 with a scale per row of activations."""

from __future__ import annotations

import torch

from lowbeam_worker.int8 import RowScaledLinear, quantise
from lowbeam_worker.models import RANDOM_LLAMA, lay_out, load
from lowbeam_worker.options import Precision, Task
from lowbeam_worker.random_llama import make_random_llama


def int8_layer() -> tuple[torch.nn.Linear, torch.nn.Module]:
    torch.manual_seed(7)
    plain = torch.nn.Linear(64, 48).requires_grad_(False)
    holder = torch.nn.Sequential(torch.nn.Linear(64, 48).requires_grad_(False))
    holder[0].load_state_dict(plain.state_dict())
    quantise(holder)
    return plain, holder[0]


def test_one_rows_large_numbers_take_nothing_from_the_others() -> None:
    plain, layer = int8_layer()
    assert isinstance(layer, RowScaledLinear)
    rows = torch.randn(5, 64)
    rows[3] *= 1000
    errors = (layer(rows) - plain(rows)).norm(dim=1) / plain(rows).norm(dim=1)
    assert errors.max() < 0.03


def test_a_row_of_zeros_gives_the_bias_and_any_shape_is_taken() -> None:
    plain, layer = int8_layer()
    rows = torch.randn(2, 3, 64)
    rows[1, 2] = 0
    found = layer(rows)
    assert found.shape == (2, 3, 48)
    assert torch.equal(found[1, 2], plain.bias)


def test_a_layer_that_has_two_names_keeps_its_bias_under_both() -> None:
    shared = torch.nn.Linear(8, 8).requires_grad_(False)
    model = torch.nn.Sequential(shared, torch.nn.ReLU(), shared)
    rows = torch.randn(4, 8)
    expected = model(rows)
    quantise(model)
    assert torch.allclose(model(rows), expected, atol=0.05)
    assert all(isinstance(model[place], RowScaledLinear) for place in (0, 2))


def test_fp32_weights_lie_as_a_cpu_multiplies_them_and_say_the_same() -> None:
    loaded = load(RANDOM_LLAMA, Task.TEXT_GENERATION, Precision.FP32, torch.device("cpu"), allow_downloads=False)
    ids = torch.tensor([[5, 6, 7, 8]])
    untouched = make_random_llama(torch.float32)[0].eval()
    linear = loaded.model.model.layers[0].mlp.up_proj.weight
    assert linear.shape == untouched.model.layers[0].mlp.up_proj.weight.shape
    assert linear.t().is_contiguous()
    assert torch.allclose(loaded.model(ids).logits, untouched(ids).logits, atol=1e-5)


def test_weights_that_an_embedding_shares_stay_as_they_are() -> None:
    model = make_random_llama(torch.float32)[0]
    model.lm_head.weight = model.model.embed_tokens.weight
    lay_out(model)
    assert model.model.embed_tokens.weight.is_contiguous()
    assert model.lm_head.weight is model.model.embed_tokens.weight, "one weight, two names"
    assert not model.model.layers[0].mlp.up_proj.weight.is_contiguous()
