"""FLOPs that a real training batch needs: its own lengths, its own labels, its own videos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from blip3v.models.configuration import Blip3VideoConfig
from blip3v.models.cost.language import forward_each
from blip3v.models.cost.totals import vision_work

MFU_FORMULA = (
    "FLOPs needed per second / (devices * peak): forward of the frozen vision encoder, forward and backward "
    "of the rest, causal attention inside each sample, logits where there are labels; "
    "no padding, no recomputation"
)
"""How `mfu` of a run's log is counted, in words for whoever reads the log."""

VIDEOS = (PIXELS, FEATURES) = ("pixel_values_videos", "video_features")
"""Keys of a batch that hold its videos."""


def step_flops(
    config: Blip3VideoConfig,
    lengths: Sequence[int],
    logits: int,
    videos: int = 0,
    frames: int = 0,
    features_given: bool = False,
) -> int:
    """FLOPs of forward and backward over one batch.

    Padding, recomputation and logits that nobody asked for are not needed and not counted, so a packed and a
    padded batch of the same samples count the same. The vision encoder is frozen, as in the paper's recipes.
    With equal lengths it is `training_flops`.

    Args:
        lengths: real tokens of each sample, video tokens included.
        logits: places whose next token has a label, over all samples.
        videos, frames: how many videos, and the frames of each.
        features_given: the vision encoder has run before, its output is in the batch.
    """
    language = forward_each(config, lengths, logits)
    flops = language.flops + language.backward_flops
    if videos:
        vision = vision_work(config, frames, videos)
        frozen = vision.pop("vision_encoder")
        flops += 0 if features_given else frozen.flops
        flops += sum(work.flops + work.backward_flops for work in vision.values())
    return flops


def batch_flops(config: Blip3VideoConfig, batch: Mapping[str, Tensor | int]) -> int:
    """`step_flops` of a batch as it was collated, padded or packed.

    Reads numbers out of the batch: call it before the batch goes to the GPU, or it waits for the GPU.

    Args:
        batch: padded: attention_mask and labels [B,L]; packed: cu_seqlens [n+1] and shift_labels [1,k].
            Videos as pixel_values_videos [n,T,3,H,W] or video_features [n,T,S,D], if any.
    """
    if "cu_seqlens" in batch:
        lengths = _tensor(batch, "cu_seqlens").diff().tolist()
        labels = _tensor(batch, "shift_labels")
    else:
        lengths = _tensor(batch, "attention_mask").sum(1).tolist()
        labels = _tensor(batch, "labels")[:, 1:]
    kind = next((key for key in VIDEOS if batch.get(key) is not None), None)
    videos, frames = (0, 0) if kind is None else _tensor(batch, kind).shape[:2]
    logits = int((labels != -100).sum())
    return step_flops(config, lengths, logits, videos, frames, features_given=kind == FEATURES)


def _tensor(batch: Mapping[str, Tensor | int], key: str) -> Tensor:
    value = batch[key]
    assert isinstance(value, Tensor), f"{key} of a batch is a tensor"
    return value
