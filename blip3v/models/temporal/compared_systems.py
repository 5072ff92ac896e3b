"""The token reducers of the systems that the paper compares with, as modules of this model.

All of them map patch features [B,T,P*P,dim], rows of the P x P grid one after another, to video tokens
[B,M,dim]. They exist to compare token count, latency and memory, so the step that sets M follows its system,
and what comes before and after it (vision encoder, projector, prompt, weights) is this project's.
`blip3v.models.token_count` counts each M.
"""

from __future__ import annotations

from math import isqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blip3v.models.blocks import attend
from blip3v.models.temporal.time_stamp import TimeStamp


def _as_grid(x: Tensor) -> Tensor:
    """[B,T,P*P,dim] -> [B,dim,T,P,P]."""
    if x.ndim != 4 or isqrt(x.shape[2]) ** 2 != x.shape[2]:
        raise ValueError(f"expected square patch grids [B,T,P*P,dim], got {tuple(x.shape)}")
    side = isqrt(x.shape[2])
    return x.unflatten(2, (side, side)).permute(0, 4, 1, 2, 3)


def _as_tokens(grid: Tensor) -> Tensor:
    """[B,dim,T,H,W] -> [B,T*H*W,dim]."""
    return grid.flatten(2).transpose(1, 2)


class VideoChatGPT(nn.Module):
    """Mean over time at each position, then mean over space of each frame: M = P*P + T.

    Kept: both averages and their order. Simplified: the features are SigLIP's, not CLIP's.
    """

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x.mean(dim=1), x.mean(dim=2)], dim=1)


class PLLaVA(nn.Module):
    """Adaptive average pooling over (time, height, width): M = T * min(P, 12)^2.

    Kept: grids of 12 x 12 and all frames. Simplified: the projector comes last here, after pooling.
    """

    def forward(self, x: Tensor) -> Tensor:
        grid = _as_grid(x)
        side = min(grid.shape[-1], 12)
        return _as_tokens(F.adaptive_avg_pool3d(grid, (None, side, side)))


class _QFormerAttention(nn.Module):
    """Multi-head attention from x to a context, with biases and an output projection."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, dim)
        self.to_kv = nn.Linear(dim, 2 * dim)
        self.to_out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        q = self.to_q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.to_kv(context).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.to_out(attend(q, k, v).transpose(1, 2).flatten(2))


class _QFormerLayer(nn.Module):
    """Post-LN: self-attention of the queries, cross-attention to the frames, GELU feed-forward."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.self_attention = _QFormerAttention(dim, heads)
        self.self_norm = nn.LayerNorm(dim)
        self.cross_attention = _QFormerAttention(dim, heads)
        self.cross_norm = nn.LayerNorm(dim)
        self.ff = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.ff_norm = nn.LayerNorm(dim)

    def forward(self, queries: Tensor, frames: Tensor) -> Tensor:
        queries = self.self_norm(queries + self.self_attention(queries, queries))
        queries = self.cross_norm(queries + self.cross_attention(queries, frames))
        return self.ff_norm(queries + self.ff(queries))


class VideoLLaMA(nn.Module):
    """A two-layer Q-Former over the tokens of all frames, which carry their frame's position: M = `tokens`.

    Kept: learned queries, BERT's layer order (post-LN, biases), cross-attention in both layers. Simplified:
    it reads patches, not the 32 outputs of an image Q-Former per frame; positions are sinusoids, so any T
    works, and not a learned table; random weights, not BERT's; 8 heads (fewer where 8 does not divide `dim`),
    no audio branch.
    """

    def __init__(self, dim: int, tokens: int) -> None:
        super().__init__()
        heads = next(h for h in (8, 4, 2, 1) if dim % h == 0)
        self.queries = nn.Parameter(torch.empty(tokens, dim))
        self.pos_emb = TimeStamp(dim)
        self.norm = nn.LayerNorm(dim)
        self.layers = nn.ModuleList(_QFormerLayer(dim, heads) for _ in range(2))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Queries start as N(0, 0.02), BERT's scale."""
        nn.init.normal_(self.queries, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        frames = self.pos_emb.stamp(x).flatten(1, 2)
        queries = self.norm(self.queries.to(x.dtype)).expand(len(x), -1, -1)
        for layer in self.layers:
            queries = layer(queries, frames)
        return queries


class Kangaroo(nn.Module):
    """Depthwise 3-D convolution over 2 x 2 x 2 cells, then a pointwise layer: M = ceil(T/2) * ceil(P/2)^2.

    Kept: patchifying time and space by a depthwise 3-D convolution. Simplified: one cell size for any
    resolution; zeros complete a cell at the far end of an odd axis.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.patchify = nn.Conv3d(dim, dim, kernel_size=2, stride=2, groups=dim)
        self.pointwise = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        grid = _as_grid(x)
        frames, side = grid.shape[2], grid.shape[3]
        grid = F.pad(grid, (0, side % 2, 0, side % 2, 0, frames % 2))
        return self.pointwise(_as_tokens(self.patchify(grid)))


class MiniGPT4Video(nn.Module):
    """Four neighbouring tokens of a frame concatenated and projected to one: M = T * ceil(P*P / 4).

    Kept: neighbours are consecutive tokens in row order, all frames stay. Simplified: the linear layer
    returns to `dim` instead of the language model's width; zeros complete the last four; no subtitle tokens.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.merge = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x, (0, 0, 0, -x.shape[2] % 4))
        return self.merge(padded.unflatten(2, (-1, 4)).flatten(3)).flatten(1, 2)


class LLaVANeXTVideo(nn.Module):
    """2 x 2 average pooling of each frame, a last odd row and column dropped: M = T * floor(P/2)^2.

    Kept: pooling, stride and all frames. Simplified: the projector comes last here, after pooling.
    """

    def forward(self, x: Tensor) -> Tensor:
        grid = _as_grid(x)
        if grid.shape[-1] < 2:
            raise ValueError(
                "LLaVA-NeXT-Video pools cells of 2 x 2 patches, and these frames have only one patch"
            )
        pooled = F.avg_pool2d(grid.flatten(1, 2), 2)  # frames ride along as channels
        return _as_tokens(pooled.unflatten(1, (-1, grid.shape[2])))


class LLaVAOneVision(nn.Module):
    """Bilinear resampling of each frame's grid to half, rounded up: M = T * ceil(P/2)^2.

    Kept: bilinear without antialias, and all frames. Simplified: the projector comes last here, after
    resampling, and no newline token closes the video.
    """

    def forward(self, x: Tensor) -> Tensor:
        grid = _as_grid(x)
        frames, side = grid.shape[2], (grid.shape[-1] + 1) // 2
        halved = F.interpolate(grid.flatten(1, 2), size=(side, side), mode="bilinear", align_corners=False)
        return _as_tokens(halved.unflatten(1, (-1, frames)))


class Tarsier(nn.Module):
    """Every token of every frame: M = T * P*P. Kept: exactly that; nothing to simplify, no parameters."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1, 2)
