"""The read of the grouped Token Turing Machine: memory and frame of each position become one group of tokens.

`ttm_read` is the function to call; below it are the operators of `torch.library` that put the kernels under
autograd, `torch.compile` and CUDA graphs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from blip3v.ops import registry
from blip3v.ops.ttm_read import reference
from blip3v.ops.ttm_read.arguments import EPS, Arguments, check, example

__all__ = ["Arguments", "example", "ttm_read"]

NAME = "ttm_read"


def ttm_read(
    memory: Tensor,
    frame: Tensor,
    stamp: Tensor | None,
    norm_weight: Tensor,
    norm_bias: Tensor,
    *,
    eps: float = EPS,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """group = [memory ; frame + stamp], normed = LN(group).

    The read of the grouped Token Turing Machine of BLIP-3-Video (arXiv 2410.16267), with the LayerNorm of the
    first attention layer, which reads the same rows. Results and gradients are the same bits in every run on
    one machine.

    Under autocast, memory and frame are cast to its dtype first; the parameters may stay in float32. The
    backend `reference` leaves autocast to PyTorch.

    Args:
        memory: [B,S,G,D] float; G slots for each of S positions. Any strides but that of the channels; a
            learned initial memory may be expanded over B.
        frame: [B,S,D], dtype of memory; may be a strided view, such as `frames[:, t]`.
        stamp: [D] or None, the frame's time-stamp, which is rounded to the dtype of memory and has no
            gradient.
        norm_weight, norm_bias: [D]; these and the stamp each in memory's dtype or in float32.
        eps: of the LayerNorm, above 0.
        backend: a name in `blip3v.ops.registry.OPS`; if left out, what `use_backend` or BLIP3V_BACKEND say,
            and otherwise the fastest that can run and is verified on this kind of device.

    Returns:
        group and normed, [B,S,G+1,D] in memory's dtype. Differentiable once by every backend, any number of
        times by `reference`.

    Raises:
        ValueError: shapes, dtypes or devices do not fit together, the stamp requires a gradient, or eps is
            not a positive number.
        UserError: the backend that was asked for does not exist or cannot run this call, and why.
    """
    arguments = Arguments(memory, frame, stamp, norm_weight, norm_bias)
    autocast = torch.is_autocast_enabled(memory.device.type)
    check(arguments, eps, mixed=autocast)
    name = registry.wished(NAME, backend, str(memory.device))
    if name == "reference":
        return reference.read(*arguments, eps)
    if autocast and memory.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(memory.device.type)
        arguments = arguments._replace(memory=memory.to(dtype), frame=frame.to(dtype))
    if name == registry.AUTO and not torch.compiler.is_compiling():
        name = registry.choose(NAME, arguments).name
        if name == "reference":
            return reference.read(*arguments, eps)
    # While it is traced, the operator keeps the name `auto` and chooses when it runs, from real tensors.
    group, normed, _, _ = ttm_read_forward(*arguments, eps, name)
    return group, normed


@torch.library.custom_op("blip3v::ttm_read_forward", mutates_args=())
def ttm_read_forward(
    memory: Tensor,
    frame: Tensor,
    stamp: Tensor | None,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """-> group, normed [B,S,G+1,D]; mean, rstd [B,S,G+1] float32 (float64 where memory is), without
    gradients."""
    arguments = Arguments(memory, frame, stamp, norm_weight, norm_bias)
    with torch.autocast(memory.device.type, enabled=False):
        chosen = registry.choose(NAME, arguments, backend).load()
        group, normed, mean, rstd = chosen.forward(*arguments, eps)
    return group, normed, mean, rstd


@torch.library.custom_op("blip3v::ttm_read_backward", mutates_args=())
def ttm_read_backward(
    dgroup: Tensor,
    dnormed: Tensor,
    group: Tensor,
    norm_weight: Tensor,
    mean: Tensor,
    rstd: Tensor,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """-> dmemory [B,S,G,D], dframe [B,S,D], dnorm_weight, dnorm_bias [D], each contiguous."""
    # What decides on a backend: the tensors of the call that made the group.
    like = Arguments(group[:, :, :-1], group[:, :, -1], None, norm_weight, norm_weight)
    with torch.autocast(group.device.type, enabled=False):
        chosen = registry.choose(NAME, like, backend).load()
        dmemory, dframe, dweight, dbias = chosen.backward(dgroup, dnormed, group, norm_weight, mean, rstd)
    return dmemory, dframe, dweight, dbias


@ttm_read_forward.register_fake
def _(memory, frame, stamp, norm_weight, norm_bias, eps, backend):  # type: ignore[no-untyped-def]
    videos, positions, slots, width = memory.shape
    precise = torch.promote_types(memory.dtype, torch.float32)
    shape = (videos, positions, slots + 1)
    group, normed = (memory.new_empty((*shape, width)) for _ in range(2))
    return group, normed, *(memory.new_empty(shape, dtype=precise) for _ in range(2))


@ttm_read_backward.register_fake
def _(dgroup, dnormed, group, norm_weight, mean, rstd, backend):  # type: ignore[no-untyped-def]
    videos, positions, rows, width = group.shape
    dmemory = group.new_empty((videos, positions, rows - 1, width))
    dframe = group.new_empty((videos, positions, width))
    return dmemory, dframe, *(norm_weight.new_empty(norm_weight.shape) for _ in range(2))


def _keep_for_backward(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    *_, norm_weight, norm_bias, _, ctx.backend = inputs
    group, _, mean, rstd = output
    ctx.save_for_backward(group, norm_weight, mean, rstd)
    ctx.mark_non_differentiable(mean, rstd)
    ctx.bias_dtype = norm_bias.dtype


def _differentiate(ctx, dgroup, dnormed, dmean, drstd):  # type: ignore[no-untyped-def]
    dmemory, dframe, dweight, dbias = ttm_read_backward(dgroup, dnormed, *ctx.saved_tensors, ctx.backend)
    return dmemory, dframe, None, dweight, dbias.to(ctx.bias_dtype), None, None


ttm_read_forward.register_autograd(_differentiate, setup_context=_keep_for_backward)
