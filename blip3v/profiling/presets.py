"""The models that are profiled and benchmarked: `small` for any CPU, `4b` as published; random weights."""

from __future__ import annotations

from blip3v.demo.timing import timing_config
from blip3v.errors import UserError
from blip3v.models.configuration import Blip3VideoConfig, blip3_video_4b, temporal_fields
from blip3v.models.token_count import TEMPORAL_ENCODER_NAMES

TEXT_TOKENS = {"small": 16, "4b": 128}
"""Tokens of text behind those of the video, for every video."""

TOKENS = 32
"""Of encoders that make as many as they are asked for."""


def preset_config(
    preset: str,
    temporal: str = "grouped_ttm",
    tokens: int | None = None,
    frames: int = 8,
    **overrides: object,
) -> Blip3VideoConfig:
    """A preset with one temporal encoder.

    small: the widths at which the demo times tokens, see blip3v/demo/timing.py, and temporal encoders of one
    layer; 128 latents as published. tokens: 32 if not given, or what the encoder makes by its nature.

    Raises:
        UserError: no such preset or encoder.
        ValueError: an encoder that cannot make so many tokens.
    """
    if preset not in TEXT_TOKENS:
        raise UserError(f"no preset {preset!r}: choose one of {', '.join(TEXT_TOKENS)}")
    if temporal not in TEMPORAL_ENCODER_NAMES:
        raise UserError(
            f"no temporal encoder {temporal!r}: choose one of {', '.join(TEMPORAL_ENCODER_NAMES)}"
        )
    if preset == "4b":
        return blip3_video_4b(temporal, tokens, frames, **overrides)
    small = timing_config(TOKENS)
    fields = temporal_fields(temporal, tokens, small.num_latents, frames, small.patch_grid)
    return Blip3VideoConfig(**(small.to_dict() | fields | {"temporal_depth": 1} | overrides))
