"""The stages of the whole model put together: one video's road, a training step, and MFU from them."""

from __future__ import annotations

from dataclasses import replace

from blip3v.models.configuration import Blip3VideoConfig
from blip3v.models.cost.language import decode_step, forward, prefill
from blip3v.models.cost.temporal import temporal_encoder
from blip3v.models.cost.vision import resampler, vision_encoder
from blip3v.models.cost.work import Work, linear, norms
from blip3v.models.temporal import READS_PATCHES

STAGES = ("vision_encoder", "resampler", "temporal_encoder", "projection", "prefill", "decode_step")
VISION_STAGES = STAGES[:4]
"""From pixels to video tokens."""


def vision_work(
    config: Blip3VideoConfig, frames: int | None = None, batch: int = 1, value_bytes: int = 2
) -> dict[str, Work]:
    """Stage -> work, from pixels to video tokens; see `model_work`."""
    frames = config.num_frames if frames is None else frames
    reads_patches = config.temporal_encoder in READS_PATCHES
    work = {
        "vision_encoder": vision_encoder(config, frames, batch),
        "resampler": Work() if reads_patches else resampler(config, frames, batch),
        "temporal_encoder": temporal_encoder(config, frames, batch),
        "projection": _projection(config, batch * config.video_tokens_for(frames)),
    }
    return {stage: replace(amount, value_bytes=value_bytes) for stage, amount in work.items()}


def model_work(
    config: Blip3VideoConfig,
    frames: int | None = None,
    text_tokens: int = 128,
    batch: int = 1,
    value_bytes: int = 2,
) -> dict[str, Work]:
    """Stage of `STAGES` -> work, for `batch` videos with a question each.

    Args:
        frames: of each video; None for the configuration's number.
        text_tokens: of each prompt, beside its video tokens.
        value_bytes: of a weight or an activation; 2 for bfloat16, 4 for float32.

    `prefill` computes the logits of the last token, `decode_step` one token for each video right behind the
    prompt. The embedding of the text is a lookup: no FLOPs, and its rows enter `prefill` as activations.
    """
    frames = config.num_frames if frames is None else frames
    tokens = config.video_tokens_for(frames) + text_tokens
    language = {"prefill": prefill(config, tokens, batch), "decode_step": decode_step(config, tokens, batch)}
    return vision_work(config, frames, batch, value_bytes) | {
        stage: replace(work, value_bytes=value_bytes) for stage, work in language.items()
    }


def training_flops(
    config: Blip3VideoConfig,
    frames: int | None = None,
    text_tokens: int = 128,
    batch: int = 1,
    logits: int | None = None,
) -> int:
    """FLOPs of one training step on `batch` videos, each with `text_tokens` tokens of prompt and answer.

    Forward of the frozen vision encoder; forward and backward of everything else, without the gradient of the
    patch features, which nobody needs, and without anything computed twice to save memory.

    Args:
        logits: positions of each sample whose logits are computed; None for all, as the model's forward
            does. With the loss on answers only, the answer's tokens would do.
    """
    frames = config.num_frames if frames is None else frames
    vision = vision_work(config, frames, batch)
    frozen = vision.pop("vision_encoder")
    language = forward(config, config.video_tokens_for(frames) + text_tokens, batch, logits)
    trained = sum(vision.values(), language)
    return frozen.flops + trained.flops + trained.backward_flops


def mfu(samples_per_second: float, flops_per_sample: float, peak_flops_per_s: float) -> float:
    """Model FLOPs utilisation = samples/s * FLOPs per sample / peak FLOP/s of the device.

    FLOPs per sample are those really needed (`training_flops` of one video: the vision encoder's forward
    is counted, recomputation is not); the peak is the dense one of the data sheet for bfloat16, times the
    number of devices when samples/s are of all of them.

    Raises:
        ValueError: a peak that is not positive.
    """
    if peak_flops_per_s <= 0:
        raise ValueError(f"the peak must be positive, got {peak_flops_per_s} FLOP/s")
    return samples_per_second * flops_per_sample / peak_flops_per_s


def _projection(config: Blip3VideoConfig, tokens: int) -> Work:
    """The last LayerNorm and the linear layer to the language model's width."""
    dim, text_dim = config.vision_config.hidden_size, config.text_config.hidden_size
    work = norms(1, dim) + linear(tokens, dim, text_dim, bias=True)
    return work.moving(tokens * (dim + text_dim))
