"""How a step is spread over devices: the interface that the loop knows, and its simplest case."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import Tensor, nn


class Parallel(Protocol):
    """What the loop needs. `rank` of `world_size` processes each take every world_size-th batch."""

    device: torch.device
    rank: int
    world_size: int

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model on this process's device, as it is called in the loop."""
        ...

    def accumulate(self, model: nn.Module, last: bool) -> AbstractContextManager[None]:
        """Around one backward pass; gradients need to be exchanged in the last of a step only."""
        ...

    def total(self, value: int) -> int:
        """Sum of a number over all processes."""
        ...

    def total_loss(self, loss: Tensor) -> Tensor:
        """Sum of a detached scalar over all processes."""
        ...

    def clip(self, parameters: list[nn.Parameter], max_norm: float) -> Tensor:
        """Scale the gradient down to max_norm and return the norm that it had."""
        ...


class SingleDevice:
    """One process, one device: the GPU where there is one, else the CPU."""

    rank, world_size = 0, 1

    def __init__(self, device: str | torch.device | None = None) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))

    def wrap(self, model: nn.Module) -> nn.Module:
        return model.to(self.device)

    def accumulate(self, model: nn.Module, last: bool) -> AbstractContextManager[None]:
        return nullcontext()

    def total(self, value: int) -> int:
        return value

    def total_loss(self, loss: Tensor) -> Tensor:
        return loss

    def clip(self, parameters: list[nn.Parameter], max_norm: float) -> Tensor:
        return nn.utils.clip_grad_norm_(parameters, max_norm)
