"""Rows of e4m3 numbers: the nearest there are, with scales that use the whole range."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from blip3v.models.fp8.rows import gelu_quantised, norm_quantised, quantised


def e4m3_numbers() -> Tensor:
    """All finite ones, from the format: sign, 4 bits of exponent with bias 7, 3 of mantissa; 0x7f is NaN."""
    numbers = []
    for bits in range(127):
        exponent, mantissa = bits >> 3, bits & 7
        size = mantissa / 8 * 2.0**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7)
        numbers += [size, -size]
    return torch.tensor(numbers, dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_number_is_the_nearest(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.cat([torch.randn(4, 96) * 10.0 ** torch.tensor([[-6.0], [-1], [0], [5]]), torch.zeros(1, 96)])
    x[:, 7] *= 3000  # an outlier
    x = x.to(dtype)
    rows = quantised(x)
    assert rows.values.shape == (5, 96) and rows.scale.shape == (5, 1)
    wished = x.double() / rows.scale.double()
    distance = (wished.unsqueeze(-1) - e4m3_numbers()).abs().amin(dim=-1)
    off = (rows.values.double() - wished).abs()
    # The factor is rounded to float32 before, which can turn a tie.
    assert (off - distance).max() <= 448 * 2**-22
    assert rows.values[:4].double().abs().amax(dim=-1).eq(448).all()
    assert not rows.dequantised()[4].any()


def test_an_outlier_costs_the_other_channels_nothing() -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 512)
    plain = quantised(x).dequantised()
    x[:, 3] = 300.0
    error = (quantised(x).dequantised() - x)[:, 4:].norm() / x[:, 4:].norm()
    usual = (plain - x)[:, 4:].norm() / x[:, 4:].norm()
    assert 0.02 < usual < 0.03 and error < 1.1 * usual


def test_what_is_not_finite_shows() -> None:
    x = torch.ones(3, 16)
    x[0, 5], x[1, 5] = torch.nan, torch.inf
    rows = quantised(x).dequantised()
    assert rows[0].isnan().any() and rows[1].isnan().any() and rows[2].eq(1).all()


def test_norm_and_gelu_come_first_and_in_float32() -> None:
    torch.manual_seed(1)
    x, weight, bias = torch.randn(6, 48) * 3, torch.randn(48), torch.randn(48)
    values = x.double()
    centred = values - values.mean(dim=-1, keepdim=True)
    normed = centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt() * weight + bias
    inner = (2 / torch.pi) ** 0.5 * (values + 0.044715 * values**3)
    gelu = values / 2 * (1 + torch.tanh(inner))
    for rows, exact in ((norm_quantised(x, weight, bias, 1e-6), normed), (gelu_quantised(x), gelu)):
        half_step = (exact.abs() / 16).clamp(min=rows.scale.double() * 2**-10)
        assert ((rows.dequantised() - exact).abs() <= 1.0001 * half_step).all()
        assert torch.allclose(rows.scale[:, 0].double() * 448, exact.abs().amax(dim=-1), rtol=1e-5)
