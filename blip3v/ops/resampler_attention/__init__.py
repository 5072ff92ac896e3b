"""The attention of the Perceiver-Resampler: queries see media keys and latent keys in one softmax.

`resampler_attention` is the function to call; below it are the operators of `torch.library` that put the
kernels under autograd, `torch.compile` and CUDA graphs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from blip3v.ops import registry
from blip3v.ops.resampler_attention import reference
from blip3v.ops.resampler_attention.arguments import Arguments, check, example

__all__ = ["Arguments", "example", "resampler_attention"]

NAME = "resampler_attention"


def resampler_attention(
    q: Tensor,
    k_media: Tensor,
    v_media: Tensor,
    k_latents: Tensor,
    v_latents: Tensor,
    *,
    lengths: Tensor | None = None,
    keep: Tensor | None = None,
    scale: float | None = None,
    backend: str | None = None,
) -> Tensor:
    """softmax(scale * q [k_media ; k_latents]^T) [v_media ; v_latents], frame by frame and head by head.

    The formula is that of BLIP-3's Perceiver-Resampler, after Flamingo: one softmax over media and latent
    keys. Keys and values are never concatenated by the kernels, and any tensor may be a strided view, for
    instance of one fused projection. Out and gradients are the same bits in every run on one machine.

    Args:
        q: [F,Q,H,d], float; F frames, H heads.
        k_media, v_media: [F,S,H,d], dtype and device of q. S may be 0.
        k_latents, v_latents: [F,L,H,d], likewise. L may be 0, S + L may not.
        lengths: [F] int32 or int64, optional: of frame f only the first `lengths[f]` media keys may be seen.
        keep: [F,S] bool, optional: True where a media key may be seen. With `lengths`, both must hold.
            Latent keys are never masked. What is masked must still be finite.
        scale: factor on the scores, above 0; d^-0.5 if left out.
        backend: a name in `blip3v.ops.registry.OPS`; if left out, what `use_backend` or BLIP3V_BACKEND say,
            and otherwise the fastest that can run and is verified on this kind of device.

    Returns:
        [F,Q,H,d] in q's dtype. Where a frame's queries see nothing, zeros. Differentiable once by every
        backend, any number of times by `reference`.

    Raises:
        ValueError: shapes, dtypes or devices do not fit together, or scale is not a positive number.
        UserError: the backend that was asked for does not exist or cannot run this call, and why.
    """
    arguments = Arguments(q, k_media, v_media, k_latents, v_latents, lengths, keep)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    check(arguments, scale)
    if lengths is not None:
        arguments = arguments._replace(lengths=lengths.to(torch.int32))
    name = registry.wished(NAME, backend, str(q.device))
    if name == registry.AUTO and not torch.compiler.is_compiling():
        name = registry.choose(NAME, arguments).name
    if name == "reference":
        return reference.attend(*arguments, scale=scale)
    # While it is traced, the operator keeps the name `auto` and chooses when it runs, from real tensors.
    return resampler_attention_forward(*arguments, scale, name)[0]


@torch.library.custom_op("blip3v::resampler_attention_forward", mutates_args=())
def resampler_attention_forward(
    q: Tensor,
    k_media: Tensor,
    v_media: Tensor,
    k_latents: Tensor,
    v_latents: Tensor,
    lengths: Tensor | None,
    keep: Tensor | None,
    scale: float,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """-> out [F,Q,H,d] and lse [F,H,Q] float32 (float64 where q is): log sum exp(scale * q k), or -inf.

    lse has no gradient.
    """
    arguments = Arguments(q, k_media, v_media, k_latents, v_latents, lengths, keep)
    out, lse = registry.choose(NAME, arguments, backend).load().forward(*arguments, scale)
    return out, lse


@torch.library.custom_op("blip3v::resampler_attention_backward", mutates_args=())
def resampler_attention_backward(
    dout: Tensor,
    q: Tensor,
    k_media: Tensor,
    v_media: Tensor,
    k_latents: Tensor,
    v_latents: Tensor,
    lengths: Tensor | None,
    keep: Tensor | None,
    out: Tensor,
    lse: Tensor,
    scale: float,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """-> the gradients of q, k_media, v_media, k_latents, v_latents, each contiguous."""
    arguments = Arguments(q, k_media, v_media, k_latents, v_latents, lengths, keep)
    chosen = registry.choose(NAME, arguments, backend).load()
    dq, dk_media, dv_media, dk_latents, dv_latents = chosen.backward(dout, *arguments, out, lse, scale)
    return dq, dk_media, dv_media, dk_latents, dv_latents


@resampler_attention_forward.register_fake
def _(q, k_media, v_media, k_latents, v_latents, lengths, keep, scale, backend):  # type: ignore[no-untyped-def]
    frames, queries, heads, _ = q.shape
    precise = torch.promote_types(q.dtype, torch.float32)
    return q.new_empty(q.shape), q.new_empty((frames, heads, queries), dtype=precise)


@resampler_attention_backward.register_fake
def _(dout, *inputs):  # type: ignore[no-untyped-def]
    return tuple(tensor.new_empty(tensor.shape) for tensor in inputs[:5])


def _keep_for_backward(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    *tensors, scale, backend = inputs
    out, lse = output
    ctx.save_for_backward(*tensors, out, lse)
    ctx.mark_non_differentiable(lse)
    ctx.scale, ctx.backend = scale, backend


def _differentiate(ctx, dout, dlse):  # type: ignore[no-untyped-def]
    gradients = resampler_attention_backward(dout, *ctx.saved_tensors, ctx.scale, ctx.backend)
    return *gradients, None, None, None, None


resampler_attention_forward.register_autograd(_differentiate, setup_context=_keep_for_backward)
