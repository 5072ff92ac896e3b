"""A batch of random videos and words, and a dataset that has nothing else: training without files."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from blip3v.data.batches import Place
from blip3v.models.configuration import Blip3VideoConfig


def synthetic_batch(config: Blip3VideoConfig, text: int, batch: int) -> dict[str, Tensor]:
    """Random videos, each with `text` tokens, on the CPU; the loss is of the last half of the text."""
    side = config.vision_config.image_size
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(10, config.base_vocab_size, (batch, text), generator=generator)
    places = torch.full((batch, config.video_tokens), config.image_token_id)
    ids = torch.cat([places, words], dim=1)
    labels = ids.clone()
    labels[:, : -(text // 2)] = -100
    shape = (batch, config.num_frames, 3, side, side)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": labels,
        "pixel_values_videos": torch.randn(shape, generator=generator),
    }


class ReadyData:
    """A dataset whose every batch is the same one, in pinned memory where a GPU reads it."""

    fingerprint = "synthetic"

    def __init__(self, batch: dict[str, Tensor], samples: int, pinned: bool) -> None:
        self.batch = {name: tensor.pin_memory() if pinned else tensor for name, tensor in batch.items()}
        self.samples = samples
        self.seconds = 0.0

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, place: Place) -> Place:
        return place

    def collate(self, places: list[Any]) -> dict[str, Tensor]:
        begin = time.perf_counter()
        batch = dict(self.batch)
        self.seconds += time.perf_counter() - begin
        return batch
