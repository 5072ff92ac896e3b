"""grouped_attention in float64, and how far rounding can carry a correct kernel away from it.

A kernel that computes exactly except that it rounds p, ds, dx and its outputs to a type of unit roundoff u
is off by at most u * (|x| + terms), element by element, where `terms` is the sum of the absolute values of
what was added up. The LayerNorm and everything behind it follow from y as it was written, with its
rounding; so they are judged from that y.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from blip3v.ops.grouped_attention import reference
from blip3v.ops.grouped_attention.arguments import Arguments

ADDED_UP_BETTER = 1 / 16
"""Of the error of a rounded term: what a sum in float32 may add to it."""


class Exact(NamedTuple):
    """A result in float64, and the sum of the absolute values of its rounded terms."""

    value: Tensor
    terms: Tensor


def exact(
    arguments: Arguments, y: Tensor, eps: float, dy: Tensor | None = None, dz: Tensor | None = None
) -> dict[str, Exact]:
    """`y`, `z`, `mean`, `rstd`; with dy and dz also `dx`, `dqkv`, `dnorm_weight`, `dnorm_bias`.

    y: what is judged, [R,n,D].
    """
    x, qkv, weight, bias = (tensor.detach().double() for tensor in arguments)
    rows = y.detach().double()
    q, k, v = qkv.unbind(2)
    p = reference.probabilities(q, k)
    true_y = x + torch.einsum("rhij,rjhd->rihd", p, v).flatten(2)
    y_terms = x.abs() + torch.einsum("rhij,rjhd->rihd", p, v.abs()).flatten(2)
    mean = rows.mean(-1)
    rstd = ((rows - mean[..., None]).square().mean(-1) + eps).rsqrt()
    h = reference.normalized(rows, mean, rstd)
    z_terms = weight.abs() * rstd[..., None] * (rows.abs() + mean.abs()[..., None]) + bias.abs()
    # Relative to the size of what is summed: the mean of large numbers may be small.
    results = {
        "y": Exact(true_y, y_terms),
        "z": Exact(h * weight + bias, z_terms),
        "mean": Exact(mean, rows.abs().mean(-1)),
        "rstd": Exact(rstd, rstd),
    }
    if dy is None or dz is None:
        return results

    dy, dz = dy.double(), dz.double()
    gradients = reference.backward(dy, dz, qkv, weight, rows, mean, rstd)
    dx = gradients[0]
    g = dz * weight
    h_terms = rstd[..., None] * (rows.abs() + mean.abs()[..., None])
    means = g.abs().mean(-1, keepdim=True) + h_terms * (g * h).abs().mean(-1, keepdim=True)
    dx_terms = dy.abs() + rstd[..., None] * (g.abs() + means)

    scale = q.shape[-1] ** -0.5
    do = dx.unflatten(-1, v.shape[2:])
    dp = torch.einsum("rihd,rjhd->rhij", do, v)
    # dx is rounded before it is multiplied, and is itself a sum of larger terms, added up more precisely
    # than that.
    seen = do.abs() + ADDED_UP_BETTER * dx_terms.unflatten(-1, v.shape[2:])
    dp_error = torch.einsum("rihd,rjhd->rhij", seen, v.abs())
    centred = (dp - (p * dp).sum(-1, keepdim=True)).abs()
    ds_terms = scale * p * (centred + dp_error + (p * dp_error).sum(-1, keepdim=True))
    dqkv_terms = torch.stack(
        (
            torch.einsum("rhij,rjhd->rihd", ds_terms, k.abs()),
            torch.einsum("rhij,rihd->rjhd", ds_terms, q.abs()),
            torch.einsum("rhij,rihd->rjhd", p, seen),
        ),
        2,
    )
    terms = (dx_terms, dqkv_terms, (dz.abs() * h_terms).sum((0, 1)), dz.abs().sum((0, 1)))
    names = ("dx", "dqkv", "dnorm_weight", "dnorm_bias")
    return results | {name: Exact(*pair) for name, pair in zip(names, zip(gradients, terms))}
