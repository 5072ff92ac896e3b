from __future__ import annotations

from pathlib import Path

import pytest
import torch

from blip3v.data.batches import Place
from blip3v.data.conversation import Turn
from blip3v.data.records import Record
from blip3v.demo.model import FRAMES, GRID, WIDTH, demo_config, demo_processor
from blip3v.demo.stages import TUNED, ShuffledQuestions, demo_captions, demo_questions
from blip3v.models.processing import IGNORE

TURNS = (
    Turn("what shape is it ?", "ring"),
    Turn("what colour is the shape ?", "red"),
    Turn("how many ?", "two"),
)


def questions(seed: int = 1) -> ShuffledQuestions:
    processor = demo_processor(demo_config("mean_pool", 16))
    clip = Path("clip.mp4")
    return ShuffledQuestions(
        [Record("a", TURNS, video=clip)], processor, {str(clip): torch.randn(FRAMES, 36, 128)}, seed
    )


def order_of(data: ShuffledQuestions, epoch: int) -> tuple[str, ...]:
    """The answers of a sample in their order."""
    sample = data[Place(epoch, 0)]
    assert sample["video_features"].shape == (1, FRAMES, GRID**2, WIDTH)
    ids = sample["labels"][sample["labels"] != IGNORE]
    return tuple(data.processor.tokenizer.decode(ids, skip_special_tokens=True).split())  # type: ignore[attr-defined]


def test_all_questions_come_in_an_order_that_the_place_decides() -> None:
    data = questions()
    orders = [order_of(data, epoch) for epoch in range(12)]
    assert {frozenset(order) for order in orders} == {frozenset({"ring", "red", "two"})}
    assert len(set(orders)) > 2
    assert [order_of(data, epoch) for epoch in reversed(range(12))] == orders[::-1]
    assert [order_of(questions(seed=2), epoch) for epoch in range(12)] != orders


@pytest.mark.parametrize("recipe", [demo_captions, demo_questions])
def test_recipes_freeze_the_vision_encoder_and_shorten_the_warm_up_of_toys(recipe) -> None:
    full, toy = recipe(4000, 32, 0), recipe(8, 32, 0)
    assert full.frozen == ("vision_encoder",)
    assert (full.max_steps, full.video_tokens) == (4000, 32)
    assert full.warmup_steps == TUNED["warmup_steps"]
    assert toy.warmup_steps == 2
