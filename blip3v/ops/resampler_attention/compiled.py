"""What the compiled kernels need and how they are called, the same for the GPU and for the simulator."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from blip3v.ops.registry import Answer
from blip3v.ops.resampler_attention.arguments import NAMES, Arguments
from blip3v.ops.tensor_description import describe

MOST_QUERIES = 128
"""One block holds all queries of a (frame, head)."""

ALIGNMENT = 16
"""Bytes: what the tensor memory accelerator asks of addresses and strides."""

CHOSEN_BY_LAUNCHER = 0


def accepts(module: Any, arguments: Arguments) -> Answer:
    """Whether the kernels of `module` take these tensors; the first thing that they do not is the reason."""
    q = arguments.q
    if q.dtype != torch.bfloat16:
        return Answer(False, f"{q.dtype}, need bfloat16")
    if not hasattr(module, "resampler_attention_forward"):
        return Answer(False, f"{module.__name__} was built without the kernels of resampler_attention")
    dims = module.resampler_attention_head_dims
    if q.shape[-1] not in dims:
        return Answer(False, f"{q.shape[-1]} channels per head, need one of {', '.join(map(str, dims))}")
    if q.shape[1] > MOST_QUERIES:
        return Answer(False, f"{q.shape[1]} queries, need at most {MOST_QUERIES}")
    for name, tensor in zip(NAMES, arguments.floating):
        misfit = _misfit(tensor)
        if misfit:
            return Answer(False, f"{name}: {misfit}")
    return Answer(True)


def _misfit(tensor: Tensor) -> str:
    """What is wrong with the layout, or nothing. Strides along an axis of one do not matter."""
    if tensor.numel() == 0:
        return ""
    if tensor.stride(-1) != 1:
        return f"its channels are {tensor.stride(-1)} elements apart, need 1"
    size = tensor.element_size()
    # Memory that torch allocates is aligned; so the offset in it says enough, and a fake tensor has one too.
    offset = tensor.storage_offset() * size
    if offset % ALIGNMENT:
        return f"it starts {offset} bytes into its memory, need a multiple of {ALIGNMENT}"
    for axis, stride in enumerate(tensor.stride()[:-1]):
        if tensor.shape[axis] > 1 and (stride * size % ALIGNMENT or stride <= 0):
            return f"stride {stride} of axis {axis}, need a positive multiple of {ALIGNMENT} bytes"
    return ""


def forward(
    module: Any, arguments: Arguments, scale: float, stream: int, splits: int = CHOSEN_BY_LAUNCHER
) -> tuple[Tensor, Tensor]:
    """-> out [F,Q,H,d] bfloat16, lse [F,H,Q] float32. splits: blocks that share a (frame, head), 1 to 8."""
    q = arguments.q
    frames, queries, heads, _ = q.shape
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty((frames, heads, queries), dtype=torch.float32, device=q.device)
    tensors = (*_with_whole_masks(arguments), out, lse)  # the name keeps copied masks alive until the launch
    described = [describe(module, tensor) for tensor in tensors]
    module.resampler_attention_forward(*described, scale, splits, stream)
    return out, lse


def backward(
    module: Any,
    dout: Tensor,
    arguments: Arguments,
    out: Tensor,
    lse: Tensor,
    scale: float,
    stream: int,
    splits: int = CHOSEN_BY_LAUNCHER,
) -> tuple[Tensor, ...]:
    """-> dq, dk_media, dv_media, dk_latents, dv_latents, contiguous."""
    if _misfit(dout):
        dout = dout.contiguous()
    gradients = tuple(torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in arguments.floating)
    tensors = (*_with_whole_masks(arguments), out, lse, dout, *gradients)
    described = [describe(module, tensor) for tensor in tensors]
    module.resampler_attention_backward(*described, scale, splits, stream)
    return gradients


def _with_whole_masks(arguments: Arguments) -> Arguments:
    """The masks are small: a strided one is copied rather than refused."""
    lengths, keep = (None if mask is None else mask.contiguous() for mask in arguments[5:])
    return arguments._replace(lengths=lengths, keep=keep)
