"""What the compiled kernels need and how they are called, the same for the GPU and for the simulator."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from blip3v.ops.native_backend import misfit
from blip3v.ops.registry import Answer
from blip3v.ops.tensor_description import describe
from blip3v.ops.ttm_read.arguments import Arguments

DTYPES = (torch.bfloat16, torch.float32)
CHANNELS = 8
"""Rows begin at multiples of 16 bytes where the width is a multiple of this."""


def accepts(module: Any, *tensors: Tensor | None) -> Answer:
    """Whether the kernels of `module` take these tensors; the first thing that they do not is the reason."""
    memory, frame, *_ = Arguments(*tensors)  # type: ignore[arg-type]
    return fits(module.ttm_read_widths, memory, {"memory": memory, "frame": frame})


def fits(widths: dict[int, int], memory: Tensor, views: dict[str, Tensor]) -> Answer:
    """What ttm_read and ttm_write ask alike; `widths`: memory slots -> most channels."""
    slots, width = memory.shape[2:]
    if memory.dtype not in DTYPES:
        return Answer(False, f"{memory.dtype}, need bfloat16 or float32")
    if slots not in widths:
        return Answer(False, f"{slots} memory slots, need one of {', '.join(map(str, widths))}")
    if width % CHANNELS or width > widths[slots]:
        return Answer(False, f"{width} channels, need a multiple of {CHANNELS} up to {widths[slots]}")
    for name, tensor in views.items():
        # One memory may stand for all videos.
        why = misfit(tensor[:1] if tensor.stride(0) == 0 else tensor)
        if why:
            return Answer(False, f"{name}: {why}")
    return Answer(True)


def forward(
    module: Any,
    stream: int,
    memory: Tensor,
    frame: Tensor,
    stamp: Tensor | None,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The five `Arguments` and eps -> group, normed [B,S,G+1,D]; mean, rstd [B,S,G+1] float32."""
    group, normed, mean, rstd = empty_group(memory)
    stamp = as_row(stamp, memory.dtype)
    tensors = (memory, frame, stamp, as_row(norm_weight), as_row(norm_bias), group, normed, mean, rstd)
    module.ttm_read_forward(*(describe(module, tensor) for tensor in tensors), eps, stream)
    return group, normed, mean, rstd


def backward(
    module: Any,
    stream: int,
    dgroup: Tensor,
    dnormed: Tensor,
    group: Tensor,
    norm_weight: Tensor,
    mean: Tensor,
    rstd: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """-> dmemory [B,S,G,D], dframe [B,S,D], dnorm_weight, dnorm_bias [D], each contiguous."""
    videos, positions, rows, width = group.shape
    dmemory = group.new_empty((videos, positions, rows - 1, width))
    dframe = group.new_empty((videos, positions, width))
    blocks = module.ttm_read_blocks(videos * positions)
    partial = group.new_empty((blocks, 2, width), dtype=torch.float32)
    given = (as_dense(dgroup), as_dense(dnormed), as_dense(group), as_row(norm_weight), mean, rstd)
    tensors = (*given, dmemory, dframe, partial)
    module.ttm_read_backward(*(describe(module, tensor) for tensor in tensors), stream)
    dweight, dbias = partial.sum(0).to(norm_weight.dtype).unbind()
    return dmemory, dframe, dweight.clone(), dbias.clone()


def empty_group(memory: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Memory for a group, its LayerNorm and that one's statistics."""
    videos, positions, slots, width = memory.shape
    shape = (videos, positions, slots + 1)
    group, normed = (memory.new_empty((*shape, width)) for _ in range(2))
    mean, rstd = (memory.new_empty(shape, dtype=torch.float32) for _ in range(2))
    return group, normed, mean, rstd


def as_row(parameter: Tensor | None, dtype: torch.dtype = torch.float32) -> Tensor | None:
    """A copy that the kernels can read, or the parameter itself, which is small."""
    return None if parameter is None else as_dense(parameter.detach().to(dtype))


def as_dense(tensor: Tensor) -> Tensor:
    """A copy with rows at multiples of 16 bytes and without gaps, or the tensor itself."""
    tensor = tensor.contiguous()
    return tensor.clone() if misfit(tensor) else tensor
