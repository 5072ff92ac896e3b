"""The formula of grouped_attention in plain PyTorch, and the form of it that is used.

    y = x + softmax(q k^T / sqrt(d)) v   head by head, within each group of n tokens
    z = LN(y) = (y - mean) * rstd * norm_weight + norm_bias

`forward` and `backward` spell it out in float32 or better; they are what to read, and what the custom
operator runs when it is asked for this backend. `attend` is the same through `scaled_dot_product_attention`
and `layer_norm`: differentiable by autograd, and the backend `reference` of the public function.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from blip3v.ops.registry import Answer
from blip3v.ranges import op_range, ranged


def can_run(*arguments: Tensor) -> Answer:
    """It runs whatever passed the op's own checks."""
    return Answer(True)


@ranged(op_range, "grouped_attention reference")
def attend(
    x: Tensor, qkv: Tensor, norm_weight: Tensor, norm_bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Shapes as in `Arguments` -> y, z [R,n,D]."""
    q, k, v = (heads.transpose(1, 2) for heads in qkv.unbind(2))
    y = x + F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    if norm_weight.dtype == y.dtype:
        return y, F.layer_norm(y, y.shape[-1:], norm_weight, norm_bias, eps)
    # On a GPU layer_norm wants one dtype.
    wide = torch.promote_types(y.dtype, norm_weight.dtype)
    z = F.layer_norm(y.to(wide), y.shape[-1:], norm_weight.to(wide), norm_bias.to(wide), eps)
    return y, z.to(y.dtype)


def forward(
    x: Tensor, qkv: Tensor, norm_weight: Tensor, norm_bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """-> y, z [R,n,D]; mean, rstd [R,n] of the rows of y as they were rounded, in float32 or better."""
    q, k, v = _heads(qkv)
    y = (x.to(v.dtype) + torch.einsum("rhij,rjhd->rihd", probabilities(q, k), v).flatten(2)).to(x.dtype)
    rows = y.to(v.dtype)
    mean = rows.mean(-1)
    rstd = ((rows - mean[..., None]).square().mean(-1) + eps).rsqrt()
    z = normalized(rows, mean, rstd) * norm_weight + norm_bias
    return y, z.to(x.dtype), mean, rstd


def backward(
    dy: Tensor, dz: Tensor, qkv: Tensor, norm_weight: Tensor, y: Tensor, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """-> dx [R,n,D], dqkv [R,n,3,H,d], dnorm_weight [D], dnorm_bias [D].

    g = dz norm_weight;  dx = dy + rstd (g - mean(g) - h mean(g h)) with h the normalized row;
    dp = dx v^T;  ds = p (dp - rowsum(p dp));  dq = ds k / sqrt(d);  dk = ds^T q / sqrt(d);  dv = p^T dx.
    """
    q, k, v = _heads(qkv)
    dy, dz, rows, weight = (tensor.to(v.dtype) for tensor in (dy, dz, y, norm_weight))
    h = normalized(rows, mean, rstd)
    g = dz * weight
    dx = dy + rstd[..., None] * (g - g.mean(-1, keepdim=True) - h * (g * h).mean(-1, keepdim=True))
    p = probabilities(q, k)
    do = dx.unflatten(-1, v.shape[2:])
    dp = torch.einsum("rihd,rjhd->rhij", do, v)
    ds = p * (dp - (p * dp).sum(-1, keepdim=True)) * q.shape[-1] ** -0.5
    dqkv = torch.stack(
        (
            torch.einsum("rhij,rjhd->rihd", ds, k),
            torch.einsum("rhij,rihd->rjhd", ds, q),
            torch.einsum("rhij,rihd->rjhd", p, do),
        ),
        2,
    )
    dnorm_weight, dnorm_bias = (dz * h).sum((0, 1)), dz.sum((0, 1))
    kind = norm_weight.dtype
    return dx.to(y.dtype).contiguous(), dqkv.to(qkv.dtype), dnorm_weight.to(kind), dnorm_bias.to(kind)


def normalized(rows: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    return (rows - mean[..., None]) * rstd[..., None]


def probabilities(q: Tensor, k: Tensor) -> Tensor:
    """q, k [R,n,H,d] -> softmax over the keys, [R,H,n,n]."""
    return (torch.einsum("rihd,rjhd->rhij", q, k) * q.shape[-1] ** -0.5).softmax(-1)


def _heads(qkv: Tensor) -> tuple[Tensor, ...]:
    """q, k, v [R,n,H,d] in float32 or better."""
    return qkv.to(torch.promote_types(qkv.dtype, torch.float32)).unbind(2)
