"""The models that the levels above the ops run: `small` for any CPU, `4b` as published."""

from __future__ import annotations

import re

import torch

from blip3v.demo.timing import timing_config
from blip3v.errors import UserError
from blip3v.models.configuration import Blip3VideoConfig, blip3_video_4b
from blip3v.models.token_count import TEMPORAL_ENCODER_NAMES, video_token_count

VIDEOS = {"small": (1, 2), "4b": (1, 16)}
"""Videos side by side in the cases that are taken without asking."""

TEXT_TOKENS = {"small": 16, "4b": 128}
"""Tokens of text behind those of the video, for every video."""

TOKENS = 32
"""Of encoders that make as many as they are asked for."""


def preset_config(
    preset: str, temporal: str = "grouped_ttm", tokens: int | None = None, **overrides: object
) -> Blip3VideoConfig:
    """A preset with one temporal encoder.

    small: the widths at which the demo times tokens, see blip3v/demo/timing.py, and temporal encoders of one
    layer; 8 frames and 128 latents as published.
    tokens: 32 if not given, or what the encoder makes by its nature.

    Raises:
        UserError: no such preset or encoder.
        ValueError: an encoder that cannot make so many tokens.
    """
    if preset not in VIDEOS:
        raise UserError(f"no preset {preset!r}: choose one of {', '.join(VIDEOS)}")
    if temporal not in TEMPORAL_ENCODER_NAMES:
        raise UserError(
            f"no temporal encoder {temporal!r}: choose one of {', '.join(TEMPORAL_ENCODER_NAMES)}"
        )
    base = blip3_video_4b() if preset == "4b" else timing_config(TOKENS)
    fields: dict[str, object] = {} if preset == "4b" else {"temporal_depth": 1}
    fields |= {
        "temporal_encoder": temporal,
        "time_stamp": temporal == "grouped_ttm",
        "ttm_output": "mean" if tokens == base.num_latents else "attention",
        "video_tokens": tokens or TOKENS,
    }
    if tokens is None:
        spec = base.video_token_spec() | fields
        fields["video_tokens"] = video_token_count(spec, base.num_frames)
    return Blip3VideoConfig(**(base.to_dict() | fields | overrides))


def config_with_tokens(preset: str, tokens: int) -> Blip3VideoConfig:
    """The paper's best encoder making so many tokens; with those of all frames, no encoder.

    Raises:
        ValueError: the encoder cannot make so many.
    """
    every = preset_config(preset, "none").video_tokens
    return preset_config(preset, "none" if tokens == every else "grouped_ttm", tokens)


def dtype_of(device: str) -> str:
    """The dtype that a user would take there: few CPUs multiply fast in bfloat16."""
    return "bfloat16" if torch.device(device).type == "cuda" else "float32"


def videos_case(preset: str, videos: int) -> str:
    """The name of a case: `4b_16_videos`."""
    return f"{preset}_{videos}_video{'s' if videos > 1 else ''}"


def numbers_in(case: str, pattern: str, example: str) -> tuple[int, ...]:
    """The numbers in a case's name, at the groups of `pattern`.

    Raises:
        UserError: another name; the message shows an example.
    """
    found = re.fullmatch(pattern, case)
    numbers = tuple(int(group) for group in found.groups()) if found else ()
    if not numbers or min(numbers) < 1:
        raise UserError(f"no case {case!r} here; cases are called like {example}")
    return numbers
