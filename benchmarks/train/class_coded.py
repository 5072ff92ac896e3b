"""Videos and captions made up so that the words of a caption can be read from the pixels, and nowhere else.

A video is noise in which each of three colours is lighter or darker, once in the first half of the frames and
once in the second: 6 bits. Its caption names them in order, each by one of two words of its own, between
words that are always the same. Before it stands a question of random words, of random length, that says
nothing. So the loss of a model that is blind to the video cannot fall below `blind_loss`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from blip3v.data.batches import Place
from blip3v.data.packing import IGNORE, pack
from blip3v.models.configuration import Blip3VideoConfig
from blip3v.profiling.synthetic import padded, text_lengths

BITS = 6
CAPTION = 2 * BITS + 1
"""Tokens: each bit's word behind a fixed one, and the end."""

FIRST_WORD = 10
"""Below are special tokens. From here: the end, BITS fixed words, and a pair of words for each bit."""

SHIFT = 0.5
"""Of a colour's brightness, in standard deviations of the noise of a pixel."""

NOISES = 8
"""Different noises; drawing one takes longer than a GPU takes to train on it."""

PASS = 1 << 16
"""Samples of a pass; those of the next pass are others."""

LENGTHS = 64
"""Different lengths of questions before they repeat."""


def blind_loss() -> float:
    """Mean loss of a caption's tokens for whoever knows everything but the video, in nats."""
    return BITS * math.log(2) / CAPTION


class ClassCoded:
    """A dataset whose every pass has samples of its own, decided by the seed.

    Args:
        text: mean tokens of question and caption.
        packed: how `collate` makes batches.

    Samples are input_ids, labels, int64 [L], and pixel_values_videos, bfloat16 [1,T,3,H,W].
    """

    def __init__(self, config: Blip3VideoConfig, text: int, packed: bool, seed: int = 0) -> None:
        self.config, self.packed, self.seed = config, packed, seed
        self.fingerprint = f"class-coded {text} {seed}"
        self.lengths = text_lengths(max(1, text - CAPTION), LENGTHS, seed)
        side = config.vision_config.image_size
        generator = torch.Generator().manual_seed(seed)
        shape = (NOISES, config.num_frames, 3, side, side)
        # Half the bytes of float32, for pinned memory and the way to the GPU.
        self.noise = torch.randn(shape, generator=generator).bfloat16()

    def __len__(self) -> int:
        return PASS

    def __getitem__(self, place: Place) -> dict[str, Tensor]:
        generator = np.random.default_rng([self.seed, place.epoch, place.sample])
        bits = generator.integers(0, 2, BITS)
        words = generator.integers(
            FIRST_WORD, self.config.base_vocab_size, self.lengths[generator.integers(LENGTHS)]
        )
        video = torch.full((self.config.video_tokens,), self.config.image_token_id)
        ids = torch.cat([video, torch.from_numpy(words), caption(bits)])
        labels = torch.full_like(ids, IGNORE)
        labels[-CAPTION:] = ids[-CAPTION:]
        pixels = self.noise[generator.integers(NOISES)] + shifts(bits, self.config.num_frames)
        return {"input_ids": ids, "labels": labels, "pixel_values_videos": pixels[None]}

    def collate(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        pixels = torch.cat([sample["pixel_values_videos"] for sample in samples])
        rows = [{key: sample[key] for key in ("input_ids", "labels")} for sample in samples]
        return (pack(rows) if self.packed else padded(rows)) | {"pixel_values_videos": pixels}


def caption(bits: np.ndarray) -> Tensor:
    """int64 [CAPTION]."""
    named = [
        word
        for index, bit in enumerate(bits.tolist())
        for word in (FIRST_WORD + 1 + index, FIRST_WORD + 1 + BITS + 2 * index + bit)
    ]
    return torch.tensor([*named, FIRST_WORD])


def shifts(bits: np.ndarray, frames: int) -> Tensor:
    """bfloat16 [T,3,1,1], what the bits add to the colours: three of the first half, three of the second."""
    half = torch.from_numpy(np.where(bits, SHIFT, -SHIFT)).bfloat16().view(2, 3)
    late = (torch.arange(frames) >= (frames + 1) // 2).long()
    return half[late][:, :, None, None]
