"""Perceiver-Resampler: [B,T,S,dim] patch features -> [B,T,num_latents,dim] frame tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blip3v.models.blocks import attend, feed_forward


class PerceiverAttention(nn.Module):
    """Latents attend to the media tokens and to themselves: one softmax over S + L keys.

    Formula (BLIP-3, after Flamingo): q = LN(lat) Wq; k, v = [LN(x) ; LN(lat)] Wkv; softmax(q k^T / sqrt(d))
    v Wo.
    """

    def __init__(self, dim: int, heads: int, dim_head: int, implementation: str = "sdpa") -> None:
        super().__init__()
        self.heads, self.implementation = heads, implementation
        inner = heads * dim_head
        self.norm_media = nn.LayerNorm(dim)
        self.norm_latents = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_kv = nn.Linear(dim, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, dim, bias=False)

    def forward(
        self, media: Tensor, media_hat: Tensor, latents: Tensor, keep: Tensor | None = None
    ) -> Tensor:
        """media [F,S,dim], media_hat the same normalised **without** affine, latents [F,L,dim], keep [F,S]
        bool -> [F,L,dim].
        """
        normed = self.norm_latents(latents)
        kv = torch.cat([self._media_keys_values(media, media_hat), self.to_kv(normed)], dim=1)
        k, v = kv.unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q = self.to_q(normed).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        if keep is not None:
            keep = F.pad(keep, (0, latents.shape[1]), value=True)[
                :, None, None, :
            ]  # latents are never masked
        out = attend(q, k, v, keep, self.implementation)
        return self.to_out(out.transpose(1, 2).flatten(2))

    def _media_keys_values(self, media: Tensor, media_hat: Tensor) -> Tensor:
        """LN(x) Wkv: [F,S,dim] -> [F,S,2*inner]."""
        if not (_is_plain(self.norm_media, nn.LayerNorm) and _is_plain(self.to_kv, nn.Linear)):
            return self.to_kv(self.norm_media(media))
        # (x_hat * gamma + beta) Wkv = x_hat (gamma Wkv) + beta Wkv: all layers share x_hat, and when the
        # vision encoder is frozen no gradient of the size of the media tokens is ever computed.
        weight = self.to_kv.weight
        return F.linear(media_hat, weight * self.norm_media.weight, F.linear(self.norm_media.bias, weight))


def _is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether its weights say all a module does: no adapter in its place, no offloading or user's hook."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, getattr(module, "_hf_hook", None))
    return type(module) is kind and not any(hooks)


class ResamplerLayer(nn.ModuleList):
    """latents + attention, then latents + feed-forward; its children bear the published names 0 and 1."""

    def __init__(self, dim: int, heads: int, dim_head: int, ff_mult: int, implementation: str) -> None:
        super().__init__(
            [PerceiverAttention(dim, heads, dim_head, implementation), feed_forward(dim, ff_mult)]
        )

    def forward(
        self, media: Tensor, media_hat: Tensor, latents: Tensor, keep: Tensor | None = None
    ) -> Tensor:
        attention, ff = self
        latents = latents + attention(media, media_hat, latents, keep)
        return latents + ff(latents)


class PerceiverResampler(nn.Module):
    """`num_latents` learned tokens read each frame through `depth` cross-attention layers.

    Args:
        dim: width of media tokens and latents.
        depth, heads, dim_head, ff_mult: layers, attention heads, channels per head, feed-forward multiple.
        num_latents: tokens per frame.
    """

    def __init__(
        self,
        dim: int = 1152,
        depth: int = 6,
        heads: int = 16,
        dim_head: int = 96,
        num_latents: int = 128,
        ff_mult: int = 4,
        implementation: str = "sdpa",
    ) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.empty(num_latents, dim))
        self.layers = nn.ModuleList(
            ResamplerLayer(dim, heads, dim_head, ff_mult, implementation) for _ in range(depth)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Latents start as N(0, 1)."""
        nn.init.normal_(self.latents)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """x [B,T,S,dim], optional keep [B,T,S] bool (True = a real token) -> [B,T,num_latents,dim].

        Raises:
            ValueError: x is not [B,T,S,dim].
        """
        if x.ndim != 4 or x.shape[-1] != self.latents.shape[-1]:
            raise ValueError(
                f"the resampler needs x [B,T,S,{self.latents.shape[-1]}], got {tuple(x.shape)}; "
                "one image is a video of one frame: x[:, None]"
            )
        batch, frames = x.shape[:2]
        x = x.flatten(0, 1)
        keep = None if keep is None else keep.flatten(0, 1)
        media_hat = F.layer_norm(x, x.shape[-1:], eps=1e-5)
        latents = self.latents.to(x.dtype).expand(len(x), -1, -1)
        for layer in self.layers:
            latents = layer(x, media_hat, latents, keep)
        return latents.unflatten(0, (batch, frames))
