"""Attention inside groups of a few tokens, with the residual and the LayerNorm behind it in one pass.

`grouped_attention` is the function to call; below it are the operators of `torch.library` that put the
kernels under autograd, `torch.compile` and CUDA graphs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from blip3v.ops import registry
from blip3v.ops.grouped_attention import reference
from blip3v.ops.grouped_attention.arguments import Arguments, check, example

__all__ = ["Arguments", "example", "grouped_attention"]

NAME = "grouped_attention"


def grouped_attention(
    x: Tensor,
    qkv: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    *,
    eps: float = 1e-5,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """y = x + softmax(q k^T / sqrt(d)) v within each group of n tokens and head by head; z = LN(y).

    The formula is that of the transformer layers of BLIP-3-Video's grouped Token Turing Machine: attention
    without an output projection, a residual, and the LayerNorm at the head of the feed-forward. y, z and
    all gradients are the same bits in every run on one machine.

    Args:
        x: [R,n,D], float; R groups of n tokens, n from 1 to 64. R may be 0.
        qkv: [R,n,3,H,d] with H * d == D, dtype and device of x: queries, keys and values of H heads.
        norm_weight, norm_bias: [D], both float32 or both of x's dtype.
        eps: added to the variance, above 0.
        backend: a name in `blip3v.ops.registry.OPS`; if left out, what `use_backend` or BLIP3V_BACKEND say,
            and otherwise the fastest that can run and is verified on this kind of device.

    Under autocast x and qkv may differ in dtype: every backend but `reference` is given both in the dtype
    of the autocast; `reference` does what torch does.

    Returns:
        y and z, [R,n,D] in x's dtype. Differentiable once by every backend, any number of times by
        `reference`.

    Raises:
        ValueError: shapes, dtypes or devices do not fit together, or eps is not a positive number.
        UserError: the backend that was asked for does not exist or cannot run this call, and why.
    """
    arguments = Arguments(x, qkv, norm_weight, norm_bias)
    autocast = torch.is_autocast_enabled(x.device.type)
    check(arguments, eps, mixed=autocast)
    name = registry.wished(NAME, backend, str(x.device))
    if name == "reference":
        return reference.attend(*arguments, eps)
    if autocast:
        dtype = torch.get_autocast_dtype(x.device.type)
        arguments = arguments._replace(x=x.to(dtype), qkv=qkv.to(dtype))
        check(arguments, eps)
    if name == registry.AUTO and not torch.compiler.is_compiling():
        name = registry.choose(NAME, arguments).name
        if name == "reference":
            return reference.attend(x, qkv, norm_weight, norm_bias, eps)
    # While it is traced, the operator keeps the name `auto` and chooses when it runs, from real tensors.
    y, z, _, _ = grouped_attention_forward(*arguments, eps, name)
    return y, z


@torch.library.custom_op("blip3v::grouped_attention_forward", mutates_args=())
def grouped_attention_forward(
    x: Tensor, qkv: Tensor, norm_weight: Tensor, norm_bias: Tensor, eps: float, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """-> y, z [R,n,D]; mean and rstd [R,n] of the rows of y, float32 (float64 where x is), without
    gradients."""
    arguments = Arguments(x, qkv, norm_weight, norm_bias)
    y, z, mean, rstd = registry.choose(NAME, arguments, backend).load().forward(*arguments, eps)
    return y, z, mean, rstd


@torch.library.custom_op("blip3v::grouped_attention_backward", mutates_args=())
def grouped_attention_backward(
    dy: Tensor,
    dz: Tensor,
    qkv: Tensor,
    norm_weight: Tensor,
    y: Tensor,
    mean: Tensor,
    rstd: Tensor,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """-> dx [R,n,D], dqkv [R,n,3,H,d], dnorm_weight [D], dnorm_bias [D], each contiguous."""
    # y has the shape and the dtype of x, and norm_weight those of norm_bias: that is what backends ask about.
    asked = Arguments(y, qkv, norm_weight, norm_weight)
    chosen = registry.choose(NAME, asked, backend).load()
    dx, dqkv, dnorm_weight, dnorm_bias = chosen.backward(dy, dz, qkv, norm_weight, y, mean, rstd)
    return dx, dqkv, dnorm_weight, dnorm_bias


@grouped_attention_forward.register_fake
def _(x, qkv, norm_weight, norm_bias, eps, backend):  # type: ignore[no-untyped-def]
    precise = torch.promote_types(x.dtype, torch.float32)
    y, z = (x.new_empty(x.shape) for _ in range(2))
    mean, rstd = (x.new_empty(x.shape[:2], dtype=precise) for _ in range(2))
    return y, z, mean, rstd


@grouped_attention_backward.register_fake
def _(dy, dz, qkv, norm_weight, y, mean, rstd, backend):  # type: ignore[no-untyped-def]
    return tuple(t.new_empty(t.shape) for t in (y, qkv, norm_weight, norm_weight))


def _keep_for_backward(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    _, qkv, norm_weight, _, _, backend = inputs
    y, _, mean, rstd = output
    ctx.save_for_backward(qkv, norm_weight, y, mean, rstd)
    ctx.mark_non_differentiable(mean, rstd)
    ctx.backend = backend


def _differentiate(ctx, dy, dz, dmean, drstd):  # type: ignore[no-untyped-def]
    return *grouped_attention_backward(dy, dz, *ctx.saved_tensors, ctx.backend), None, None


grouped_attention_forward.register_autograd(_differentiate, setup_context=_keep_for_backward)
