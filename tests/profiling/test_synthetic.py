"""A synthetic batch is one that the trainer would make of files."""

from __future__ import annotations

from blip3v.data.batches import Place
from blip3v.models.configuration import blip3_video_tiny
from blip3v.profiling.synthetic import ReadyData, synthetic_batch


def test_the_loss_is_of_the_answer_and_the_videos_places_are_right() -> None:
    config = blip3_video_tiny()
    batch = synthetic_batch(config, 16, 2)
    assert (batch["input_ids"] == config.image_token_id).sum() == 2 * config.video_tokens
    assert (batch["labels"] != -100).sum() == 2 * 8
    assert (batch["labels"] == batch["input_ids"])[:, -8:].all()


def test_every_batch_is_the_same_memory() -> None:
    batch = synthetic_batch(blip3_video_tiny(), 16, 2)
    data = ReadyData(batch, 6, pinned=False)
    assert len(data) == 6
    for number in range(3):
        taken = data.collate([data[Place(0, number)]])
        assert {name: tensor.data_ptr() for name, tensor in taken.items()} == {
            name: tensor.data_ptr() for name, tensor in batch.items()
        }
    assert 0 <= data.seconds < 1
