"""A linear layer whose weight is kept in e4m3, one scale an output."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from blip3v.errors import UserError
from blip3v.models.fp8.rows import Rows, quantised

MULTIPLE = 16
"""What torch._scaled_mm asks inputs and outputs to divide by; SigLIP's 1152, 3456 and 4304 do."""

OLDEST = (8, 9)
"""The first compute capability with FP8 tensor cores."""

FAST_ACCUMULATION = True
"""Hopper's FP8 units keep about 14 bits of a sum; promoting partial sums to float32 costs speed. What it
loses over 4304 terms is far below what rounding to 4 significant bits did before. Not measured here."""


class Fp8Linear(nn.Module):
    """rows [R,inputs] -> rows W^T + b, [R,outputs] in `dtype`.

    values [outputs,inputs] e4m3 and scale [1,outputs] float32 stand for the weight, rounded when made; bias
    [outputs] is in `dtype`. No parameters: nothing here is ever trained, and no gradient flows.

    On a GPU the product is torch._scaled_mm with row-wise scales, which takes the left matrix by rows and the
    right one by columns, so W as it is stored. Elsewhere the same e4m3 numbers are multiplied in float32.

    Args:
        linears: one or several with the same inputs, whose outputs come one behind the other.
        dtype: of the result; a GPU has bfloat16 here.
        device: where to keep the rounded weight; the original may lie anywhere.

    Raises:
        UserError: inputs or outputs that FP8 products do not take.
    """

    values: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(
        self, linears: Sequence[nn.Linear], dtype: torch.dtype, device: torch.device | str | None = None
    ) -> None:
        super().__init__()
        weight = torch.cat([linear.weight.detach().to(device) for linear in linears])
        if weight.shape[0] % MULTIPLE or weight.shape[1] % MULTIPLE:
            raise UserError(
                f"FP8 products need widths that divide by {MULTIPLE}, a vision layer has "
                f"{weight.shape[1]} -> {weight.shape[0]}: leave vision_fp8 off"
            )
        rounded = quantised(weight)
        biases = [
            linear.bias if linear.bias is not None else weight.new_zeros(len(linear.weight))
            for linear in linears
        ]
        self.register_buffer("values", rounded.values)
        self.register_buffer("scale", rounded.scale.t().contiguous())
        self.register_buffer("bias", torch.cat([b.detach().to(device=device, dtype=dtype) for b in biases]))

    def forward(self, rows: Rows) -> Tensor:
        if rows.values.is_cuda:
            out: Tensor = torch._scaled_mm(
                rows.values,
                self.values.t(),
                scale_a=rows.scale,
                scale_b=self.scale,
                bias=self.bias,
                out_dtype=self.bias.dtype,
                use_fast_accum=FAST_ACCUMULATION,
            )
            return out
        return emulated_product(rows, self.values, self.scale, self.bias)


def emulated_product(rows: Rows, values: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """What a GPU computes, with sums in float32: products of two e4m3 numbers are exact there."""
    total = rows.values.float() @ values.float().t()
    return (total * rows.scale * scale + bias.float()).to(bias.dtype)
