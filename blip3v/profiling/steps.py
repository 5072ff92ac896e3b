"""Training steps by the trainer itself, on random videos and random words."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from blip3v.data.batches import Place
from blip3v.errors import UserError
from blip3v.models.configuration import Blip3VideoConfig
from blip3v.models.modeling import Blip3VideoForConditionalGeneration
from blip3v.profiling.request import Request
from blip3v.profiling.stages import config_of, text_tokens_of
from blip3v.profiling.workloads import After
from blip3v.train.loop import Batch, Trainer
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
        Trainer(
            self.model,
            recipe,
            _Noise(self.config, self.request),
            _collate,
            metrics=Metrics(display=Silent()),
            on_step=lambda step, loss: after(step),
        ).run()


class _Noise:
    """A dataset of one random sample, whose every place is the same tensors."""

    fingerprint = "noise"

    def __init__(self, config: Blip3VideoConfig, request: Request) -> None:
        generator = torch.Generator().manual_seed(0)
        side, tokens = config.vision_config.image_size, config.video_tokens_for(request.frames)
        words = torch.randint(config.base_vocab_size, (text_tokens_of(request),), generator=generator)
        video = torch.full((tokens,), config.image_token_id)
        self.length = request.batch
        self.sample: Batch = {
            "input_ids": torch.cat([video, words]),
            "labels": torch.cat([torch.full((tokens,), -100), words]),
            "pixel_values_videos": torch.randn(request.frames, 3, side, side, generator=generator),
        }

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, place: Place) -> Batch:
        return self.sample


def _collate(samples: list[Any]) -> dict[str, Tensor]:
    return {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}
