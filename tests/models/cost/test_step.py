from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from blip3v.data.conversation import format_prompt
from blip3v.models.configuration import Blip3VideoConfig, blip3_video_4b, blip3_video_tiny
from blip3v.models.cost import batch_flops, step_flops, training_flops
from blip3v.models.cost.data_sheet import data_sheet_of, peak_flops
from blip3v.models.modeling import Blip3VideoForConditionalGeneration
from blip3v.models.processing import Blip3VideoProcessor
from blip3v.models.tokenizer import word_tokenizer


@pytest.mark.parametrize("config", [blip3_video_4b(), blip3_video_tiny("ttm", None)], ids=["4b", "tiny"])
def test_equal_samples_need_what_training_flops_says(config: Blip3VideoConfig) -> None:
    frames, text, batch = config.num_frames, 40, 3
    lengths = [config.video_tokens_for(frames) + text] * batch
    assert step_flops(config, lengths, batch * 11, batch, frames) == training_flops(
        config, frames, text, batch, 11
    )


def test_attention_is_counted_inside_each_sample() -> None:
    config = blip3_video_4b()
    window, heads_width, layers = config.text_config.sliding_window, 3072, 32
    one, two = step_flops(config, [200], 5), step_flops(config, [120, 80], 5)
    # 4 FLOPs per pair and channel forward, 8 backward; a row of 200 has more pairs than rows of 120 and 80.
    pairs = 200 * 201 // 2 - 120 * 121 // 2 - 80 * 81 // 2
    assert window is not None and window > 200
    assert one - two == 12 * pairs * heads_width * layers


@dataclass
class _Samples:
    lengths: list[int]
    labelled: list[int]

    def padded(self) -> dict[str, Tensor]:
        mask = torch.zeros(len(self.lengths), max(self.lengths), dtype=torch.int64)
        labels = torch.full_like(mask, -100)
        for row, (length, count) in enumerate(zip(self.lengths, self.labelled)):
            mask[row, :length] = 1
            labels[row, length - count : length] = 5
        return {"input_ids": mask, "attention_mask": mask, "labels": labels}

    def packed(self) -> dict[str, Any]:
        bounds = torch.tensor([0, *self.lengths]).cumsum(0).to(torch.int32)
        total = sum(self.labelled)
        return {
            "input_ids": torch.zeros(1, sum(self.lengths), dtype=torch.int64),
            "cu_seqlens": bounds,
            "max_seqlen": max(self.lengths),
            "logits_to_keep": torch.zeros(total, dtype=torch.int64),
            "shift_labels": torch.full((1, total), 5),
        }


SAMPLES = _Samples([9, 30, 14], [2, 20, 1])


def test_padded_and_packed_batches_of_the_same_samples_need_the_same() -> None:
    config = blip3_video_tiny()
    videos = {"pixel_values_videos": torch.zeros(2, 4, 3, 32, 32)}
    expected = step_flops(config, SAMPLES.lengths, 23, videos=2, frames=4)
    assert batch_flops(config, SAMPLES.padded() | videos) == expected
    assert batch_flops(config, SAMPLES.packed() | videos) == expected


def test_what_the_processor_collates_is_understood_in_both_ways() -> None:
    tokenizer = word_tokenizer([format_prompt("what moves ?"), "red green blue"])
    config = blip3_video_tiny(vocab_size=len(tokenizer) - 3)
    processor = Blip3VideoProcessor.from_config(config, tokenizer)
    samples = []
    for answer in ("red", "red green blue red green", "blue blue"):
        sample = processor.encode_conversation([("what moves ?", answer)])
        samples.append(sample | {"pixel_values_videos": torch.zeros(1, 4, 3, 32, 32)})
    lengths = [len(sample["input_ids"]) for sample in samples]
    labels = sum(int((sample["labels"] != -100).sum()) for sample in samples)
    expected = step_flops(config, lengths, labels, videos=3, frames=4)
    assert batch_flops(config, processor.collate(samples)) == expected
    assert batch_flops(config, processor.collate_packed(samples)) == expected


def test_given_features_spare_the_vision_encoder_and_no_video_spares_all_of_vision() -> None:
    config = blip3_video_tiny()
    batch = SAMPLES.padded()
    pixels = batch_flops(config, batch | {"pixel_values_videos": torch.zeros(2, 4, 3, 32, 32)})
    features = batch_flops(config, batch | {"video_features": torch.zeros(2, 4, 16, 32)})
    assert pixels > features > batch_flops(config, batch) == step_flops(config, SAMPLES.lengths, 23)


def test_the_label_of_a_first_token_needs_no_logits() -> None:
    config, batch = blip3_video_tiny(), SAMPLES.padded()
    before = batch_flops(config, batch)
    batch["labels"][:, 0] = 5
    assert batch_flops(config, batch) == before


def test_the_count_is_that_of_the_products_that_a_real_step_runs(counted: Any) -> None:
    """Forward and backward of a real model on one sample, counted by torch; only the logits differ."""
    torch.manual_seed(0)
    config = blip3_video_tiny("token_learner", 8)
    model = Blip3VideoForConditionalGeneration(config).train()
    model.vision_encoder.requires_grad_(False)
    ids = torch.full((1, 20), 3)
    ids[0, :8] = config.image_token_id
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clamp(max=9)}
    batch["pixel_values_videos"] = torch.zeros(1, 4, 3, 32, 32)
    measured, _ = counted(lambda: model(**batch, use_cache=False).loss.backward())
    expected = step_flops(config, [20], 20, videos=1, frames=4)
    # The implementation computes every pair of the language model's attention, the mask hides half of them.
    hidden_pairs = 12 * (20 * 20 - 20 * 21 // 2) * 32 * 2
    assert measured == pytest.approx(expected + hidden_pairs, rel=0.02)


def test_peaks_are_found_by_a_part_of_the_name() -> None:
    assert peak_flops("NVIDIA H100 80GB HBM3") == peak_flops("NVIDIA H200") == 989.4e12
    assert peak_flops("NVIDIA H100 PCIe") == 756e12
    assert data_sheet_of("NVIDIA GeForce 256") is None
