"""The formula of token_learner in plain PyTorch, and the form of it that is used.

    y = LN1(x),  z = LN2(y),  h = z w1^T,  logits = gelu(h) w2^T, -inf for a masked token
    A = softmax of the logits over the N tokens,  out_i = sum_n A[n,i] x[n],  with x not normalised

`forward` and `backward` spell it out in float32 or better. They are what to read, what the other backends are
compared with (in float64), and what the custom operator runs when it is asked for this backend. `pool` is the
same in the dtypes of its arguments and of autocast: differentiable by autograd, and the backend `reference`
of the public function.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from blip3v.ops.registry import Answer
from blip3v.ops.token_learner.arguments import Arguments
from blip3v.ranges import op_range, ranged


def can_run(*arguments: Tensor | None) -> Answer:
    """It runs whatever passed the op's own checks."""
    return Answer(True)


@ranged(op_range, "token_learner reference")
def pool(
    x: Tensor,
    norm1_weight: Tensor,
    norm1_bias: Tensor,
    norm2_weight: Tensor,
    norm2_bias: Tensor,
    w1: Tensor,
    w2: Tensor,
    keep: Tensor | None,
    eps: float,
) -> Tensor:
    """Shapes as in `Arguments` -> out [B,k,D]."""
    parameters: tuple[Tensor, ...] = (norm1_weight, norm1_bias, norm2_weight, norm2_bias, w1, w2)
    if not torch.is_autocast_enabled(x.device.type):
        parameters = tuple(parameter.to(x.dtype) for parameter in parameters)
    gamma1, beta1, gamma2, beta2, w1, w2 = parameters
    width = x.shape[-1:]
    z = F.layer_norm(F.layer_norm(x, width, gamma1, beta1, eps), width, gamma2, beta2, eps)
    return pool_by(F.linear(F.gelu(F.linear(z, w1)), w2), x, keep)


def pool_by(logits: Tensor, x: Tensor, keep: Tensor | None) -> Tensor:
    """logits [...,N,k], x [...,N,D], keep [...,N] or None -> [...,k,D], by softmax over the N tokens."""
    if keep is None:
        return _weighted_sum(logits.softmax(dim=-2), x)
    # A video that shows nothing is pooled as if it showed everything and is then dropped: its output and all
    # its gradients are exact zeros, and no softmax over nothing is ever taken.
    anything = keep.any(-1, keepdim=True)
    logits = logits.masked_fill(~(keep | ~anything)[..., None], -torch.inf)
    return torch.where(anything[..., None], _weighted_sum(logits.softmax(dim=-2), x), 0)


def _weighted_sum(weights: Tensor, x: Tensor) -> Tensor:
    """[...,N,k], [...,N,D] -> [...,k,D]."""
    return weights.transpose(-1, -2).to(x.dtype) @ x


class Hidden(NamedTuple):
    """What lies between x and the output, in float32 or better.

    xhat1, xhat2: the rows of x and of LN1(x) with mean 0 and deviation 1, and rstd1, rstd2 [B,N,1], what they
    were multiplied by; z [B,N,D]; h, a = gelu(h) [B,N,J]; logits [B,N,k].
    """

    xhat1: Tensor
    rstd1: Tensor
    xhat2: Tensor
    rstd2: Tensor
    z: Tensor
    h: Tensor
    a: Tensor
    logits: Tensor


def hidden(arguments: Arguments, eps: float) -> Hidden:
    """Everything up to the logits."""
    precise = torch.promote_types(arguments.x.dtype, torch.float32)
    x, gamma1, beta1, gamma2, beta2, w1, w2 = (tensor.to(precise) for tensor in arguments.floating)
    xhat1, rstd1 = _standardise(x, eps)
    xhat2, rstd2 = _standardise(xhat1 * gamma1 + beta1, eps)
    z = xhat2 * gamma2 + beta2
    h = z @ w1.T
    a = F.gelu(h)
    logits = a @ w2.T
    if arguments.keep is not None:
        logits = logits.masked_fill(~arguments.keep[..., None], -torch.inf)
    return Hidden(xhat1, rstd1, xhat2, rstd2, z, h, a, logits)


def forward(*inputs_and_eps: Any) -> tuple[Tensor, Tensor]:
    """The eight `Arguments` and eps -> out [B,k,D] in x's dtype, lse [B,k] in float32 or better.

    lse is the natural logarithm of the sum over tokens of exp(logits). A video that shows nothing has lse
    -inf and out 0.
    """
    *inputs, eps = inputs_and_eps
    arguments = Arguments(*inputs)
    logits = hidden(arguments, eps).logits
    lse = logits.logsumexp(1)
    out = softmax(logits, lse).transpose(1, 2) @ arguments.x.to(logits.dtype)
    return out.to(arguments.x.dtype), lse


def backward(dout: Tensor, *inputs_and_rest: Any) -> tuple[Tensor, ...]:
    """dout, the eight `Arguments`, out, lse, eps -> the gradients of x, the four of the norms, w1, w2.

    dl = A (x dout^T - delta) with delta_i = dout_i . out_i;  dw2 = dl^T a;  dh = (dl w2) gelu'(h);
    dw1 = dh^T z;  dz = dh w1, through both norms to x, where A dout is added.
    """
    *inputs, out, lse, eps = inputs_and_rest
    arguments = Arguments(*inputs)
    between = hidden(arguments, eps)
    precise = between.h.dtype
    x, gamma1, _, gamma2, _, w1, w2 = (tensor.to(precise) for tensor in arguments.floating)
    dout, out = dout.to(precise), out.to(precise)
    weights = softmax(between.logits, lse)
    delta = (dout * out).sum(-1)
    dl = weights * (x @ dout.transpose(1, 2) - delta[:, None])
    dh = dl @ w2 * gelu_slope(between.h)
    dz = dh @ w1
    dy = standardise_backward(dz * gamma2, between.xhat2, between.rstd2)
    dx = standardise_backward(dy * gamma1, between.xhat1, between.rstd1) + weights @ dout
    rows = (0, 1)
    gradients = (
        dx,
        (dy * between.xhat1).sum(rows),
        dy.sum(rows),
        (dz * between.xhat2).sum(rows),
        dz.sum(rows),
        torch.einsum("bnj,bnd->jd", dh, between.z),
        torch.einsum("bnk,bnj->kj", dl, between.a),
    )
    # Outputs of a custom operator are contiguous.
    return tuple(g.to(t.dtype).contiguous() for g, t in zip(gradients, arguments.floating))


def softmax(logits: Tensor, lse: Tensor) -> Tensor:
    """A = exp(logits - lse), [B,N,k]; zeros in a video that shows nothing."""
    return (logits - lse.masked_fill(lse == -torch.inf, 0)[:, None]).exp()


def gelu_slope(h: Tensor) -> Tensor:
    """gelu'(h) = Phi(h) + h phi(h), with the distribution and the density of the normal law."""
    return 0.5 * (1 + torch.erf(h * 0.5**0.5)) + h * torch.exp(-0.5 * h * h) * (2 * torch.pi) ** -0.5


def _standardise(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """-> rows with mean 0 and deviation 1, and what they were multiplied by, [...,1]."""
    centred = x - x.mean(-1, keepdim=True)
    rstd = (centred.square().mean(-1, keepdim=True) + eps).rsqrt()
    return centred * rstd, rstd


def standardise_backward(gradient: Tensor, xhat: Tensor, rstd: Tensor) -> Tensor:
    """The gradient of `x` from that of `xhat`, for xhat, rstd = standardised x."""
    mean, slope = gradient.mean(-1, keepdim=True), (gradient * xhat).mean(-1, keepdim=True)
    return rstd * (gradient - mean - xhat * slope)
