"""The Triton backend: any recent NVIDIA GPU, and CPU tensors in Triton's interpreter.

The interpreter is a matter of the process: set TRITON_INTERPRET=1 before anything imports triton.
"""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

from blip3v.ops.registry import Answer
from blip3v.ops.resampler_attention.arguments import NAMES, Arguments

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LARGEST_DIM = 256
OLDEST = (8, 0)


class Tiles(NamedTuple):
    """Rows of a tile and how the compiler spreads it; starting values, not yet tuned on a GPU."""

    queries: int
    keys: int
    warps: int
    stages: int


def tiles(dtype: torch.dtype, padded_dim: int, backward: bool) -> Tiles:
    """Such that the tiles fit the 99 KiB of shared memory that the smallest supported GPUs have."""
    if dtype == torch.float32:
        return Tiles(16, 32, 4, 1) if padded_dim > 128 else Tiles(32, 32, 4, 1)
    if padded_dim > 128:
        return Tiles(32, 32, 8, 1) if backward else Tiles(64, 32, 8, 2)
    return Tiles(64, 64, 8, 1) if backward else Tiles(64, 64, 4, 2)


def padded(dim: int) -> int:
    """Columns of a tile: Triton's tiles are powers of two, and its matrix products want 16."""
    return max(16, 1 << (dim - 1).bit_length())


@functools.cache
def _is_installed() -> bool:
    return find_spec("triton") is not None


@functools.cache
def _kernels() -> Any:
    """The module of kernels; triton is imported with it, when first needed."""
    from blip3v.ops.resampler_attention import triton_kernels

    return triton_kernels


def _is_interpreted() -> bool:
    return type(_kernels().forward_kernel).__name__ == "InterpretedFunction"


def can_run(*arguments: Tensor | None) -> Answer:
    q, *_ = floating = Arguments(*arguments).floating  # type: ignore[arg-type]
    if not _is_installed():
        return Answer(False, "triton is not installed: it comes with a CUDA build of torch")
    if q.device.type == "cuda":
        if _is_interpreted():
            return Answer(False, "TRITON_INTERPRET is set, which is for CPU tensors: unset it")
        capability = torch.cuda.get_device_capability(q.device)
        if capability < OLDEST:
            return Answer(False, f"compute capability {capability}, need {OLDEST} or newer")
    elif q.device.type != "cpu" or not _is_interpreted():
        return Answer(False, f"the tensors are on {q.device}, need a CUDA device (or TRITON_INTERPRET=1)")
    if q.dtype not in DTYPES:
        return Answer(False, f"{q.dtype}, need float32, bfloat16 or float16")
    if q.shape[-1] > LARGEST_DIM:
        return Answer(False, f"{q.shape[-1]} channels per head, need at most {LARGEST_DIM}")
    for name, tensor in zip(NAMES, floating):
        if tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
            return Answer(False, f"the channels of {name} are {tensor.stride(-1)} elements apart, need 1")
    return Answer(True)


def forward(*inputs_and_scale: Any) -> tuple[Tensor, Tensor]:
    """The seven `Arguments` and the scale -> out [F,Q,H,d], lse [F,H,Q] float32."""
    *inputs, scale = inputs_and_scale
    call = _Call.prepare(Arguments(*inputs), backward=False)
    q = call.tensors.q
    frames, queries, heads, _ = q.shape
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty((frames, heads, queries), dtype=torch.float32, device=q.device)
    with _device(q):
        _kernels().forward_kernel[frames * heads, _blocks(queries, call.tiles.queries)](
            *call.tensors, out, lse, scale, *call.sizes, *call.strides, **call.options
        )
    return out.to(inputs[0].dtype), lse


def backward(dout: Tensor, *inputs_and_rest: Any) -> tuple[Tensor, ...]:
    """dout, the seven `Arguments`, out, lse, scale -> dq, dk_media, dv_media, dk_latents, dv_latents."""
    *inputs, out, lse, scale = inputs_and_rest
    call = _Call.prepare(Arguments(*inputs), backward=True)
    q = call.tensors.q
    dout, out = (tensor.to(q.dtype).contiguous() for tensor in (dout, out))
    delta = torch.empty_like(lse)
    dq, *gradients = (torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in call.tensors.floating)
    frames, queries, heads, _ = q.shape
    strides = (*call.strides, *dout.stride()[:3])
    with _device(q):
        _kernels().query_gradient_kernel[frames * heads, _blocks(queries, call.tiles.queries)](
            *call.tensors, out, lse, dout, delta, dq, scale, *call.sizes, *strides, **call.options
        )
        tiles_of_keys = sum(_blocks(segment.shape[1], call.tiles.keys) for segment in gradients[::2])
        _kernels().key_gradients_kernel[frames * heads, tiles_of_keys](
            *call.tensors, lse, dout, delta, *gradients, scale, *call.sizes, *strides, **call.options
        )
    return tuple(gradient.to(inputs[0].dtype) for gradient in (dq, *gradients))


class _Call(NamedTuple):
    """What all three kernels take."""

    tensors: Arguments
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    options: dict[str, Any]
    tiles: Tiles

    @classmethod
    def prepare(cls, arguments: Arguments, backward: bool) -> _Call:
        if _is_interpreted() and arguments.q.dtype == torch.bfloat16:
            # The interpreter multiplies bfloat16 wrongly and truncates instead of rounding to it.
            arguments = arguments.with_floating(*(t.float() for t in arguments.floating))
        q, k_media, _, k_latents, _, lengths, keep = arguments
        padded_dim = padded(q.shape[-1])
        chosen = tiles(q.dtype, padded_dim, backward)
        strides = [stride for tensor in arguments.floating for stride in tensor.stride()[:3]]
        options = {
            "HAS_LENGTHS": lengths is not None,
            "HAS_KEEP": keep is not None,
            "BLOCK_Q": chosen.queries,
            "BLOCK_K": chosen.keys,
            "BLOCK_D": padded_dim,
            "num_warps": chosen.warps,
            "num_stages": chosen.stages,
        }
        # A mask that is not there is never read, but a kernel wants a pointer.
        lengths = q if lengths is None else lengths.contiguous()
        keep = q if keep is None else keep.contiguous().view(torch.uint8)
        return cls(
            arguments._replace(lengths=lengths, keep=keep),
            (q.shape[2], q.shape[1], k_media.shape[1], k_latents.shape[1], q.shape[3]),
            (*strides, k_media.shape[1]),
            options,
            chosen,
        )


def _blocks(rows: int, block: int) -> int:
    return -(-rows // block)


def _device(q: Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current device."""
    return torch.cuda.device(q.device) if q.is_cuda else nullcontext()
