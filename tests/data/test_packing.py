from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from blip3v.data.conversation import Turn
from blip3v.data.packing import IGNORE, count_labels, count_tokens, estimate_lengths, pack
from blip3v.data.records import Record


def sample(ids: list[int], labels: list[int]) -> dict[str, Tensor]:
    return {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels)}


# The second sample's first token has a label, which nothing predicts.
SAMPLES = [
    sample([1, 5, 6, 7], [IGNORE, IGNORE, 6, 7]),
    sample([1, 8], [1, 8]),
    sample([1, 2, 3], [IGNORE] * 3),
]


def test_segments_stand_one_behind_the_other() -> None:
    batch = pack(SAMPLES)
    assert batch["input_ids"].tolist() == [[1, 5, 6, 7, 1, 8, 1, 2, 3]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1, 0, 1, 2]]
    assert batch["cu_seqlens"].tolist() == [0, 4, 6, 9] and batch["cu_seqlens"].dtype == torch.int32
    assert batch["max_seqlen"] == 4 and type(batch["max_seqlen"]) is int
    assert batch["logits_to_keep"].tolist() == [1, 2, 4]
    assert batch["shift_labels"].tolist() == [[6, 7, 8]]


def test_the_row_is_filled_up_by_a_segment_without_labels() -> None:
    batch = pack(SAMPLES, pad_id=9, multiple=8)
    assert batch["input_ids"].tolist() == [[1, 5, 6, 7, 1, 8, 1, 2, 3, *[9] * 7]]
    assert batch["position_ids"][0, 9:].tolist() == list(range(7))
    assert batch["cu_seqlens"].tolist() == [0, 4, 6, 9, 16] and batch["max_seqlen"] == 7
    assert batch["shift_labels"].tolist() == [[6, 7, 8]]
    assert pack(SAMPLES, multiple=3)["cu_seqlens"].tolist() == [0, 4, 6, 9]


def test_no_labels_and_one_token() -> None:
    batch = pack([sample([1], [1])])
    assert batch["logits_to_keep"].shape == (0,) and batch["shift_labels"].shape == (1, 0)
    assert batch["logits_to_keep"].dtype == batch["shift_labels"].dtype == torch.int64
    assert count_labels(batch) == 0


def test_counts_are_equal_padded_and_packed() -> None:
    padded = {
        "input_ids": torch.tensor([[1, 5, 6, 7], [1, 8, 0, 0], [1, 2, 3, 0]]),
        "labels": torch.tensor([[IGNORE, IGNORE, 6, 7], [1, 8, IGNORE, IGNORE], [IGNORE] * 4]),
    }
    assert count_labels(padded) == count_labels(pack(SAMPLES)) == 3
    assert (count_tokens(padded), count_tokens(pack(SAMPLES)), count_tokens(pack(SAMPLES, 0, 8))) == (
        12,
        9,
        16,
    )


def test_lengths_are_guessed_from_characters_turns_and_videos() -> None:
    turn = Turn("a" * 7, "b")
    records = [
        Record("1", (turn,), video=Path("x.mp4")),
        Record("2", (turn, turn), image=Path("x.png")),
        Record("3", (turn,)),
    ]
    assert estimate_lengths(records, 32, prompt_tokens=40).tolist() == [40 + 2 + 32, 40 + 4 + 4 + 32, 40 + 2]
    assert estimate_lengths(iter([]), 32).shape == (0,)


def test_a_guess_is_near_the_truth() -> None:
    """With a vocabulary of 3 to 4 characters a word, where the space after it is the fourth."""
    from blip3v.models.configuration import blip3_video_tiny
    from blip3v.models.processing import Blip3VideoProcessor
    from blip3v.models.tokenizer import word_tokenizer

    tokenizer = word_tokenizer(["who is the man", "a red cat ran far"])
    config = blip3_video_tiny(vocab_size=len(tokenizer) - 3)
    processor = Blip3VideoProcessor.from_config(config, tokenizer, system_prompt="")
    tokens = processor.video_tokens_for(processor.num_frames)
    for words in (1, 10, 40):
        record = Record("1", (Turn("who is the man", "a red cat ran far " * words),), video=Path("x.mp4"))
        true = len(processor.encode_conversation(record.turns)["input_ids"])
        (guess,) = estimate_lengths([record], tokens, prompt_tokens=6)
        assert guess == pytest.approx(true, rel=0.15)
