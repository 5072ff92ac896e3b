"""The write of the grouped Token Turing Machine, and the read of its next step in the same pass.

`ttm_write` is the function to call; below it are the operators of `torch.library` that put the kernels under
autograd, `torch.compile` and CUDA graphs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from blip3v.ops import registry
from blip3v.ops.ttm_write import reference
from blip3v.ops.ttm_write.arguments import EPS, ROWS, Arguments, check, example

__all__ = ["Arguments", "example", "ttm_write"]

NAME = "ttm_write"


def ttm_write(
    memory: Tensor,
    processed: Tensor,
    norm1_weight: Tensor,
    norm1_bias: Tensor,
    norm2_weight: Tensor,
    norm2_bias: Tensor,
    w1: Tensor,
    w2: Tensor,
    frame: Tensor | None = None,
    stamp: Tensor | None = None,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    *,
    eps: float = EPS,
    backend: str | None = None,
) -> tuple[Tensor, Tensor] | Tensor:
    """new memory = TL(G) over [memory ; processed]; with a frame, group = [new memory ; frame + stamp] and
    LN(group).

    The write of the grouped Token Turing Machine of BLIP-3-Video (arXiv 2410.16267): the formula is that of
    `blip3v.ops.token_learner`, over the G + n tokens of each position alone. With the next frame it is fused
    with the next step's `blip3v.ops.ttm_read`, so that the memory never makes a round trip of its own. The
    backward recomputes the logits. Results and gradients are the same bits in every run on one machine.

    Under autocast, memory, processed and frame are cast to its dtype first; the parameters may stay in
    float32. The backend `reference` leaves autocast to PyTorch.

    Args:
        memory: [B,S,G,D] float; G slots for each of S positions. Any strides but that of the channels, such
            as those of `group[:, :, :G]` of the step before; a learned initial memory may be expanded over B.
        processed: [B,S,n,D], dtype of memory, likewise; n is G + 1 in the model.
        norm1_weight, norm1_bias, norm2_weight, norm2_bias: [D], of the two LayerNorms in series.
        w1: [J,D]; J is 2G in the model.
        w2: [G,J].
        frame: [B,S,D], dtype of memory, the next frame; may be a strided view, such as `frames[:, t]`. None
            after the last step.
        stamp: [D] or None, the frame's time-stamp, which is rounded to the dtype of memory and has no
            gradient.
        norm_weight, norm_bias: [D], of the next step's first attention layer; with a frame only. All
            parameters and the stamp are each in memory's dtype or in float32, and their gradients like them.
        eps: of all LayerNorms, above 0.
        backend: a name in `blip3v.ops.registry.OPS`; if left out, what `use_backend` or BLIP3V_BACKEND say,
            and otherwise the fastest that can run and is verified on this kind of device.

    Returns:
        group and normed, [B,S,G+1,D] in memory's dtype; without a frame the new memory [B,S,G,D].
        Differentiable once by every backend, any number of times by `reference`.

    Raises:
        ValueError: shapes, dtypes or devices do not fit together, the stamp requires a gradient, or eps is
            not a positive number.
        UserError: the backend that was asked for does not exist or cannot run this call, and why.
    """
    arguments = Arguments(
        *(memory, processed, norm1_weight, norm1_bias, norm2_weight, norm2_bias, w1, w2),
        *(frame, stamp, norm_weight, norm_bias),
    )
    autocast = torch.is_autocast_enabled(memory.device.type)
    check(arguments, eps, mixed=autocast)
    name = registry.wished(NAME, backend, str(memory.device))
    if name == "reference":
        return reference.write(*arguments, eps)
    if autocast and memory.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(memory.device.type)
        rows = {n: t.to(dtype) for n, t in arguments._asdict().items() if n in ROWS and t is not None}
        arguments = arguments._replace(**rows)
    if name == registry.AUTO and not torch.compiler.is_compiling():
        name = registry.choose(NAME, arguments).name
        if name == "reference":
            return reference.write(*arguments, eps)
    # While it is traced, the operator keeps the name `auto` and chooses when it runs, from real tensors.
    group, normed, _, _ = ttm_write_forward(*arguments, eps, name)
    return group if frame is None else (group, normed)


@torch.library.custom_op("blip3v::ttm_write_forward", mutates_args=())
def ttm_write_forward(
    memory: Tensor,
    processed: Tensor,
    norm1_weight: Tensor,
    norm1_bias: Tensor,
    norm2_weight: Tensor,
    norm2_bias: Tensor,
    w1: Tensor,
    w2: Tensor,
    frame: Tensor | None,
    stamp: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """-> group, normed [B,S,G+1,D]; mean, rstd [B,S,G+1] float32 (float64 where memory is), without
    gradients.

    Without a frame the new memory [B,S,G,D] and three empty tensors.
    """
    arguments = Arguments(
        *(memory, processed, norm1_weight, norm1_bias, norm2_weight, norm2_bias, w1, w2),
        *(frame, stamp, norm_weight, norm_bias),
    )
    with torch.autocast(memory.device.type, enabled=False):
        chosen = registry.choose(NAME, arguments, backend).load()
        group, normed, mean, rstd = chosen.forward(*arguments, eps)
    return group, normed, mean, rstd


@torch.library.custom_op("blip3v::ttm_write_backward", mutates_args=())
def ttm_write_backward(
    dgroup: Tensor,
    dnormed: Tensor,
    memory: Tensor,
    processed: Tensor,
    norm1_weight: Tensor,
    norm1_bias: Tensor,
    norm2_weight: Tensor,
    norm2_bias: Tensor,
    w1: Tensor,
    w2: Tensor,
    frame: Tensor | None,
    stamp: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    group: Tensor,
    mean: Tensor,
    rstd: Tensor,
    eps: float,
    backend: str,
) -> list[Tensor]:
    """-> the gradients of memory, processed, the six parameters of the write, and with a frame of frame,
    norm_weight, norm_bias; each contiguous."""
    arguments = Arguments(
        *(memory, processed, norm1_weight, norm1_bias, norm2_weight, norm2_bias, w1, w2),
        *(frame, stamp, norm_weight, norm_bias),
    )
    with torch.autocast(memory.device.type, enabled=False):
        chosen = registry.choose(NAME, arguments, backend).load()
        gradients = chosen.backward(dgroup, dnormed, *arguments, group, mean, rstd, eps)
    return [gradient for gradient in gradients if gradient is not None]


@ttm_write_forward.register_fake
def _(memory, *rest):  # type: ignore[no-untyped-def]
    frame = rest[7]
    precise = torch.promote_types(memory.dtype, torch.float32)
    if frame is None:
        nothing = (memory.new_empty(0, dtype=dtype) for dtype in (memory.dtype, precise, precise))
        return memory.new_empty(memory.shape), *nothing
    videos, positions, slots, width = memory.shape
    shape = (videos, positions, slots + 1)
    group, normed = (memory.new_empty((*shape, width)) for _ in range(2))
    return group, normed, *(memory.new_empty(shape, dtype=precise) for _ in range(2))


@ttm_write_backward.register_fake
def _(dgroup, dnormed, *rest):  # type: ignore[no-untyped-def]
    arguments = Arguments(*rest[:12])
    of_frame = (arguments.frame, arguments.norm_weight, arguments.norm_bias)
    return [t.new_empty(t.shape) for t in (*arguments[:8], *of_frame) if t is not None]


def _keep_for_backward(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    *tensors, ctx.eps, ctx.backend = inputs
    group, _, mean, rstd = output
    ctx.save_for_backward(*tensors, group, mean, rstd)
    ctx.mark_non_differentiable(mean, rstd)


def _differentiate(ctx, dgroup, dnormed, dmean, drstd):  # type: ignore[no-untyped-def]
    gradients = ttm_write_backward(dgroup, dnormed, *ctx.saved_tensors, ctx.eps, ctx.backend)
    own, of_frame = gradients[:8], gradients[8:] or (None, None, None)
    dframe, dweight, dbias = of_frame
    return *own, dframe, None, dweight, dbias, None, None


ttm_write_forward.register_autograd(_differentiate, setup_context=_keep_for_backward)
