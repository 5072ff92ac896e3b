"""Rows of e4m3 behind LayerNorm, GELU or nothing: the fused kernel on a GPU, the formulas elsewhere.

Inside torch.compile the formulas run, because Inductor fuses them by itself.
"""

from __future__ import annotations

import functools
from contextlib import nullcontext
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from blip3v.errors import UserError
from blip3v.models.fp8 import rows
from blip3v.models.fp8.rows import E4M3, Rows


def quantised(x: Tensor) -> Rows:
    """x [R,C] -> its rows; see `rows.quantised`."""
    return launch("NOTHING", x) if _is_fused(x) else rows.quantised(x)


def norm_quantised(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Rows:
    """x [R,C] -> rows of its LayerNorm; see `rows.norm_quantised`."""
    if _is_fused(x):
        return launch("LAYER_NORM", x, weight, bias, epsilon)
    return rows.norm_quantised(x, weight, bias, epsilon)


def gelu_quantised(x: Tensor) -> Rows:
    """x [R,C] -> rows of its GELU; see `rows.gelu_quantised`."""
    return launch("GELU", x) if _is_fused(x) else rows.gelu_quantised(x)


def launch(
    before: str, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, epsilon: float = 0.0
) -> Rows:
    """The kernel on x [R,C] with contiguous channels.

    Args:
        before: NOTHING, LAYER_NORM (with weight and bias [C]) or GELU.
    """
    kernels = _kernels()
    matrix = x if x.stride(-1) == 1 else x.contiguous()
    count, columns = matrix.shape
    # The interpreter rounds to e4m3 wrongly (no carry, truncated subnormals); there the cast is torch's.
    kind = E4M3 if x.is_cuda else torch.float32
    values = torch.empty((count, columns), dtype=kind, device=x.device)
    scale = torch.empty((count, 1), dtype=torch.float32, device=x.device)
    head, tail = split(columns)
    if count:
        # Triton launches on the current device.
        with torch.cuda.device(x.device) if x.is_cuda else nullcontext():
            kernels.rows_kernel[(count,)](
                matrix, weight if weight is not None else matrix, bias if bias is not None else matrix,
                values, scale, columns, matrix.stride(0), epsilon,
                BEFORE=getattr(kernels, before), HEAD=head, TAIL=tail, num_warps=8 if head >= 4096 else 4,
            )  # fmt: skip
    return Rows(values.to(E4M3), scale)


def split(columns: int) -> tuple[int, int]:
    """(HEAD, TAIL): powers of two, HEAD <= columns <= HEAD + TAIL."""
    head = 1 << columns.bit_length() - 1
    return head, max(16, 1 << (columns - head - 1).bit_length() if columns > head else 0)


def _is_fused(x: Tensor) -> bool:
    return x.is_cuda and not torch.compiler.is_compiling()


@functools.cache
def _kernels() -> Any:
    """The module of kernels; triton is imported with it, when first needed.

    Raises:
        UserError: there is no triton.
    """
    if find_spec("triton") is None:
        raise UserError(
            "FP8 needs triton on a GPU, which comes with a CUDA build of torch: install one, or leave FP8 off"
        )
    from blip3v.models.fp8 import triton_kernels

    return triton_kernels
