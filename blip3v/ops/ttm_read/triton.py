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

from blip3v.ops.registry import Answer
from blip3v.ops.ttm_read.arguments import Arguments

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LARGEST_WIDTH = 8192
"""A program holds whole rows in registers."""

OLDEST = (8, 0)
PROGRAMS = 256
"""Of the backward, at most: so many rows of partial sums, whatever the GPU."""


@functools.cache
def _is_installed() -> bool:
    return find_spec("triton") is not None


@functools.cache
def _kernels() -> Any:
    """The module of kernels; triton is imported with it, when first needed."""
    from blip3v.ops.ttm_read import triton_kernels

    return triton_kernels


def _is_interpreted() -> bool:
    return type(_kernels().forward_kernel).__name__ == "InterpretedFunction"


def can_run(*arguments: Tensor | None) -> Answer:
    memory, frame, *_ = Arguments(*arguments)  # type: ignore[arg-type]
    if not _is_installed():
        return Answer(False, "triton is not installed: it comes with a CUDA build of torch")
    if memory.device.type == "cuda":
        if _is_interpreted():
            return Answer(False, "TRITON_INTERPRET is set, which is for CPU tensors: unset it")
        capability = torch.cuda.get_device_capability(memory.device)
        if capability < OLDEST:
            return Answer(False, f"compute capability {capability}, need {OLDEST} or newer")
    elif memory.device.type != "cpu" or not _is_interpreted():
        return Answer(
            False, f"the tensors are on {memory.device}, need a CUDA device (or TRITON_INTERPRET=1)"
        )
    if memory.dtype not in DTYPES:
        return Answer(False, f"{memory.dtype}, need float32, bfloat16 or float16")
    if memory.shape[-1] > LARGEST_WIDTH:
        return Answer(False, f"{memory.shape[-1]} channels, need at most {LARGEST_WIDTH}")
    for name, tensor in (("memory", memory), ("frame", frame)):
        if tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
            return Answer(False, f"the channels of {name} are {tensor.stride(-1)} elements apart, need 1")
    return Answer(True)


def forward(
    memory: Tensor, frame: Tensor, stamp: Tensor | None, norm_weight: Tensor, norm_bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The five `Arguments` and eps -> group, normed [B,S,G+1,D]; mean, rstd [B,S,G+1] float32."""
    videos, positions, slots, width = memory.shape
    shape = (videos, positions, slots + 1)
    group, normed = (memory.new_empty((*shape, width), dtype=_computed(memory)) for _ in range(2))
    mean, rstd = (memory.new_empty(shape, dtype=torch.float32) for _ in range(2))
    # A stamp that is not there is never read, but a kernel wants a pointer.
    given = norm_weight if stamp is None else stamp.to(memory.dtype).contiguous()
    if _is_interpreted() and stamp is not None:
        frame, stamp = frame + given, None  # rounded by torch
    with _device(memory):
        _kernels().forward_kernel[videos * positions * (slots + 1),](
            *(memory, frame, given, norm_weight.contiguous(), norm_bias.contiguous()),
            *(group, normed, mean, rstd, positions, slots, width, eps),
            *(*memory.stride()[:3], *frame.stride()[:2]),
            HAS_STAMP=stamp is not None,
            BLOCK_D=_padded(width),
            num_warps=_warps(width),
        )
    return group.to(memory.dtype), normed.to(memory.dtype), mean, rstd


def backward(
    dgroup: Tensor, dnormed: Tensor, group: Tensor, norm_weight: Tensor, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """-> dmemory [B,S,G,D], dframe [B,S,D], dnorm_weight, dnorm_bias [D], each contiguous."""
    videos, positions, rows, width = group.shape
    dmemory = group.new_empty((videos, positions, rows - 1, width), dtype=_computed(group))
    dframe = group.new_empty((videos, positions, width), dtype=_computed(group))
    programs = min(PROGRAMS, videos * positions * rows)
    partial = group.new_empty((programs, 2, width), dtype=torch.float32)
    with _device(group):
        _kernels().backward_kernel[programs,](
            *(dgroup.contiguous(), dnormed.contiguous(), group.contiguous(), norm_weight.contiguous()),
            *(mean, rstd, dmemory, dframe, partial, videos * positions * rows, rows - 1, width),
            BLOCK_D=_padded(width),
            num_warps=_warps(width),
        )
    dweight, dbias = partial.sum(0).to(norm_weight.dtype).unbind()
    return dmemory.to(group.dtype), dframe.to(group.dtype), dweight.clone(), dbias.clone()


def _computed(tensor: Tensor) -> torch.dtype:
    """Of results: the interpreter truncates instead of rounding to bfloat16, so torch rounds there."""
    return torch.float32 if _is_interpreted() and tensor.dtype == torch.bfloat16 else tensor.dtype


def _padded(width: int) -> int:
    """Triton's tiles are powers of two."""
    return max(16, 1 << (width - 1).bit_length())


def _warps(width: int) -> int:
    return 4 if _padded(width) <= 2048 else 8


def _device(tensor: Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current device."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
