"""One optimizer step: the forward and backward passes of its micro-batches, clipping, AdamW."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from blip3v.data.packing import count_labels
from blip3v.ranges import ranged, stage_range
from blip3v.train.parallel import Parallel
from blip3v.train.recipe import Recipe

Batch = dict[str, Any]


@dataclass(frozen=True)
class StepOutcome:
    """loss: mean over all labels of the step; norm: of the gradient before clipping; both detached scalars on
    the device, so that nobody waits for them. labels: how many counted, on all ranks."""

    loss: Tensor
    norm: Tensor
    labels: int


class Step:
    """Takes optimizer steps.

    Args:
        model: as `Parallel.wrap` gave it.
        optimizer: over the model's trainable parameters.
        parallel: how the step is spread over devices.
        recipe: its bf16 and clip_norm count here.
        vision: pixels [n,T,3,H,W] -> features [n,T,S,D] without gradient, in the place of the model's own
            vision encoder; None leaves pixels to the model.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        parallel: Parallel,
        recipe: Recipe,
        vision: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.model, self.optimizer, self.parallel = model, optimizer, parallel
        self.recipe, self.vision = recipe, vision
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]

    @ranged(stage_range, "training step")
    def __call__(
        self, batches: Sequence[Batch], rate: float, before_update: Callable[[StepOutcome], None]
    ) -> StepOutcome:
        """One step over this rank's micro-batches at learning rate `rate`.

        `before_update` sees the outcome while the weights are still those that gave it, and may raise.
        """
        # Each batch's mean loss counts by its labels, so the step is the one of a single large batch.
        counts = [count_labels(batch) for batch in batches]
        labels = self.parallel.total(sum(counts))
        loss = torch.zeros((), device=self.parallel.device)
        for index, (batch, count) in enumerate(zip(batches, counts, strict=True)):
            with stage_range("data"):
                on_device = self._on_device(batch)
            with self.parallel.accumulate(self.model, last=index == len(batches) - 1):
                with stage_range("forward"), self._autocast():
                    mean = self.model(**on_device, use_cache=False).loss
                # Gradients of several ranks are averaged, hence the factor.
                share = mean * (count / max(1, labels))
                with stage_range("backward"):
                    (share * self.parallel.world_size).backward()
            loss += share.detach()
        loss = self.parallel.total_loss(loss)
        with stage_range("clip gradients"):
            norm = self.parallel.clip(self.parameters, self.recipe.clip_norm)
        outcome = StepOutcome(loss, norm.detach(), labels)
        before_update(outcome)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with stage_range("optimizer"):
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        return outcome

    def _on_device(self, batch: Batch) -> Batch:
        device = self.parallel.device
        moved = {
            key: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
            for key, value in batch.items()
        }
        if self.vision is not None and "pixel_values_videos" in moved:
            with self._autocast():
                moved["video_features"] = self.vision(moved.pop("pixel_values_videos"))
        return moved

    def _autocast(self) -> torch.autocast:
        kind = self.parallel.device.type
        return torch.autocast(kind, torch.bfloat16, self.recipe.bf16 and kind == "cuda")
