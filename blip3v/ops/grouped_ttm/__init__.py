"""The grouped Token Turing Machine: one call for the whole recurrence over a video's frames.

`grouped_ttm` is the function to call; below it are the operators of `torch.library` that put it under
autograd, `torch.compile` and CUDA graphs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from blip3v.ops import registry
from blip3v.ops.grouped_ttm.arguments import Arguments, Layer, Weights, Write, check, example
from blip3v.ops.grouped_ttm.recurrence import KEEP

__all__ = ["Arguments", "Layer", "Weights", "Write", "example", "grouped_ttm"]

NAME = "grouped_ttm"


def grouped_ttm(
    frames: Tensor,
    memory: Tensor,
    weights: Weights,
    *,
    heads: int,
    stamps: Tensor | None = None,
    eps: float = 1e-5,
    keep: str = "passes",
    backend: str | None = None,
) -> Tensor:
    """The memory after all frames: B videos of T frames with S token positions, G memory slots at each.

    For every frame t and position: tokens = [memory (G) ; frame token + stamps[t]] -> transformer layers with
    attention inside the group of G + 1 -> memory = TokenLearner(G) over [memory ; tokens]. The formula is
    that of BLIP-3-Video's "sequential" encoder, after Token Turing Machines (Ryoo et al.). A call with the
    memory of an earlier one goes on where that ended.

    Args:
        frames: [B,T,S,D] float.
        memory: [B,S,G,D], the state; may be an expanded view of learned [S,G,D].
        weights: matrices and LayerNorm parameters in the type of `frames` or float32.
        heads: of D / heads channels each.
        stamps: [T,D], the code of each frame's index, without gradient; None for none.
        keep: what is kept for the backward: "passes" (54.6 MB a frame and video of the 4B model in bf16) or
            "steps" (1.5 MB, and a third more work). Nothing is kept where no gradient is wanted.
        backend: a name in `blip3v.ops.registry.OPS`; if left out, what `use_backend` or BLIP3V_BACKEND say,
            and otherwise the fastest that can run and is verified on this kind of device.

    Returns:
        [B,S,G,D] in the type of `frames`. Differentiable once. The same bits in every run on one machine, as
        far as the matrix products of PyTorch are.

    Raises:
        ValueError: shapes, dtypes or devices do not fit together, or keep is none of the two.
        UserError: the backend that was asked for does not exist or cannot run this call, and why.
    """
    if keep not in KEEP[1:]:
        raise ValueError(f"grouped_ttm: keep is {keep!r}, need one of {', '.join(KEEP[1:])}")
    if torch.is_autocast_enabled(frames.device.type):
        frames = frames.to(torch.get_autocast_dtype(frames.device.type))
    arguments = Arguments(frames, memory.to(frames.dtype), stamps, weights.flat(), heads)
    check(arguments)
    wants_gradient = torch.is_grad_enabled() and any(
        tensor.requires_grad for tensor in (frames, memory, *arguments.weights)
    )
    name = registry.wished(NAME, backend, str(frames.device))
    if name == registry.AUTO and not torch.compiler.is_compiling():
        name = registry.choose(NAME, arguments).name
    return grouped_ttm_forward(*arguments, eps, keep if wants_gradient else KEEP[0], name)[0]


@torch.library.custom_op("blip3v::grouped_ttm_forward", mutates_args=())
def grouped_ttm_forward(
    frames: Tensor,
    memory: Tensor,
    stamps: Tensor | None,
    weights: list[Tensor],
    heads: int,
    eps: float,
    keep: str,
    backend: str,
) -> tuple[Tensor, list[Tensor]]:
    """-> the final memory [B,S,G,D], and what the backward wants, which has no gradient."""
    arguments = Arguments(frames, memory, stamps, weights, heads)
    with torch.autocast(frames.device.type, enabled=False):
        last, kept = registry.choose(NAME, arguments, backend).load().forward(*arguments, eps, keep)
    return last, kept


@torch.library.custom_op("blip3v::grouped_ttm_backward", mutates_args=())
def grouped_ttm_backward(
    dmemory: Tensor,
    frames: Tensor,
    memory: Tensor,
    stamps: Tensor | None,
    weights: list[Tensor],
    heads: int,
    kept: list[Tensor],
    eps: float,
    keep: str,
    backend: str,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """-> the gradients of frames, memory and weights, each contiguous."""
    arguments = Arguments(frames, memory, stamps, weights, heads)
    chosen = registry.choose(NAME, arguments, backend).load()
    with torch.autocast(frames.device.type, enabled=False):
        dframes, dfirst, dweights = chosen.backward(dmemory, *arguments, kept, eps, keep)
    return dframes, dfirst, dweights


@grouped_ttm_forward.register_fake
def _(frames, memory, stamps, weights, heads, eps, keep, backend):  # type: ignore[no-untyped-def]
    videos, steps, positions, width = frames.shape
    slots = memory.shape[2]
    rows, tokens = videos * positions, slots + 1
    precise = torch.promote_types(frames.dtype, torch.float32)
    kept = []
    for _ in range(steps if keep != "nothing" else 0):
        kept.append(frames.new_empty(videos, positions, tokens, width))
        kept += [frames.new_empty(videos, positions, tokens, dtype=precise) for _ in range(2)]
        for layer in Weights.of(weights).layers if keep == "passes" else ():
            kept.append(frames.new_empty(rows, tokens, 3, heads, width // heads))
            kept.append(frames.new_empty(rows, tokens, width))
            kept += [frames.new_empty(rows, tokens, dtype=precise) for _ in range(2)]
            kept.append(frames.new_empty(rows, tokens, layer.w1.shape[0]))
            kept.append(frames.new_empty(rows, tokens, width))
    return frames.new_empty(videos, positions, slots, width), kept


@grouped_ttm_backward.register_fake
def _(dmemory, frames, memory, stamps, weights, heads, kept, eps, keep, backend):  # type: ignore[no-untyped-def]
    same = [weight.new_empty(weight.shape) for weight in weights]
    return frames.new_empty(frames.shape), memory.new_empty(memory.shape), same


def _keep_for_backward(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    frames, memory, stamps, weights, ctx.heads, ctx.eps, ctx.keep, ctx.backend = inputs
    _, kept = output
    ctx.save_for_backward(frames, memory, stamps, *weights, *kept)
    ctx.count = len(weights)
    ctx.mark_non_differentiable(*kept)


def _differentiate(ctx, dmemory, dkept):  # type: ignore[no-untyped-def]
    frames, memory, stamps, *rest = ctx.saved_tensors
    weights, kept = rest[: ctx.count], rest[ctx.count :]
    dframes, dfirst, dweights = grouped_ttm_backward(
        dmemory, frames, memory, stamps, weights, ctx.heads, kept, ctx.eps, ctx.keep, ctx.backend
    )
    return dframes, dfirst, None, dweights, None, None, None, None


grouped_ttm_forward.register_autograd(_differentiate, setup_context=_keep_for_backward)
