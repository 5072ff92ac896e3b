"""The Triton backend: any recent NVIDIA GPU, and CPU tensors in Triton's interpreter.

The interpreter is a matter of the process: set TRITON_INTERPRET=1 before anything imports triton.
"""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from blip3v.ops.grouped_attention.arguments import Arguments
from blip3v.ops.grouped_attention.compiled import misfit
from blip3v.ops.registry import Answer

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LARGEST_DIM = 256
LARGEST_WIDTH = 16384
OLDEST = (8, 0)

NORM_PROGRAMS = 512
"""At most so many programs of the LayerNorm's backward, each with one row of partial sums: a few per
multiprocessor."""


@functools.cache
def _is_installed() -> bool:
    return find_spec("triton") is not None


@functools.cache
def _kernels() -> Any:
    """The module of kernels; triton is imported with it, when first needed."""
    from blip3v.ops.grouped_attention import triton_kernels

    return triton_kernels


def _is_interpreted() -> bool:
    return type(_kernels().attention_kernel).__name__ == "InterpretedFunction"


def can_run(*arguments: Tensor) -> Answer:
    x, qkv, *_ = Arguments(*arguments)
    if not _is_installed():
        return Answer(False, "triton is not installed: it comes with a CUDA build of torch")
    if x.device.type == "cuda":
        if _is_interpreted():
            return Answer(False, "TRITON_INTERPRET is set, which is for CPU tensors: unset it")
        capability = torch.cuda.get_device_capability(x.device)
        if capability < OLDEST:
            return Answer(False, f"compute capability {capability}, need {OLDEST} or newer")
    elif x.device.type != "cpu" or not _is_interpreted():
        return Answer(False, f"the tensors are on {x.device}, need a CUDA device (or TRITON_INTERPRET=1)")
    if x.dtype not in DTYPES:
        return Answer(False, f"{x.dtype}, need float32, bfloat16 or float16")
    if qkv.shape[-1] > LARGEST_DIM:
        return Answer(False, f"{qkv.shape[-1]} channels per head, need at most {LARGEST_DIM}")
    if x.shape[-1] > LARGEST_WIDTH:
        return Answer(False, f"{x.shape[-1]} channels, need at most {LARGEST_WIDTH}")
    return Answer(True)


def forward(
    x: Tensor, qkv: Tensor, norm_weight: Tensor, norm_bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four `Arguments` and eps -> y, z [R,n,D]; mean, rstd [R,n] float32."""
    dtype = x.dtype
    groups, tokens, width = x.shape
    heads, dim = qkv.shape[3:]
    x, qkv = _readable(x), _readable(qkv)
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    mean, rstd = (torch.empty((groups, tokens), dtype=torch.float32, device=x.device) for _ in range(2))
    if groups:
        with _device(x):
            _kernels().attention_kernel[groups * heads,](
                *(x, qkv, y, dim**-0.5, tokens, heads, dim),
                *(*x.stride()[:2], *qkv.stride()[:2]),
                **blocks(tokens, dim),
            )
            # In the interpreter y was made in float32; the LayerNorm is of what the caller gets.
            y = y.to(dtype)
            rows = _readable(y)
            z = torch.empty_like(rows)
            _kernels().norm_kernel[groups * tokens,](
                *(rows, norm_weight.contiguous(), norm_bias.contiguous(), z, mean, rstd, width, eps),
                **columns(width),
            )
        return y, z.to(dtype), mean, rstd
    return y.to(dtype), torch.empty(x.shape, dtype=dtype, device=x.device), mean, rstd


def backward(
    dy: Tensor, dz: Tensor, qkv: Tensor, norm_weight: Tensor, y: Tensor, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """-> dx [R,n,D], dqkv [R,n,3,H,d], dnorm_weight [D], dnorm_bias [D]."""
    dtype = y.dtype
    groups, tokens, width = y.shape
    heads, dim = qkv.shape[3:]
    rows = groups * tokens
    dy, dz, y, qkv = (_readable(tensor) for tensor in (dy.contiguous(), dz.contiguous(), y, qkv))
    dx = torch.empty(y.shape, dtype=y.dtype, device=y.device)
    dqkv = torch.empty(qkv.shape, dtype=qkv.dtype, device=qkv.device)
    # A power of two: the number is compiled in.
    rows_of_program = 1 << max(0, -(-rows // NORM_PROGRAMS) - 1).bit_length()
    programs = -(-rows // rows_of_program)
    partials = torch.empty((programs, 2, width), dtype=torch.float32, device=y.device)
    if groups:
        with _device(y):
            _kernels().norm_backward_kernel[programs,](
                *(dy, dz, norm_weight.contiguous(), y, mean, rstd, dx, partials, rows, width),
                ROWS=rows_of_program,
                **columns(width),
            )
            _kernels().attention_backward_kernel[groups * heads,](
                *(qkv, dx, dqkv, dim**-0.5, tokens, heads, dim, *qkv.stride()[:2]), **blocks(tokens, dim)
            )
    dnorm_weight, dnorm_bias = partials.sum(0).to(norm_weight.dtype).unbind()
    return dx.to(dtype), dqkv.to(dtype), dnorm_weight.clone(), dnorm_bias.clone()


def _readable(tensor: Tensor) -> Tensor:
    """What the kernels can address, and in the interpreter compute with: it multiplies bfloat16 wrongly and
    truncates instead of rounding to it."""
    if _is_interpreted() and tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    return tensor.contiguous() if misfit(tensor) else tensor


def blocks(tokens: int, dim: int) -> dict[str, int]:
    """Tiles are powers of two, and matrix products want 16. At most 64 channels at a time, so that tiles of
    64 tokens in float32 fit in shared memory. Starting values, not tuned on a GPU yet."""
    block_n, block_d = (max(16, 1 << (size - 1).bit_length()) for size in (tokens, min(dim, 64)))
    chunks = -(-dim // block_d)
    return {"BLOCK_N": block_n, "BLOCK_D": block_d, "CHUNKS": chunks, "num_warps": 4 if block_n > 16 else 1}


def columns(width: int) -> dict[str, int]:
    block = max(16, 1 << (width - 1).bit_length())
    return {"BLOCK": block, "num_warps": min(16, max(1, block // 512))}


def _device(x: Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current device."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()
