"""Temporal encoders without parameters: pooling over time, or nothing at all."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# torch.sum's order on a CPU: 16 frames one after another, then 16 such sums, ... on 4 levels. Besides equal
# bits, it keeps the rounding error of a long stream far below that of one running sum.
BLOCK, LEVELS = 16, 4


class RunningPool(NamedTuple):
    """What a pool keeps of the frames so far; none of it grows.

    Attributes:
        parts: sum and mean: [LEVELS,B,S,dim] in float32 or better, blocks not yet passed on to the next
            level. max: [B,S,dim].
        frames: how many there were.
        dtype: of the frames, and of the pooled tokens.
    """

    parts: Tensor
    frames: int
    dtype: torch.dtype


class TemporalPool(nn.Module):
    """[B,T,S,dim] -> [B,S,dim]: sum (the paper's formula), mean or max over the T frames."""

    def __init__(self, mode: Literal["sum", "mean", "max"]) -> None:
        super().__init__()
        self.mode = mode

    def forward(self, x: Tensor) -> Tensor:
        if self.mode == "max":
            return x.amax(dim=1)
        return x.sum(dim=1) if self.mode == "sum" else x.mean(dim=1)

    def start(self, x: Tensor) -> RunningPool:
        """Nothing pooled yet, for frames of the size and dtype of x [B,T,S,dim]."""
        if self.mode == "max":
            return RunningPool(torch.full_like(x[:, 0], -torch.inf), 0, x.dtype)
        wide = torch.promote_types(x.dtype, torch.float32)
        return RunningPool(x.new_zeros((LEVELS, *x[:, 0].shape), dtype=wide), 0, x.dtype)

    def advance(self, pool: RunningPool, x: Tensor, first: int = 0) -> RunningPool:
        """Pool further frames x [B,T,S,dim]; `first`, the index of the first of them, changes nothing here.

        On a CPU, `read_out` then gives the bits of `forward` on all frames at once, if S * dim is a multiple
        of 16 and there are at most 2^19 frames (else within float32 rounding).
        """
        if self.mode == "max":
            return pool._replace(
                parts=torch.maximum(pool.parts, x.amax(dim=1)), frames=pool.frames + x.shape[1]
            )
        parts, frames = pool.parts.clone(), pool.frames
        for frame in x.unbind(dim=1):
            parts[0] += frame
            frames += 1
            level = 1
            while level < LEVELS and frames % BLOCK**level == 0:
                parts[level] += parts[level - 1]
                parts[level - 1] = 0
                level += 1
        return pool._replace(parts=parts, frames=frames)

    def read_out(self, pool: RunningPool) -> Tensor:
        """The pooled tokens so far, [B,S,dim] in the dtype of the frames."""
        if self.mode == "max":
            return pool.parts
        total = pool.parts[0]
        for part in pool.parts[1:]:
            total = total + part
        return (total if self.mode == "sum" else total / pool.frames).to(pool.dtype)


class SpaceTimeMaxPool(nn.Module):
    """[B,T,S,dim] -> [B, times * per_time, dim]: max over the cells of a grid laid over (T, S).

    The paper's "space-time max pooling 4 x 8" is read as 4 tokens for each of 8 times. Cells are those of
    `adaptive_max_pool2d`, so any number of frames gives the same number of tokens.
    """

    def __init__(self, times: int, per_time: int) -> None:
        super().__init__()
        self.grid = (times, per_time)

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_max_pool2d(x.permute(0, 3, 1, 2), self.grid).flatten(2).transpose(1, 2)


class AllFrameTokens(nn.Module):
    """No temporal encoder: [B,T,S,dim] -> [B,T*S,dim]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1, 2)
