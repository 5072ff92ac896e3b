"""What the compiled kernels need and how they are called, the same for the GPU and for the simulator."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from blip3v.ops.native_backend import misfit
from blip3v.ops.registry import Answer
from blip3v.ops.resampler_attention.arguments import NAMES, Arguments
from blip3v.ops.tensor_description import describe

MOST_QUERIES = 128
"""One block holds all queries of a (frame, head)."""

SPLITS = 0
"""Blocks that share a (frame, head), 1 to 8; 0 leaves it to the launcher."""


def accepts(module: Any, *tensors: Tensor | None) -> Answer:
    """Whether the kernels of `module` take these tensors; the first thing that they do not is the reason."""
    arguments = Arguments(*tensors)  # type: ignore[arg-type]
    q = arguments.q
    if q.dtype != torch.bfloat16:
        return Answer(False, f"{q.dtype}, need bfloat16")
    dims = module.resampler_attention_head_dims
    if q.shape[-1] not in dims:
        return Answer(False, f"{q.shape[-1]} channels per head, need one of {', '.join(map(str, dims))}")
    if q.shape[1] > MOST_QUERIES:
        return Answer(False, f"{q.shape[1]} queries, need at most {MOST_QUERIES}")
    for name, tensor in zip(NAMES, arguments.floating):
        why = misfit(tensor)
        if why:
            return Answer(False, f"{name}: {why}")
    return Answer(True)


def forward(module: Any, stream: int, *tensors_and_scale: Any) -> tuple[Tensor, Tensor]:
    """The seven `Arguments` and the scale -> out [F,Q,H,d] bfloat16, lse [F,H,Q] float32."""
    *inputs, scale = tensors_and_scale
    arguments = Arguments(*inputs)
    q = arguments.q
    frames, queries, heads, _ = q.shape
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty((frames, heads, queries), dtype=torch.float32, device=q.device)
    tensors = (*_with_whole_masks(arguments), out, lse)  # the name keeps copied masks alive until the launch
    described = [describe(module, tensor) for tensor in tensors]
    module.resampler_attention_forward(*described, scale, SPLITS, stream)
    return out, lse


def backward(module: Any, stream: int, dout: Tensor, *tensors_and_rest: Any) -> tuple[Tensor, ...]:
    """dout, the seven `Arguments`, out, lse, scale -> the five gradients, contiguous."""
    *inputs, out, lse, scale = tensors_and_rest
    arguments = Arguments(*inputs)
    if misfit(dout):
        dout = dout.contiguous()
    gradients = tuple(torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in arguments.floating)
    tensors = (*_with_whole_masks(arguments), out, lse, dout, *gradients)
    described = [describe(module, tensor) for tensor in tensors]
    module.resampler_attention_backward(*described, scale, SPLITS, stream)
    return gradients


def _with_whole_masks(arguments: Arguments) -> Arguments:
    """The masks are small: a strided one is copied rather than refused."""
    lengths, keep = (None if mask is None else mask.contiguous() for mask in arguments[5:])
    return arguments._replace(lengths=lengths, keep=keep)
