from __future__ import annotations

import pytest
import torch
from torch import nn

from blip3v.errors import UserError
from blip3v.models.fp8.linear import Fp8Linear, emulated_product
from blip3v.models.fp8.rows import quantised


def linears(inputs: int, *outputs: int, bias: bool = True) -> list[nn.Linear]:
    torch.manual_seed(2)
    return [nn.Linear(inputs, count, bias=bias) for count in outputs]


def test_the_product_is_that_of_the_rounded_numbers() -> None:
    parts = linears(48, 16, 32)
    layer = Fp8Linear(parts, torch.float32)
    rows = quantised(torch.randn(7, 48))
    weights = [quantised(part.weight.detach()) for part in parts]
    expected = torch.cat(
        [
            rows.dequantised().double() @ weight.dequantised().double().T + part.bias.double()
            for weight, part in zip(weights, parts)
        ],
        dim=1,
    )
    torch.testing.assert_close(layer(rows).double(), expected, rtol=1e-5, atol=1e-5)


def test_rounding_costs_what_four_significant_bits_cost() -> None:
    # A factor rounded to 4 significant bits is off by 2.6% in the mean square; a product has two.
    (part,) = linears(1152, 64)
    x = torch.randn(64, 1152)
    exact = part(x).detach()
    error = (Fp8Linear([part], torch.float32)(quantised(x)) - exact).norm() / exact.norm()
    assert 0.03 < error < 0.04


def test_dtype_bias_and_what_is_kept() -> None:
    layer = Fp8Linear(linears(32, 16, bias=False), torch.bfloat16)
    assert layer(quantised(torch.randn(3, 32))).dtype == torch.bfloat16
    assert not layer.bias.any() and not list(layer.parameters())
    assert sum(buffer.nbytes for buffer in layer.buffers()) == 16 * (32 + 4 + 2)


def test_widths_that_fp8_does_not_take() -> None:
    for inputs, outputs in ((40, 16), (16, 40)):
        with pytest.raises(UserError, match="divide by 16"):
            Fp8Linear(linears(inputs, outputs), torch.float32)


@pytest.mark.gpu
@pytest.mark.parametrize("count", [36, 729, 8 * 729])
@pytest.mark.parametrize(("inputs", "outputs"), [(1152, 3456), (4304, 1152)])
def test_the_gpu_product_is_the_emulated_one(count: int, inputs: int, outputs: int) -> None:
    layer = Fp8Linear(linears(inputs, outputs), torch.bfloat16, "cuda")
    rows = quantised(torch.randn(count, inputs, device="cuda"))
    expected = emulated_product(rows, layer.values, layer.scale, layer.bias).float()
    error = (layer(rows).float() - expected).norm() / expected.norm()
    assert error < 0.005  # two roundings to bfloat16, and sums kept in about 14 bits
