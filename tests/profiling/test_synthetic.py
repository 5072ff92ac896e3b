"""A synthetic batch is one that the trainer would make of files."""

from __future__ import annotations

import pytest
import torch

from benchmarks.train.packing_saving import question_mix, saving
from blip3v.data.batches import Place
from blip3v.data.packing import count_labels, count_tokens
from blip3v.models.configuration import blip3_video_tiny
from blip3v.models.modeling import Blip3VideoForConditionalGeneration
from blip3v.profiling.synthetic import ReadyData, synthetic_batch, text_lengths


@pytest.mark.parametrize("count", [1, 2, 3, 4, 16])
def test_lengths_differ_and_their_mean_is_exact(count: int) -> None:
    lengths = text_lengths(128, count)
    assert sum(lengths) == 128 * count and len(set(lengths)) == count
    assert lengths == text_lengths(128, count)
    if count == 16:
        assert sorted(lengths) == sorted(text_lengths(128, count, seed=1)) != lengths
        assert lengths != text_lengths(128, count, seed=1)
        # The log-normal's median is exp(sigma^2 / 2) below its mean.
        assert sum(sorted(lengths)[7:9]) / 2 == pytest.approx(128 / 1.133, rel=0.05)


def test_short_texts_have_a_token_each() -> None:
    assert min(text_lengths(1, 16)) == 1 and sum(text_lengths(1, 16)) == 16


@pytest.mark.parametrize("batch", [4, 16])
def test_packing_saves_here_what_it_saves_on_questions(batch: int) -> None:
    tokens = [32 + length for length in text_lengths(128, batch)]
    saved = batch * max(tokens) / sum(tokens)
    assert saved == pytest.approx(saving(question_mix(32, 20_000), batch).tokens, rel=0.15)


@pytest.mark.parametrize("packed", [False, True])
def test_the_loss_is_of_the_answers_and_the_videos_places_are_right(packed: bool) -> None:
    config = blip3_video_tiny()
    batch = synthetic_batch(config, 16, 3, packed)
    assert (batch["input_ids"] == config.image_token_id).sum() == 3 * config.video_tokens
    lengths = text_lengths(16, 3)
    assert count_labels(batch) == sum(length // 2 for length in lengths)
    longest = config.video_tokens + max(lengths)
    assert count_tokens(batch) == (3 * (config.video_tokens + 16) if packed else 3 * longest)
    assert batch["pixel_values_videos"].shape[:2] == (3, config.num_frames)


def test_padded_and_packed_are_the_same_samples() -> None:
    torch.manual_seed(0)
    config = blip3_video_tiny()
    model = Blip3VideoForConditionalGeneration(config).eval()
    padded, packed = (synthetic_batch(config, 16, 3, packed) for packed in (False, True))
    assert torch.equal(padded["input_ids"][padded["attention_mask"] == 1], packed["input_ids"][0])
    with torch.no_grad():
        losses = [model(**batch, use_cache=False).loss for batch in (padded, packed)]
    torch.testing.assert_close(*losses, rtol=1e-5, atol=0)


def test_every_batch_is_the_same_memory() -> None:
    batch = synthetic_batch(blip3_video_tiny(), 16, 2, packed=True)
    data = ReadyData(batch, 6, pinned=False)
    assert len(data) == 6 and data.collate([])["max_seqlen"] == batch["max_seqlen"]
    tensors = {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}
    for number in range(3):
        taken = data.collate([data[Place(0, number)]])
        assert all(taken[name].data_ptr() == tensor.data_ptr() for name, tensor in tensors.items())
