"""DDP: every process has the whole model, gradients are averaged."""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from blip3v.train.parallel.every_part import is_trained, run_every_part
from blip3v.train.parallel.processes import Processes
from blip3v.train.recipe import Recipe

# Buffers are frequencies, equal everywhere. PyTorch 2.13 has renamed the switch.
_BUFFERS = ("forward_sync_buffers", "broadcast_buffers")
_KNOWN = inspect.signature(DistributedDataParallel.__init__).parameters
_WITHOUT_BUFFERS: dict[str, Any] = {next(name for name in _BUFFERS if name in _KNOWN): False}


class DataParallel:
    """`torch.nn.parallel.DistributedDataParallel`; process 0's weights are everybody's at the start.

    Weights, gradients and AdamW's two moments lie whole on every GPU, 16 bytes per trained parameter: 62 GB
    for the 3.9 billion of the 4B preset. That fits beside activations on 141 GB, hardly on 80 GB; `fsdp`
    divides it by the number of GPUs.

    Frozen parameters take no part. Trained ones that no pass reads exist in the vision encoder only (its
    pooling head), so DDP looks for unused ones, a walk through the graph in each pass, only if that is
    trained.
    """

    def __init__(self, processes: Processes, recipe: Recipe) -> None:
        self.processes = processes
        self.device, self.rank, self.world_size = processes.device, processes.rank, processes.world_size
        self.total, self.total_loss = processes.total, processes.total_loss
        self.any, self.barrier, self.close = processes.any, processes.barrier, processes.close

    def wrap(self, model: nn.Module) -> nn.Module:
        model.to(self.device)
        run_every_part(model)
        vision = getattr(model, "vision_encoder", None)
        return DistributedDataParallel(
            model,
            device_ids=[self.device.index] if self.device.type == "cuda" else None,
            **_WITHOUT_BUFFERS,
            gradient_as_bucket_view=True,  # one copy of the gradients, not two
            find_unused_parameters=vision is not None and is_trained(vision),
        )

    def accumulate(self, model: nn.Module, last: bool) -> AbstractContextManager[None]:
        if last:
            return nullcontext()
        return cast("AbstractContextManager[None]", cast(DistributedDataParallel, model).no_sync())

    def clip(self, parameters: list[nn.Parameter], max_norm: float) -> Tensor:
        # Gradients are equal everywhere by now.
        return torch.nn.utils.clip_grad_norm_(parameters, max_norm)
