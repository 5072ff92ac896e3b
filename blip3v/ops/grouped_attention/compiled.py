"""What the compiled kernels need and how they are called, the same for the GPU and for the simulator."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from blip3v.ops.grouped_attention.arguments import Arguments
from blip3v.ops.registry import Answer
from blip3v.ops.tensor_description import describe

DTYPES = (torch.bfloat16, torch.float32)


def accepts(module: Any, *tensors: Tensor) -> Answer:
    """Whether the kernels of `module` take these tensors; the first thing that they do not is the reason."""
    x, qkv, *_ = Arguments(*tensors)
    if x.dtype not in DTYPES:
        return Answer(False, f"{x.dtype}, need bfloat16 or float32")
    head_dim, most = qkv.shape[-1], module.grouped_attention_most_head_dim
    if head_dim % 2 or head_dim > most:
        return Answer(False, f"{head_dim} channels per head, need an even number of at most {most}")
    if x.shape[-1] > module.grouped_attention_most_width:
        return Answer(False, f"{x.shape[-1]} channels, need at most {module.grouped_attention_most_width}")
    for name, tensor in (("x", x), ("qkv", qkv)):
        why = misfit(tensor)
        if why:
            return Answer(False, f"{name}: {why}")
    return Answer(True)


def misfit(tensor: Tensor) -> str:
    """What the kernels cannot take about the layout of [R,n,...], or nothing: the channels of a token must
    lie side by side, and channels are read two at a time."""
    inner = 1
    for axis in range(tensor.ndim - 1, 1, -1):
        if tensor.shape[axis] > 1 and tensor.stride(axis) != inner:
            return f"stride {tensor.stride(axis)} of axis {axis}, need {inner}"
        inner *= tensor.shape[axis]
    # Memory that torch allocates is aligned; so the offset in it says enough, and a fake tensor has one too.
    if tensor.storage_offset() % 2:
        return f"it starts {tensor.storage_offset()} elements into its memory, need an even number"
    for axis in (0, 1):
        if tensor.shape[axis] > 1 and tensor.stride(axis) % 2:
            return f"stride {tensor.stride(axis)} of axis {axis}, need an even number"
    return ""


def forward(
    module: Any, stream: int, x: Tensor, qkv: Tensor, norm_weight: Tensor, norm_bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four `Arguments` and eps -> y, z [R,n,D]; mean, rstd [R,n] float32."""
    y, z = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for _ in range(2))
    mean, rstd = (torch.empty(x.shape[:2], dtype=torch.float32, device=x.device) for _ in range(2))
    if x.numel():
        tensors = (x, qkv, _precise(norm_weight), _precise(norm_bias), y, z, mean, rstd)
        module.grouped_attention_forward(*(describe(module, tensor) for tensor in tensors), eps, stream)
    return y, z, mean, rstd


def backward(
    module: Any,
    stream: int,
    dy: Tensor,
    dz: Tensor,
    qkv: Tensor,
    norm_weight: Tensor,
    y: Tensor,
    mean: Tensor,
    rstd: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """-> dx [R,n,D], dqkv [R,n,3,H,d], dnorm_weight [D], dnorm_bias [D]."""
    dy, dz = (tensor.contiguous() if misfit(tensor) else tensor for tensor in (dy, dz))
    groups, tokens, width = y.shape
    heads, head_dim = qkv.shape[3:]
    dx = torch.empty(y.shape, dtype=y.dtype, device=y.device)
    dqkv = torch.empty(qkv.shape, dtype=qkv.dtype, device=qkv.device)
    if not groups:
        return dx, dqkv, torch.zeros_like(norm_weight), torch.zeros_like(norm_weight)
    blocks = min(groups, module.grouped_attention_backward_blocks())
    partials = torch.empty((blocks, 2, width), dtype=torch.float32, device=y.device)
    row_sums = None
    if not module.grouped_attention_holds_group(tokens, heads, head_dim):
        row_sums = torch.empty((2, groups, heads, tokens), dtype=torch.float32, device=y.device)
    tensors = (dy, dz, qkv, _precise(norm_weight), y, mean, rstd, dx, dqkv, partials, row_sums)
    module.grouped_attention_backward(*(describe(module, tensor) for tensor in tensors), stream)
    dnorm_weight, dnorm_bias = partials.sum(0).to(norm_weight.dtype).unbind()
    return dx, dqkv, dnorm_weight.clone(), dnorm_bias.clone()


def _precise(parameter: Tensor) -> Tensor:
    """A copy of a LayerNorm's parameter that the kernels can read, or the parameter itself."""
    parameter = parameter.detach().to(torch.float32).contiguous()
    return parameter.clone() if parameter.storage_offset() % 2 else parameter
