"""Training steps by the trainer itself, on random videos and random words."""

from __future__ import annotations

import torch

from blip3v.errors import UserError
from blip3v.models.modeling import Blip3VideoForConditionalGeneration
from blip3v.profiling.request import Request
from blip3v.profiling.stages import config_of, text_tokens_of
from blip3v.profiling.synthetic import ReadyData, synthetic_batch
from blip3v.profiling.workloads import After
from blip3v.train.loop import Trainer
from blip3v.train.metrics import Metrics
from blip3v.train.progress import Silent
from blip3v.train.recipe import Recipe


class TrainingSteps:
    """The vision encoder is frozen, as in the published recipes; everything else is trained."""

    def __init__(self, request: Request, device: str) -> None:
        if request.preset == "4b" and device == "cpu":
            raise UserError(
                "a step of the 4B model needs a GPU of 80 GB or more; use --preset small on a CPU"
            )
        self.request, self.config = request, config_of(request)
        with torch.device(device):
            self.model = Blip3VideoForConditionalGeneration(self.config)

    def run(self, iterations: int, after: After) -> None:
        recipe = Recipe(
            "profile",
            num_frames=self.request.frames,
            video_tokens=self.config.video_tokens_for(self.request.frames),
            batch_size=self.request.batch,
            max_steps=iterations,
            # Reading the numbers of a step would make it wait for the GPU.
            log_every=iterations,
            checkpoint_every=0,
        )
        text = text_tokens_of(self.request)
        batch = synthetic_batch(self.config, text, self.request.batch, recipe.packed)
        pinned = next(self.model.parameters()).is_cuda
        data = ReadyData(batch, self.request.batch * iterations, pinned)
        Trainer(
            self.model,
            recipe,
            data,
            data.collate,
            metrics=Metrics(display=Silent()),
            on_step=lambda step, loss: after(step),
        ).run()
