"""The Triton backend: any recent NVIDIA GPU, and CPU tensors in Triton's interpreter.

The interpreter is a matter of the process: set TRITON_INTERPRET=1 before anything imports triton. Products
that nothing else is done to are torch's.
"""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

from blip3v.ops.feed_forward.arguments import Arguments
from blip3v.ops.feed_forward.reference import weight_gradients
from blip3v.ops.registry import Answer

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
OLDEST = (8, 0)


class Tiles(NamedTuple):
    """What a program computes and how the compiler spreads it; starting values, not yet tuned on a GPU."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int


def tiles(dtype: torch.dtype) -> Tiles:
    """Such that the tiles fit the 99 KiB of shared memory that the smallest supported GPUs have."""
    return Tiles(64, 64, 32, 4, 2) if dtype == torch.float32 else Tiles(128, 128, 64, 8, 3)


@functools.cache
def _is_installed() -> bool:
    return find_spec("triton") is not None


@functools.cache
def _kernels() -> Any:
    """The module of kernels; triton is imported with it, when first needed."""
    from blip3v.ops.feed_forward import triton_kernels

    return triton_kernels


def _is_interpreted() -> bool:
    return type(_kernels().product_kernel).__name__ == "InterpretedFunction"


def can_run(*arguments: Tensor) -> Answer:
    z = Arguments(*arguments).z
    if not _is_installed():
        return Answer(False, "triton is not installed: it comes with a CUDA build of torch")
    if z.device.type == "cuda":
        if _is_interpreted():
            return Answer(False, "TRITON_INTERPRET is set, which is for CPU tensors: unset it")
        capability = torch.cuda.get_device_capability(z.device)
        if capability < OLDEST:
            return Answer(False, f"compute capability {capability}, need {OLDEST} or newer")
    elif z.device.type != "cpu" or not _is_interpreted():
        return Answer(False, f"the tensors are on {z.device}, need a CUDA device (or TRITON_INTERPRET=1)")
    if z.dtype not in DTYPES:
        return Answer(False, f"{z.dtype}, need float32, bfloat16 or float16")
    return Answer(True)


def forward(z: Tensor, w1: Tensor, w2: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
    """`Arguments` -> out [...,D] and h [...,J] in z's dtype."""
    dtype, kernels = z.dtype, _kernels()
    flat, w1, w2, rest = (_matrix(tensor, dtype) for tensor in (z, w1, w2, residual))
    a, h = _product(kernels.GELU, flat, w1.t(), None)
    out, _ = _product(kernels.RESIDUAL, a, w2.t(), rest)
    return out.to(dtype).view(z.shape), h.to(dtype).view(*z.shape[:-1], h.shape[-1])


def backward(dout: Tensor, z: Tensor, w1: Tensor, w2: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """-> dz, dw1, dw2, the last two in the dtypes of the weights."""
    dz, dh, a = input_backward(dout, w1, w2, h)
    return dz, *weight_gradients(dout.to(h.dtype), z, dh, a, w1, w2)


def input_backward(dout: Tensor, w1: Tensor, w2: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """-> dz [...,D], dh [...,J], a = gelu(h) [...,J] in h's dtype."""
    dtype = h.dtype
    slope, w2, flat = (_matrix(tensor, dtype) for tensor in (dout, w2, h))
    dh, a = (tensor.to(dtype) for tensor in _product(_kernels().DGELU, slope, w2, flat))
    dz = dh @ w1.to(dtype)
    return dz.view(*h.shape[:-1], dz.shape[-1]), dh.view(h.shape), a.view(h.shape)


def _matrix(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """[...,C] -> [R,C] in the dtype of the call, with contiguous channels."""
    matrix = tensor.to(dtype).reshape(-1, tensor.shape[-1])
    if _is_interpreted() and dtype == torch.bfloat16:
        matrix = (
            matrix.float()
        )  # the interpreter multiplies bfloat16 wrongly and truncates instead of rounding
    return matrix if matrix.stride(-1) == 1 else matrix.contiguous()


def _product(epilogue: Any, a: Tensor, b: Tensor, read: Tensor | None) -> tuple[Tensor, Tensor]:
    """a [R,K], b [K,C] -> what the epilogue makes of a b: `out` and `second`, [R,C] each."""
    (rows, depth), columns = a.shape, b.shape[1]
    out = torch.empty((rows, columns), dtype=a.dtype, device=a.device)
    second = out if epilogue == _kernels().RESIDUAL else torch.empty_like(out)  # RESIDUAL has only one
    if rows == 0:
        return out, second
    chosen = tiles(a.dtype)
    blocks = -(-rows // chosen.rows) * -(-columns // chosen.columns)
    read = a if read is None else read  # never read, but a kernel wants a pointer
    with _device(a):
        _kernels().product_kernel[(blocks,)](
            a, b, read, out, second, rows, columns, depth,
            *a.stride(), *b.stride(), read.stride(0),
            EPILOGUE=epilogue, BLOCK_M=chosen.rows, BLOCK_N=chosen.columns, BLOCK_K=chosen.depth,
            num_warps=chosen.warps, num_stages=chosen.stages,
        )  # fmt: skip
    return out, second


def _device(tensor: Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current device."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
