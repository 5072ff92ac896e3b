"""From single prompts and samples to the tensors of a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from blip3v.data.packing import IGNORE
from blip3v.errors import UserError
from blip3v.models.tokenizer import IMAGE

PIXELS, FEATURES = "pixel_values_videos", "video_features"
_LAYOUTS = {PIXELS: "[n, T, 3, H, W]", FEATURES: "[n, T, S, D]"}

Sample = Mapping[str, torch.Tensor]
"""input_ids and labels, int64 [L]; its videos, if any, by the names and in the shapes of `_LAYOUTS`."""


def pad_left(
    rows: list[list[int]], pad_token_id: int, padding: bool | str, max_length: int | None, must_be_even: bool
) -> dict[str, list[list[int]]]:
    """input_ids and attention_mask of rows that end together, as generation wants them.

    Args:
        padding: True pads to the longest row, "max_length" to that, False does not pad.
        must_be_even: whether the rows are to become one tensor.

    Raises:
        UserError: a row longer than max_length, or rows of different lengths where they must be even.
    """
    longest = max((len(row) for row in rows), default=0)
    if max_length is not None and longest > max_length:
        raise UserError(
            f"a prompt has {longest} tokens, more than max_length {max_length}; shorten it or raise that"
        )
    if padding == "max_length" and max_length is None:
        raise UserError('padding="max_length" needs max_length')
    if must_be_even and not padding and any(len(row) != longest for row in rows):
        raise UserError("prompts of different lengths cannot make one tensor; set padding=True")
    width = max_length if padding == "max_length" else longest
    missing = [(width or 0) - len(row) if padding else 0 for row in rows]
    return {
        "input_ids": [[pad_token_id] * gap + row for gap, row in zip(missing, rows, strict=True)],
        "attention_mask": [[0] * gap + [1] * len(row) for gap, row in zip(missing, rows, strict=True)],
    }


def pad_right(samples: Sequence[Sample], pad_token_id: int) -> dict[str, torch.Tensor]:
    """input_ids, attention_mask and labels, int64 [B, L], of samples that begin together, for training."""
    size = (len(samples), max(len(sample["input_ids"]) for sample in samples))
    input_ids = torch.full(size, pad_token_id)
    attention_mask, labels = torch.zeros_like(input_ids), torch.full_like(input_ids, IGNORE)
    for row, sample in enumerate(samples):
        length = len(sample["input_ids"])
        input_ids[row, :length] = sample["input_ids"]
        labels[row, :length] = sample["labels"]
        attention_mask[row, :length] = 1
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


def join_videos(
    samples: Sequence[Sample], image_token_id: int, tokens_for: Callable[[int], int]
) -> dict[str, torch.Tensor]:
    """The videos of all samples by their name, after a look at every sample.

    Args:
        tokens_for: T -> the tokens of one video of T frames.

    Raises:
        UserError: no samples, pixels and features in one batch, shapes that do not join, or a sample whose
            `<image>` ids do not fit its videos.
    """
    if not samples:
        raise UserError("cannot make a batch of no samples; check that the data set is not empty")
    videos: dict[str, list[torch.Tensor]] = {}
    for sample in samples:
        _check(sample, image_token_id, tokens_for)
        for key in (PIXELS, FEATURES):
            if sample.get(key) is not None:
                videos.setdefault(key, []).append(sample[key])
    if len(videos) > 1:
        raise UserError(f"a batch holds {PIXELS} or {FEATURES}, not both; prepare all samples the same way")
    return {key: concatenate(parts) for key, parts in videos.items()}


def concatenate(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Videos joined along the first dimension.

    Raises:
        UserError: they differ in the others.
    """
    shapes = sorted({tuple(part.shape[1:]) for part in parts})
    if len(shapes) > 1:
        raise UserError(
            f"videos of one batch differ in shape: {shapes}; give all of them the same number of frames"
        )
    return torch.cat(list(parts))


def _check(sample: Sample, image_token_id: int, tokens_for: Callable[[int], int]) -> None:
    expected = 0
    for key, layout in _LAYOUTS.items():
        videos = sample.get(key)
        if videos is None:
            continue
        if videos.ndim != len(layout.split(",")):
            raise UserError(f"{key} of a sample must be {layout}, got {list(videos.shape)}")
        expected += len(videos) * tokens_for(videos.shape[1])
    found = int((sample["input_ids"] == image_token_id).sum())
    if found != expected:
        raise UserError(
            f"a sample has {found} {IMAGE} ids but its videos become {expected} tokens; "
            "encode it with the same num_videos and frames"
        )
