"""A batch of random videos and words, and a dataset that has nothing else: training without files."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from blip3v.data.batches import Place
from blip3v.data.packing import IGNORE, pack
from blip3v.models.configuration import Blip3VideoConfig

SPREAD = 0.5
"""Sigma of the log-normal lengths. With it, and 32 tokens a video, packing saves about as much as in a mix of
questions with short and long answers, 1.4 at 4 samples and 2.0 at 16 (benchmarks/train/packing_saving.py)."""


def text_lengths(mean: int, count: int, seed: int = 0) -> list[int]:
    """`count` lengths with exactly this mean: the quantiles of a log-normal distribution, shuffled.

    Quantiles and not draws, so that a batch of 4 is as ragged as batches of 4 are on average, by any seed.
    """
    normal = NormalDist(sigma=SPREAD)
    weights = [math.exp(normal.inv_cdf((index + 0.5) / count)) for index in range(count)]
    scale = mean * count / sum(weights)
    lengths = [max(1, math.floor(scale * weight)) for weight in weights]
    lengths[-1] += mean * count - sum(lengths)  # what rounding lost, less than a token each
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    return [lengths[index] for index in order]


def synthetic_batch(
    config: Blip3VideoConfig, text: int, batch: int, packed: bool = False, seed: int = 0
) -> dict[str, Any]:
    """Random videos, each before its text, on the CPU; the loss is of the last half of every text.

    Args:
        text: mean tokens of text, see `text_lengths`.
        packed: one row as `blip3v.data.packing.pack` makes it, else rows padded on the right; of the same
            samples.
    """
    generator = torch.Generator().manual_seed(seed)
    video = torch.full((config.video_tokens,), config.image_token_id)
    samples = []
    for length in text_lengths(text, batch, seed):
        words = torch.randint(10, config.base_vocab_size, (length,), generator=generator)
        ids = torch.cat([video, words])
        labels = ids.clone()
        labels[: -max(1, length // 2)] = IGNORE
        samples.append({"input_ids": ids, "labels": labels})
    side = config.vision_config.image_size
    pixels = torch.randn((batch, config.num_frames, 3, side, side), generator=generator)
    return (pack(samples) if packed else padded(samples)) | {"pixel_values_videos": pixels}


def padded(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Rows as long as the longest, int64 [B,L]: input_ids, labels, and attention_mask, 0 on the padding."""
    ids = [sample["input_ids"] for sample in samples]
    return {
        "input_ids": pad_sequence(ids, batch_first=True),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
        "labels": pad_sequence([sample["labels"] for sample in samples], True, IGNORE),
    }


class ReadyData:
    """A dataset whose every batch is the same one, in pinned memory where a GPU reads it."""

    fingerprint = "synthetic"

    def __init__(self, batch: dict[str, Any], samples: int, pinned: bool) -> None:
        self.batch = {
            name: value.pin_memory() if pinned and isinstance(value, Tensor) else value
            for name, value in batch.items()
        }
        self.samples = samples

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, place: Place) -> Place:
        return place

    def collate(self, places: list[Any]) -> dict[str, Any]:
        return dict(self.batch)
