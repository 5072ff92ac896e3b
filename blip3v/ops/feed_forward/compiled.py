"""What the compiled kernels need and how they are called, the same for the GPU and for the simulator.

The kernels are the products with something on their way out: GELU, the residual, GELU's derivative. Products
without are torch's, that is cuBLAS's on a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from blip3v.ops.feed_forward.arguments import Arguments
from blip3v.ops.feed_forward.reference import weight_gradients
from blip3v.ops.native_backend import misfit
from blip3v.ops.registry import Answer
from blip3v.ops.tensor_description import describe

CHANNELS = 8
"""Widths are multiples of it: 16 bytes, what TMA moves at least."""


def accepts(module: Any, *tensors: Tensor) -> Answer:
    """Whether the kernels of `module` take these tensors; the first thing that they do not is the reason.

    Layouts are no reason: what the kernels cannot read as it lies is copied.
    """
    z, w1, *_ = Arguments(*tensors)
    if z.dtype != torch.bfloat16:
        return Answer(False, f"{z.dtype}, need bfloat16")
    for what, width in (("channels", z.shape[-1]), ("hidden channels", w1.shape[0])):
        if width % CHANNELS:
            return Answer(False, f"{width} {what}, need a multiple of {CHANNELS}")
    return Answer(True)


def forward(
    module: Any, stream: int, z: Tensor, w1: Tensor, w2: Tensor, residual: Tensor
) -> tuple[Tensor, Tensor]:
    """`Arguments` -> out [...,D] and h [...,J], bfloat16."""
    rows = z.numel() // z.shape[-1]
    h, a = _empty(z, rows, w1.shape[0]), _empty(z, rows, w1.shape[0])
    out = _empty(z, rows, z.shape[-1])
    if rows:
        # Copies live until the launch because of their names.
        tensors = [*map(_matrix, (z, w1, w2, residual)), h, a, out]
        module.feed_forward_forward(*(describe(module, tensor) for tensor in tensors), stream)
    return out.view(z.shape), h.view(*z.shape[:-1], w1.shape[0])


def backward(
    module: Any, stream: int, dout: Tensor, z: Tensor, w1: Tensor, w2: Tensor, h: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """-> dz, dw1, dw2, the last two in the dtypes of the weights."""
    dz, dh, a = input_backward(module, stream, dout, w1, w2, h)
    return dz, *weight_gradients(dout.to(h.dtype), z, dh, a, w1, w2)


def input_backward(
    module: Any, stream: int, dout: Tensor, w1: Tensor, w2: Tensor, h: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """-> dz [...,D], dh [...,J], a = gelu(h) [...,J], bfloat16."""
    rows = h.numel() // h.shape[-1]
    dh, a = _empty(h, rows, h.shape[-1]), _empty(h, rows, h.shape[-1])
    if rows:
        tensors = [*map(_matrix, (dout, w2, h)), dh, a]
        module.feed_forward_backward(*(describe(module, tensor) for tensor in tensors), stream)
    dz = dh @ w1.to(h.dtype)
    return dz.view(*h.shape[:-1], dz.shape[-1]), dh.view(h.shape), a.view(h.shape)


def _empty(like: Tensor, rows: int, columns: int) -> Tensor:
    return torch.empty((rows, columns), dtype=like.dtype, device=like.device)


def _matrix(tensor: Tensor) -> Tensor:
    """[...,C] -> [R,C] in bfloat16, as it lies where that suits the kernels."""
    matrix = tensor.to(torch.bfloat16).reshape(-1, tensor.shape[-1])
    return matrix.clone(memory_format=torch.contiguous_format) if misfit(matrix) else matrix
