"""One process, one device."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from blip3v.train.parallel.every_part import run_every_part


class SingleDevice:
    """One process, one device: the GPU where there is one, else the CPU."""

    rank, world_size = 0, 1

    def __init__(self, device: str | torch.device | None = None) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))

    def wrap(self, model: nn.Module) -> nn.Module:
        run_every_part(model)
        return model.to(self.device)

    def accumulate(self, model: nn.Module, last: bool) -> AbstractContextManager[None]:
        return nullcontext()

    def total(self, value: int) -> int:
        return value

    def total_loss(self, loss: Tensor) -> Tensor:
        return loss

    def clip(self, parameters: list[nn.Parameter], max_norm: float) -> Tensor:
        return nn.utils.clip_grad_norm_(parameters, max_norm)

    def any(self, flag: bool) -> bool:
        return flag

    def barrier(self) -> None:
        pass

    def close(self) -> None:
        pass
