"""Blocks that the resampler and the temporal encoders share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blip3v.errors import UserError
from blip3v.ops.registry import AUTO, wished


def attend(
    q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None = None, implementation: str = "sdpa"
) -> Tensor:
    """softmax(q k^T / sqrt(d)) v for q [B,H,Q,d] and k, v [B,H,K,d] -> [B,H,Q,d].

    `keep` is a boolean mask that broadcasts to [B,H,Q,K], True where a key may be seen. `eager` spells the
    formula out and is the one to read; `sdpa` calls PyTorch's fused kernels.
    """
    if implementation == "eager":
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        if keep is not None:
            scores = scores.masked_fill(~keep, torch.finfo(scores.dtype).min)
        precise = torch.promote_types(scores.dtype, torch.float32)
        return scores.softmax(dim=-1, dtype=precise).to(v.dtype) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=keep)


def feed_forward(dim: int, mult: int) -> nn.Sequential:
    """LN -> Linear(dim, mult * dim) -> GELU (erf) -> Linear(mult * dim, dim), no biases."""
    return nn.Sequential(
        nn.LayerNorm(dim),
        nn.Linear(dim, mult * dim, bias=False),
        nn.GELU(),
        nn.Linear(mult * dim, dim, bias=False),
    )


def is_plain(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether its weights say all a module does: no adapter in its place, no offloading or user's hook."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, getattr(module, "_hf_hook", None))
    return type(module) in kinds and not any(hooks)


def refuse_named_kernel(op: str, device: torch.device) -> None:
    """For modules that run `op` themselves, because adapters and hooks are heard by modules only.

    Raises:
        UserError: a backend of `op` other than `reference` was asked for by name.
    """
    name = wished(op, None, str(device))
    if name not in ("reference", AUTO):
        raise UserError(
            f"{op}: backend {name} was asked for, but layers with adapters or hooks run on the reference "
            "only: merge the adapters or remove the hooks"
        )


class SelfAttention(nn.Module):
    """Pre-LN self-attention, x [B,N,dim] -> [B,N,dim], **without** output projection.

    With `last`, only the last so many tokens ask: -> [B,last,dim].
    """

    def __init__(self, dim: int, heads: int, implementation: str = "sdpa") -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"width {dim} does not divide into {heads} heads")
        self.heads, self.implementation = heads, implementation
        self.norm = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_k = nn.Linear(dim, dim, bias=False)
        self.to_v = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, last: int | None = None) -> Tensor:
        normed = self.norm(x)
        asking = normed if last is None else normed[:, -last:]
        q, k, v = (
            linear(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for linear, tokens in ((self.to_q, asking), (self.to_k, normed), (self.to_v, normed))
        )
        return attend(q, k, v, implementation=self.implementation).transpose(1, 2).flatten(2)


class TransformerLayer(nn.ModuleList):
    """x + attention(x), then x + feed-forward(x); its children bear the published names 0 and 1.

    With `last`, only the last so many tokens are computed, for a top layer whose others nobody reads.
    """

    def __init__(self, dim: int, heads: int, ff_mult: int, implementation: str = "sdpa") -> None:
        super().__init__([SelfAttention(dim, heads, implementation), feed_forward(dim, ff_mult)])

    def forward(self, x: Tensor, last: int | None = None) -> Tensor:
        attention, ff = self
        x = (x if last is None else x[:, -last:]) + attention(x, last)
        return x + ff(x)


def transformer(
    depth: int, dim: int, heads: int, ff_mult: int, implementation: str = "sdpa"
) -> nn.Sequential:
    """`depth` layers, x [B,N,dim] -> [B,N,dim], no final LayerNorm."""
    return nn.Sequential(*(TransformerLayer(dim, heads, ff_mult, implementation) for _ in range(depth)))
