"""Stages 2 and 3 of the demo: their recipes, every tuned number of them, and their samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from blip3v.data.batches import Place
from blip3v.data.dataset import FeatureDataset, Sample, SampleProcessor
from blip3v.data.records import Record
from blip3v.demo.model import FRAMES
from blip3v.train.recipe import Recipe

CAPTION_SHARE = 0.35
"""Of all steps, how many are captions: they teach place and motion word by word, a question one word."""

TUNED: dict[str, Any] = {
    "num_frames": FRAMES,
    "batch_size": 16,
    "learning_rate": 1e-3,
    "warmup_steps": 100,
    "weight_decay": 0.02,
    "betas": (0.9, 0.98),
    "clip_norm": 1.0,
    "frozen": ("vision_encoder",),
    "log_every": 10,
}


def demo_captions(steps: int, tokens: int, seed: int) -> Recipe:
    """Stage 2: captions of clips; the temporal encoder is new, the rest comes from stage 1."""
    return _recipe("demo-captions", steps, tokens, seed)


def demo_questions(steps: int, tokens: int, seed: int) -> Recipe:
    """Stage 3: all questions of a clip as one conversation, in another order every time."""
    return _recipe("demo-questions", steps, tokens, seed)


def _recipe(name: str, steps: int, tokens: int, seed: int) -> Recipe:
    # A toy run keeps a short warm-up; from a thousand steps on it is the tuned one.
    warmup = min(TUNED["warmup_steps"], steps // 4)
    return Recipe(name, video_tokens=tokens, max_steps=steps, seed=seed, **TUNED | {"warmup_steps": warmup})


class ShuffledQuestions(FeatureDataset):
    """The turns of a conversation in an order that (seed, epoch, sample) decide.

    Otherwise a question would always come behind the same others, whose answers the model sees.
    """

    def __init__(
        self, records: Sequence[Record], processor: SampleProcessor, features: Mapping[str, Tensor], seed: int
    ) -> None:
        super().__init__(records, processor, features)
        self.seed = seed

    def __getitem__(self, place: int | Place) -> Sample:
        epoch, index = place if isinstance(place, tuple) else (0, place)
        features, turns = self.features[self.keys[index]], self.records[index].turns  # type: ignore[index]
        order = np.random.default_rng([self.seed, epoch, index]).permutation(len(turns))
        text = self.processor.encode_conversation(
            [turns[number] for number in order], 1, len(features), self.max_length
        )
        return {**text, "video_features": features[None].float()}
