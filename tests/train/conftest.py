"""A tiny model, its processor and clips as folders of random frames."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from blip3v.data.conversation import Turn, format_prompt
from blip3v.data.dataset import VideoDataset
from blip3v.data.records import Record, read_records, write_records
from blip3v.models.configuration import blip3_video_tiny
from blip3v.models.modeling import Blip3VideoForConditionalGeneration
from blip3v.models.processing import Blip3VideoProcessor
from blip3v.models.tokenizer import word_tokenizer
from blip3v.train.recipe import Recipe

CLIPS, FRAMES, TOKENS = 7, 3, 4


@pytest.fixture(scope="session")
def processor() -> Blip3VideoProcessor:
    tokenizer = word_tokenizer([format_prompt("what moves ?"), "red green blue one two three"])
    config = blip3_video_tiny(
        tokens=TOKENS, frames=FRAMES, num_latents=4, image_size=16, vocab_size=len(tokenizer) - 3
    )
    return Blip3VideoProcessor.from_config(config, tokenizer)


@pytest.fixture(scope="session")
def new_model(processor: Blip3VideoProcessor) -> Callable[..., Blip3VideoForConditionalGeneration]:
    """Equal fresh models; with attention dropout in the language model where asked."""

    def build(dropout: float = 0.0) -> Blip3VideoForConditionalGeneration:
        torch.manual_seed(3)
        vocabulary = len(processor.tokenizer) - 3
        config = blip3_video_tiny(
            tokens=TOKENS, frames=FRAMES, num_latents=4, image_size=16, vocab_size=vocabulary
        )
        config.text_config.attention_dropout = dropout
        return Blip3VideoForConditionalGeneration(config)

    return build


@pytest.fixture(scope="session")
def annotations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JSON lines file about clips of 9 random frames; answers differ in length."""
    folder = tmp_path_factory.mktemp("clips")
    generator = np.random.default_rng(0)
    records = []
    for clip in range(CLIPS):
        video = folder / f"clip{clip}"
        video.mkdir()
        for frame in range(9):
            pixels = generator.integers(0, 256, (12, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(video / f"{frame}.png")
        answer = " ".join(["red", "green", "blue", "one", "two"][: 1 + clip % 5])
        records.append(Record(f"r{clip}", (Turn("what moves ?", answer),), video=video))
    write_records(folder / "train.jsonl", records)
    return folder / "train.jsonl"


@pytest.fixture
def dataset(annotations: Path, processor: Blip3VideoProcessor) -> VideoDataset:
    """With random training frames."""
    return VideoDataset(read_records(annotations), processor, FRAMES, seed=5)


@pytest.fixture
def recipe() -> Callable[..., Recipe]:
    """A short recipe: 2 batches of at most 3 per step."""

    def build(**overrides: Any) -> Recipe:
        settings: dict[str, Any] = {
            "num_frames": FRAMES, "video_tokens": TOKENS, "batch_size": 3, "accumulation": 2,
            "warmup_steps": 2, "learning_rate": 1e-2, "weight_decay": 0.1, "max_steps": 6,
            "log_every": 1, "checkpoint_every": 0, "seed": 11,
        }  # fmt: skip
        return Recipe("test", **(settings | overrides))

    return build
