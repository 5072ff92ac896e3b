"""Blocks that the resampler and the temporal encoders share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def attend(
    q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None = None, implementation: str = "sdpa"
) -> Tensor:
    """softmax(q k^T / sqrt(d)) v for q [B,H,Q,d] and k, v [B,H,K,d] -> [B,H,Q,d].

    `keep` is a boolean mask that broadcasts to [B,H,Q,K], True where a key may be seen. `eager` spells the formula
    out and is the one to read; `sdpa` calls PyTorch's fused kernels.
    """
    if implementation == "eager":
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        if keep is not None:
            scores = scores.masked_fill(~keep, torch.finfo(scores.dtype).min)
        precise = torch.promote_types(scores.dtype, torch.float32)
        return scores.softmax(dim=-1, dtype=precise).to(v.dtype) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=keep)


def feed_forward(dim: int, mult: int) -> nn.Sequential:
    """LN -> Linear(dim, mult * dim) -> GELU (erf) -> Linear(mult * dim, dim), no biases; published names 0, 1, 3."""
    return nn.Sequential(
        nn.LayerNorm(dim),
        nn.Linear(dim, mult * dim, bias=False),
        nn.GELU(),
        nn.Linear(mult * dim, dim, bias=False),
    )


class SelfAttention(nn.Module):
    """Pre-LN self-attention of the temporal encoders: x [B,N,dim] -> [B,N,dim], **without** output projection."""

    def __init__(self, dim: int, heads: int, implementation: str = "sdpa") -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"width {dim} does not divide into {heads} heads")
        self.heads, self.implementation = heads, implementation
        self.norm = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_k = nn.Linear(dim, dim, bias=False)
        self.to_v = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        q, k, v = (
            linear(normed).unflatten(-1, (self.heads, -1)).transpose(1, 2) for linear in self._projections()
        )
        return attend(q, k, v, implementation=self.implementation).transpose(1, 2).flatten(2)

    def _projections(self) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
        return self.to_q, self.to_k, self.to_v


def transformer_layers(
    depth: int, dim: int, heads: int, ff_mult: int, implementation: str = "sdpa"
) -> nn.ModuleList:
    """`depth` pairs of (SelfAttention, feed-forward), under the published names `i.0` and `i.1`."""
    return nn.ModuleList(
        nn.ModuleList([SelfAttention(dim, heads, implementation), feed_forward(dim, ff_mult)])
        for _ in range(depth)
    )


def run_transformer(layers: nn.ModuleList, x: Tensor) -> Tensor:
    """x [B,N,dim] -> [B,N,dim]: residual attention, residual feed-forward, no final LayerNorm."""
    for attention, ff in layers:
        x = x + attention(x)
        x = x + ff(x)
    return x
