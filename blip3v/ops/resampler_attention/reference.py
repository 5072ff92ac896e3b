"""The formula of resampler_attention in plain PyTorch, and the form of it that is used.

    s = scale * q [k_media ; k_latents]^T, -inf for a masked key
    p = softmax over the S + L keys,  out = p [v_media ; v_latents]

`forward` and `backward` spell it out with the scores in memory, in float32 or better. They are what to read,
what the other backends are compared with (in float64), and what the custom operator runs when it is asked for
this backend. `attend` is the same through `scaled_dot_product_attention`: differentiable by autograd, and the
backend `reference` of the public function.
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


def visible(k_media: Tensor, k_latents: Tensor, lengths: Tensor | None, keep: Tensor | None) -> Tensor | None:
    """[F,S+L] bool, True where a key may be seen; None where all may be. Latents are never masked."""
    if lengths is not None:
        inside = torch.arange(k_media.shape[1], device=k_media.device) < lengths[:, None]
        keep = inside if keep is None else keep & inside
    return None if keep is None else F.pad(keep, (0, k_latents.shape[1]), value=True)


@ranged(op_range, "resampler_attention reference")
def attend(
    q: Tensor,
    k_media: Tensor,
    v_media: Tensor,
    k_latents: Tensor,
    v_latents: Tensor,
    lengths: Tensor | None,
    keep: Tensor | None,
    scale: float,
) -> Tensor:
    """Shapes as in `Arguments` -> out [F,Q,H,d]."""
    k, v = torch.cat((k_media, k_latents), 1), torch.cat((v_media, v_latents), 1)
    seen = visible(k_media, k_latents, lengths, keep)
    anything = None
    if seen is not None and k_latents.shape[1] == 0:
        # A frame that sees nothing attends to everything and is then dropped: its output and all its
        # gradients are exact zeros, and no softmax over nothing is ever taken.
        anything = seen.any(1)
        seen = seen | ~anything[:, None]
    q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
    mask = None if seen is None else seen[:, None, None, :]
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale).transpose(1, 2)
    return out if anything is None else torch.where(anything[:, None, None, None], out, 0)


def forward(
    q: Tensor,
    k_media: Tensor,
    v_media: Tensor,
    k_latents: Tensor,
    v_latents: Tensor,
    lengths: Tensor | None,
    keep: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """-> out [F,Q,H,d] and lse [F,H,Q], the natural logarithm of the sum of exp(s), in float32 or better.

    A row that sees nothing has lse -inf and out 0.
    """
    lse = _scores(q, k_media, k_latents, lengths, keep, scale).logsumexp(-1)
    p = probabilities(q, k_media, k_latents, lengths, keep, lse, scale)
    out = torch.einsum("fhqk,fkhd->fqhd", p, torch.cat((v_media, v_latents), 1).to(p.dtype))
    return out.to(q.dtype).contiguous(), lse


def backward(
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
) -> tuple[Tensor, ...]:
    """-> dq, dk_media, dv_media, dk_latents, dv_latents.

    dv = p^T dout;  ds = p * (dout v^T - rowsum(dout * out));  dq = scale * ds k;  dk = scale * ds^T q.
    """
    media = k_media.shape[1]
    k, v = torch.cat((k_media, k_latents), 1), torch.cat((v_media, v_latents), 1)
    p = probabilities(q, k_media, k_latents, lengths, keep, lse, scale)
    q, k, v, out, dout = (tensor.to(p.dtype) for tensor in (q, k, v, out, dout))
    delta = torch.einsum("fqhd,fqhd->fhq", dout, out)
    ds = scale * p * (torch.einsum("fqhd,fkhd->fhqk", dout, v) - delta[..., None])
    dq = torch.einsum("fhqk,fkhd->fqhd", ds, k)
    dk = torch.einsum("fhqk,fqhd->fkhd", ds, q)
    dv = torch.einsum("fhqk,fqhd->fkhd", p, dout)
    parts = (dq, dk[:, :media], dv[:, :media], dk[:, media:], dv[:, media:])
    # Outputs of a custom operator are contiguous and share no memory.
    return tuple(part.to(k_media.dtype).clone(memory_format=torch.contiguous_format) for part in parts)


def probabilities(
    q: Tensor,
    k_media: Tensor,
    k_latents: Tensor,
    lengths: Tensor | None,
    keep: Tensor | None,
    lse: Tensor,
    scale: float,
) -> Tensor:
    """p = exp(s - lse), [F,H,Q,S+L] in float32 or better; zeros in a row that sees nothing."""
    scores = _scores(q, k_media, k_latents, lengths, keep, scale)
    return (scores - lse.masked_fill(lse == -torch.inf, 0)[..., None]).exp()


def _scores(
    q: Tensor,
    k_media: Tensor,
    k_latents: Tensor,
    lengths: Tensor | None,
    keep: Tensor | None,
    scale: float,
) -> Tensor:
    """s, [F,H,Q,S+L] in float32 or better."""
    precise = torch.promote_types(q.dtype, torch.float32)
    k = torch.cat((k_media, k_latents), 1)
    scores = scale * torch.einsum("fqhd,fkhd->fhqk", q.to(precise), k.to(precise))
    seen = visible(k_media, k_latents, lengths, keep)
    return scores if seen is None else scores.masked_fill(~seen[:, None, None, :], -torch.inf)
