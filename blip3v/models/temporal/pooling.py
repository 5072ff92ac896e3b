"""Temporal encoders without parameters: pooling over time, or nothing at all."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F


class TemporalPool(nn.Module):
    """[B,T,S,dim] -> [B,S,dim]: sum (the paper's formula), mean or max over the T frames."""

    def __init__(self, mode: Literal["sum", "mean", "max"]) -> None:
        super().__init__()
        self.mode = mode

    def forward(self, x: Tensor) -> Tensor:
        if self.mode == "max":
            return x.amax(dim=1)
        return x.sum(dim=1) if self.mode == "sum" else x.mean(dim=1)


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
