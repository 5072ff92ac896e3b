"""TokenLearner: k tokens, each a sum over all tokens of a video, weighted by a softmax over them.

`token_learner` is the function to call; below it are the operators of `torch.library` that put the kernels
under autograd, `torch.compile` and CUDA graphs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from blip3v.ops import registry
from blip3v.ops.token_learner import reference
from blip3v.ops.token_learner.arguments import EPS, Arguments, check, example

__all__ = ["Arguments", "example", "token_learner"]

NAME = "token_learner"


def token_learner(
    x: Tensor,
    norm1_weight: Tensor,
    norm1_bias: Tensor,
    norm2_weight: Tensor,
    norm2_bias: Tensor,
    w1: Tensor,
    w2: Tensor,
    *,
    keep: Tensor | None = None,
    eps: float = EPS,
    backend: str | None = None,
) -> Tensor:
    """out_i = sum_n A[n,i] x[n], A = softmax over tokens n of gelu(LN2(LN1(x)) w1^T) w2^T.

    The formula is the TokenLearner of xGen-MM-Vid (arXiv 2410.16267): two LayerNorms in series, erf-GELU, no
    biases, and a sum over tokens that are **not** normalised. Out and gradients are the same bits in every
    run on one machine.

    Under autocast, x is cast to its dtype first, so that is the dtype of out; the parameters may stay in
    float32. The backend `reference` leaves autocast to PyTorch, which comes to the same type.

    Args:
        x: [B,N,D] float; B videos of N tokens. May be a strided view.
        norm1_weight, norm1_bias, norm2_weight, norm2_bias: [D], of the first and the second LayerNorm.
        w1: [J,D]; J is 2k in the published models.
        w2: [k,J]. The parameters are each in x's dtype or in float32, and their gradients like them.
        keep: [B,N] bool, optional: True where a token exists, for videos of different length in one batch.
            What is masked must still be finite.
        eps: of both norms, above 0.
        backend: a name in `blip3v.ops.registry.OPS`; if left out, what `use_backend` or BLIP3V_BACKEND say,
            and otherwise the fastest that can run and is verified on this kind of device.

    Returns:
        [B,k,D] in x's dtype. Zeros for a video whose tokens are all masked. Differentiable once by every
        backend, any number of times by `reference`.

    Raises:
        ValueError: shapes, dtypes or devices do not fit together, or eps is not a positive number.
        UserError: the backend that was asked for does not exist or cannot run this call, and why.
    """
    arguments = Arguments(x, norm1_weight, norm1_bias, norm2_weight, norm2_bias, w1, w2, keep)
    name = registry.wished(NAME, backend, str(x.device))
    autocast = torch.is_autocast_enabled(x.device.type)
    check(arguments, eps, mixed=autocast)
    if name == "reference":
        return reference.pool(*arguments, eps)
    if autocast:
        arguments = _as_autocast(arguments)
    if name == registry.AUTO and not torch.compiler.is_compiling():
        name = registry.choose(NAME, arguments).name
        if name == "reference":
            return reference.pool(*arguments, eps)
    # While it is traced, the operator keeps the name `auto` and chooses when it runs, from real tensors.
    return token_learner_forward(*arguments, eps, name)[0]


def _as_autocast(arguments: Arguments) -> Arguments:
    """x in autocast's dtype; parameters stay as they are where the op takes them."""
    x = arguments.x
    if x.dtype == torch.float64 or not x.dtype.is_floating_point:
        return arguments  # autocast leaves these alone
    dtype = torch.get_autocast_dtype(x.device.type)
    parameters = (p if p.dtype in (torch.float32, dtype) else p.to(dtype) for p in arguments.floating[1:])
    return arguments.with_floating(x.to(dtype), *parameters)


@torch.library.custom_op("blip3v::token_learner_forward", mutates_args=())
def token_learner_forward(
    x: Tensor,
    norm1_weight: Tensor,
    norm1_bias: Tensor,
    norm2_weight: Tensor,
    norm2_bias: Tensor,
    w1: Tensor,
    w2: Tensor,
    keep: Tensor | None,
    eps: float,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """-> out [B,k,D] and lse [B,k] float32 (float64 where x is): log sum over tokens of exp(logits), or -inf.

    lse has no gradient.
    """
    arguments = Arguments(x, norm1_weight, norm1_bias, norm2_weight, norm2_bias, w1, w2, keep)
    with torch.autocast(x.device.type, enabled=False):  # what backends compute beside their kernels, too
        out, lse = registry.choose(NAME, arguments, backend).load().forward(*arguments, eps)
    return out, lse


@torch.library.custom_op("blip3v::token_learner_backward", mutates_args=())
def token_learner_backward(
    dout: Tensor,
    x: Tensor,
    norm1_weight: Tensor,
    norm1_bias: Tensor,
    norm2_weight: Tensor,
    norm2_bias: Tensor,
    w1: Tensor,
    w2: Tensor,
    keep: Tensor | None,
    out: Tensor,
    lse: Tensor,
    eps: float,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """-> the gradients of x, norm1_weight, norm1_bias, norm2_weight, norm2_bias, w1, w2, each contiguous."""
    arguments = Arguments(x, norm1_weight, norm1_bias, norm2_weight, norm2_bias, w1, w2, keep)
    with torch.autocast(x.device.type, enabled=False):
        chosen = registry.choose(NAME, arguments, backend).load()
        dx, dgamma1, dbeta1, dgamma2, dbeta2, dw1, dw2 = chosen.backward(dout, *arguments, out, lse, eps)
    return dx, dgamma1, dbeta1, dgamma2, dbeta2, dw1, dw2


@token_learner_forward.register_fake
def _(x, norm1_weight, norm1_bias, norm2_weight, norm2_bias, w1, w2, keep, eps, backend):  # type: ignore[no-untyped-def]
    precise = torch.promote_types(x.dtype, torch.float32)
    videos, _, width = x.shape
    return x.new_empty((videos, w2.shape[0], width)), x.new_empty((videos, w2.shape[0]), dtype=precise)


@token_learner_backward.register_fake
def _(dout, *inputs):  # type: ignore[no-untyped-def]
    return tuple(tensor.new_empty(tensor.shape) for tensor in inputs[:7])


def _keep_for_backward(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    *tensors, eps, backend = inputs
    out, lse = output
    ctx.save_for_backward(*tensors, out, lse)
    ctx.mark_non_differentiable(lse)
    ctx.eps, ctx.backend = eps, backend


def _differentiate(ctx, dout, dlse):  # type: ignore[no-untyped-def]
    gradients = token_learner_backward(dout, *ctx.saved_tensors, ctx.eps, ctx.backend)
    return *gradients, None, None, None


token_learner_forward.register_autograd(_differentiate, setup_context=_keep_for_backward)
