"""A matrix as e4m3 numbers with one scale a row, and what may come before the rounding.

e4m3 has 3 bits of mantissa and reaches from 2^-9 to 448. A row is scaled so that its largest magnitude
becomes 448; then everything down to 1 / 28672 of that is a normal number, off by 1/16 of itself at most. So a
few channels that are a hundred times larger than the others cost the others nothing, which is why rows, and
no coarser blocks, suffice for a vision transformer.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

E4M3 = torch.float8_e4m3fn
LARGEST = 448.0
"""Of e4m3."""

SMALLEST_ROW = 1e-12
"""A row whose magnitudes are all below this is scaled as if one were this, so that zeros stay zeros."""


class Rows(NamedTuple):
    """values [R,C] e4m3, scale [R,1] float32: row r stands for values[r] * scale[r]."""

    values: Tensor
    scale: Tensor

    def dequantised(self) -> Tensor:
        """[R,C] float32."""
        return self.values.float() * self.scale


def quantised(x: Tensor) -> Rows:
    """x [R,C] of any float dtype -> the nearest rows. A row with NaN or an infinity has NaN."""
    x = x.float()
    largest = x.abs().amax(dim=-1, keepdim=True).clamp(min=SMALLEST_ROW)
    return Rows((x * (LARGEST / largest)).to(E4M3), largest / LARGEST)


def norm_quantised(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Rows:
    """LayerNorm of x [R,C] in float32, then `quantised`: not rounded to x's dtype in between."""
    return quantised(F.layer_norm(x.float(), x.shape[-1:], weight.float(), bias.float(), epsilon))


def gelu_quantised(x: Tensor) -> Rows:
    """GELU of x [R,C] in its tanh form, which is SigLIP's, in float32; then `quantised`."""
    return quantised(F.gelu(x.float(), approximate="tanh"))
