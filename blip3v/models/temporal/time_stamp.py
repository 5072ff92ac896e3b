"""The sinusoidal code of a frame's index."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TimeStamp(nn.Module):
    """PE(t): sin and cos interleaved, inv_freq_k = 10000^(-2k / dim), k = 0 .. dim/2 - 1.

    `inv_freq` [dim/2] is stored in checkpoints, as the released models do.
    """

    inv_freq: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer("inv_freq", torch.empty(dim // 2))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Fill the frequencies."""
        with torch.no_grad():
            self.inv_freq.copy_(10000.0 ** (-torch.arange(0, self.dim, 2, dtype=torch.float32) / self.dim))

    def forward(self, first: int, frames: int) -> Tensor:
        """Codes of the frames first .. first + frames - 1: [frames, dim], float32."""
        times = torch.arange(first, first + frames, device=self.inv_freq.device, dtype=torch.float32)
        angles = times[:, None] * self.inv_freq.float()
        return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)

    def stamp(self, x: Tensor, first: int = 0) -> Tensor:
        """x [B,T,S,dim] + PE(first + t), in the dtype of x."""
        return x + self(first, x.shape[1]).to(x.dtype)[:, None]
