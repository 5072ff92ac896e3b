"""The formula of ttm_read in plain PyTorch, and the form of it that is used.

    group = [memory ; frame + stamp],  normed = LN(group)

`forward` and `backward` spell it out, the LayerNorm in float32 or better. They are what to read, what the
other backends are compared with (in float64), and what the custom operator runs when it is asked for this
backend. `read` is the same in the dtypes of its arguments and of autocast: differentiable by autograd, and
the backend `reference` of the public function.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from blip3v.ops.registry import Answer
from blip3v.ranges import op_range, ranged


def can_run(*arguments: Tensor | None) -> Answer:
    """It runs whatever passed the op's own checks."""
    return Answer(True)


def concatenate(memory: Tensor, frame: Tensor, stamp: Tensor | None) -> Tensor:
    """[B,S,G,D], [B,S,D] -> the group [B,S,G+1,D]; the stamp is rounded to the frame's dtype before it is
    added."""
    if stamp is not None:
        frame = frame + stamp.to(frame.dtype)
    return torch.cat([memory, frame.unsqueeze(2)], dim=2)


@ranged(op_range, "ttm_read reference")
def read(
    memory: Tensor, frame: Tensor, stamp: Tensor | None, norm_weight: Tensor, norm_bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Shapes as in `Arguments` -> group, normed [B,S,G+1,D]."""
    group = concatenate(memory, frame, stamp)
    if not torch.is_autocast_enabled(group.device.type):
        norm_weight, norm_bias = norm_weight.to(group.dtype), norm_bias.to(group.dtype)
    return group, F.layer_norm(group, group.shape[-1:], norm_weight, norm_bias, eps)


def forward(
    memory: Tensor, frame: Tensor, stamp: Tensor | None, norm_weight: Tensor, norm_bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """-> group, normed [B,S,G+1,D] in memory's dtype; mean, rstd [B,S,G+1] in float32 or better."""
    group = concatenate(memory, frame, stamp)
    return group, *layer_norm(group, norm_weight, norm_bias, eps)


def layer_norm(
    group: Tensor, norm_weight: Tensor, norm_bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """group [...,D] -> normed [...,D] in its dtype; mean, rstd [...] in float32 or better."""
    precise = torch.promote_types(group.dtype, torch.float32)
    x = group.to(precise)
    mean = x.mean(-1)
    centred = x - mean[..., None]
    rstd = (centred.square().mean(-1) + eps).rsqrt()
    normed = centred * rstd[..., None] * norm_weight.to(precise) + norm_bias.to(precise)
    return normed.to(group.dtype), mean, rstd


def backward(
    dgroup: Tensor, dnormed: Tensor, group: Tensor, norm_weight: Tensor, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """-> dmemory [B,S,G,D], dframe [B,S,D], dnorm_weight, dnorm_bias [D], each contiguous."""
    dx, dweight, dbias = group_backward(dgroup, dnormed, group, norm_weight, mean, rstd)
    dx = dx.to(group.dtype)
    return dx[:, :, :-1].clone(), dx[:, :, -1].clone(), dweight, dbias


def group_backward(
    dgroup: Tensor, dnormed: Tensor, group: Tensor, norm_weight: Tensor, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """-> the gradient of the group, which dgroup reached directly, in float32 or better, and the LayerNorm's
    own.

    With xhat = (x - mean) rstd and g = dnormed norm_weight: dx = dgroup + rstd (g - mean(g) - xhat mean(g
    xhat)).
    """
    precise = mean.dtype
    xhat = (group.to(precise) - mean[..., None]) * rstd[..., None]
    dnormed = dnormed.to(precise)
    g = dnormed * norm_weight.to(precise)
    slope = (g * xhat).mean(-1, keepdim=True)
    dx = dgroup.to(precise) + rstd[..., None] * (g - g.mean(-1, keepdim=True) - xhat * slope)
    rows = tuple(range(group.ndim - 1))
    dtype = norm_weight.dtype
    return dx, (dnormed * xhat).sum(rows).to(dtype), dnormed.sum(rows).to(dtype)
