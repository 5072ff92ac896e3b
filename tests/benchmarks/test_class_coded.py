"""Captions can be read from the pixels, and from nothing else."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from benchmarks.train.class_coded import BITS, CAPTION, FIRST_WORD, ClassCoded, blind_loss, caption, shifts
from blip3v.data.batches import Place
from blip3v.data.packing import count_labels, count_tokens
from blip3v.models.configuration import blip3_video_tiny

CONFIG = blip3_video_tiny()


def test_a_sample_depends_on_its_place_alone() -> None:
    one, again = ClassCoded(CONFIG, 24, packed=True), ClassCoded(CONFIG, 24, packed=True)
    for place in (Place(0, 5), Place(1, 5)):
        left, right = one[place], again[place]
        assert all(torch.equal(left[name], right[name]) for name in left)
    assert not torch.equal(one[Place(0, 5)]["pixel_values_videos"], one[Place(1, 5)]["pixel_values_videos"])


def test_the_captions_words_are_in_the_pixels() -> None:
    data = ClassCoded(CONFIG, 24, packed=True)
    seen = set()
    for number in range(40):
        sample = data[Place(0, number)]
        video = sample["pixel_values_videos"][0].float()
        half = (CONFIG.num_frames + 1) // 2
        bits = torch.stack([video[:half].mean((0, 2, 3)), video[half:].mean((0, 2, 3))]).flatten() > 0
        expected = caption(bits.numpy().astype(int))
        assert torch.equal(sample["labels"][-CAPTION:], expected)
        assert (sample["labels"][:-CAPTION] == -100).all()
        seen.add(tuple(bits.tolist()))
    assert len(seen) > 20


def test_each_bit_has_words_of_its_own() -> None:
    zeros, ones = caption(np.zeros(BITS, int)), caption(np.ones(BITS, int))
    named = {*zeros[1:-1:2].tolist(), *ones[1:-1:2].tolist()}
    assert len(named) == 2 * BITS and torch.equal(zeros[0::2], ones[0::2])
    assert zeros[-1] == FIRST_WORD and len({*zeros.tolist(), *ones.tolist()}) == 3 * BITS + 1
    assert blind_loss() == pytest.approx(math.log(2) * 6 / 13)
    assert shifts(np.ones(BITS, int), 1).shape == (1, 3, 1, 1)


@pytest.mark.parametrize("packed", [True, False])
def test_batches_are_packed_or_padded(packed: bool) -> None:
    data = ClassCoded(CONFIG, 24, packed)
    samples = [data[Place(0, number)] for number in range(3)]
    lengths = [len(sample["input_ids"]) for sample in samples]
    assert len(set(lengths)) > 1
    batch = data.collate(samples)
    assert count_tokens(batch) == (sum(lengths) if packed else 3 * max(lengths))
    assert count_labels(batch) == 3 * CAPTION
    assert batch["pixel_values_videos"].shape[:2] == (3, CONFIG.num_frames)
