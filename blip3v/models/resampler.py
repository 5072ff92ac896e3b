"""Perceiver-Resampler: [B,T,S,dim] patch features -> [B,T,num_latents,dim] frame tokens."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blip3v.models.blocks import attend, feed_forward, is_plain
from blip3v.ops.resampler_attention import resampler_attention
from blip3v.ranges import ranged, stage_range


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

    @ranged(stage_range, "resampler attention")
    def forward(self, media_kv: Tensor, latents: Tensor, keep: Tensor | None = None) -> Tensor:
        """media_kv [F,S,2*inner], see `project_media`; latents [F,L,dim], keep [F,S] bool -> [F,L,dim]."""
        normed = self.norm_latents(latents)
        q = self.to_q(normed).unflatten(-1, (self.heads, -1))
        k_media, v_media = media_kv.unflatten(-1, (2, self.heads, -1)).unbind(2)
        k_latents, v_latents = self.to_kv(normed).unflatten(-1, (2, self.heads, -1)).unbind(2)
        if self.implementation == "eager":
            out = _eager(q, k_media, v_media, k_latents, v_latents, keep)
        else:
            out = resampler_attention(q, k_media, v_media, k_latents, v_latents, keep=keep)
        return self.to_out(out.flatten(2))

    def project_media(self, media: Tensor, media_hat: Tensor) -> Tensor:
        """LN(x) Wkv: media [F,S,dim], media_hat the same normalised **without** affine -> [F,S,2*inner]."""
        if not self.is_plain:
            return self.to_kv(self.norm_media(media))
        return F.linear(media_hat, *self.folded_projection())

    @property
    def is_plain(self) -> bool:
        """Whether the media projection is nothing but its weights: no adapter, no offloading, no hook."""
        return is_plain(self.norm_media, nn.LayerNorm) and is_plain(self.to_kv, nn.Linear)

    def folded_projection(self) -> tuple[Tensor, Tensor]:
        """Weight [2*inner,dim] and bias [2*inner] that make LN(x) Wkv of x_hat, x normalised without affine.

        (x_hat * gamma + beta) Wkv = x_hat (gamma Wkv) + beta Wkv: all layers share x_hat, and when the vision
        encoder is frozen no gradient of the size of the media tokens is ever computed.
        """
        weight = self.to_kv.weight
        return weight * self.norm_media.weight, F.linear(self.norm_media.bias, weight)


def _eager(
    q: Tensor, k_media: Tensor, v_media: Tensor, k_latents: Tensor, v_latents: Tensor, keep: Tensor | None
) -> Tensor:
    """The same attention with its scores in memory, [F,L,H,d] -> [F,L,H,d]."""
    if keep is not None:
        keep = F.pad(keep, (0, k_latents.shape[1]), value=True)[:, None, None, :]  # latents are never masked
    k, v = torch.cat((k_media, k_latents), 1), torch.cat((v_media, v_latents), 1)
    q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
    return attend(q, k, v, keep, "eager").transpose(1, 2)


class ResamplerLayer(nn.ModuleList):
    """latents + attention, then latents + feed-forward; its children bear the published names 0 and 1."""

    def __init__(self, dim: int, heads: int, dim_head: int, ff_mult: int, implementation: str) -> None:
        super().__init__(
            [PerceiverAttention(dim, heads, dim_head, implementation), feed_forward(dim, ff_mult)]
        )

    def forward(self, media_kv: Tensor, latents: Tensor, keep: Tensor | None = None) -> Tensor:
        attention, ff = self
        latents = latents + attention(media_kv, latents, keep)
        return latents + ff(latents)


class PerceiverResampler(nn.Module):
    """`num_latents` learned tokens read each frame through `depth` cross-attention layers.

    Args:
        dim: width of media tokens and latents.
        depth, heads, dim_head, ff_mult: layers, attention heads, channels per head, feed-forward multiple.
        num_latents: tokens per frame.
        implementation: `sdpa` for the operator `blip3v.ops.resampler_attention`, whose backend may be chosen,
            or `eager` for the formula with its scores in memory.
        hoist_media: project the media tokens to the keys and values of all layers at once, in one product.
            The same FLOPs in fewer passes, for the memory of `depth` projections at a time (215 MB per video
            of 8 frames in bfloat16 at the 4B widths). Layers with adapters or hooks keep their own.
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
        hoist_media: bool = False,
    ) -> None:
        super().__init__()
        self.hoist_media = hoist_media
        self.latents = nn.Parameter(torch.empty(num_latents, dim))
        self.layers = nn.ModuleList(
            ResamplerLayer(dim, heads, dim_head, ff_mult, implementation) for _ in range(depth)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Latents start as N(0, 1)."""
        nn.init.normal_(self.latents)

    @ranged(stage_range, "resampler")
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
        # Back in x's dtype at once: autocast makes it float32, and each layer would keep a copy of its own.
        media_hat = F.layer_norm(x, x.shape[-1:], eps=1e-5).to(x.dtype)
        latents = self.latents.to(x.dtype).expand(len(x), -1, -1)
        for layer, media_kv in zip(self.layers, self._media_keys_values(x, media_hat)):
            latents = layer(media_kv, latents, keep)
        return latents.unflatten(0, (batch, frames))

    def _media_keys_values(self, media: Tensor, media_hat: Tensor) -> Iterable[Tensor]:
        """Keys and values of the media tokens, layer by layer: [F,S,2*inner] each."""
        attentions = [module for module in self.modules() if isinstance(module, PerceiverAttention)]
        if not (self.hoist_media and all(attention.is_plain for attention in attentions)):
            return (attention.project_media(media, media_hat) for attention in attentions)
        weights, biases = zip(*(attention.folded_projection() for attention in attentions))
        together = F.linear(media_hat, torch.cat(weights), torch.cat(biases))
        return together.unflatten(-1, (len(attentions), -1)).unbind(2)
