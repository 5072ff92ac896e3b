"""What the loop needs of a way to spread a step."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor, nn


class Parallel(Protocol):
    """`world_size` processes, of which this one is `rank`, share the micro-batches of a step.

    Every call is made by all processes, in the same order. Gradients are **averaged** over processes, so a
    process hands in its share of the loss times `world_size`.
    """

    device: torch.device
    rank: int
    world_size: int

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model on this process's device, as it is called in the loop.

        It is put there in place. What needs no gradient now is taken to stay frozen.
        """
        ...

    def accumulate(self, model: nn.Module, last: bool) -> AbstractContextManager[None]:
        """Around one forward and backward pass; gradients are exchanged in the last of a step only."""
        ...

    def total(self, value: int) -> int:
        """Sum of a number over all processes."""
        ...

    def total_loss(self, loss: Tensor) -> Tensor:
        """Sum of a detached scalar over all processes."""
        ...

    def clip(self, parameters: list[nn.Parameter], max_norm: float) -> Tensor:
        """Scale the gradient down to max_norm and return the norm that it had, over all processes."""
        ...

    def any(self, flag: bool) -> bool:
        """Whether it is true in one process at least."""
        ...

    def barrier(self) -> None:
        """Wait until all processes are here.

        Raises:
            UserError: some did not come in time.
        """
        ...

    def close(self) -> None:
        """End the group of processes; nothing here can be called afterwards."""
        ...
