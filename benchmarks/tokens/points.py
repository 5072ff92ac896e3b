"""Which encoders are measured at which numbers of tokens."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

from blip3v.errors import UserError
from blip3v.models.configuration import Blip3VideoConfig
from blip3v.models.token_count import TEMPORAL_ENCODER_NAMES, video_token_count
from blip3v.profiling.presets import TOKENS, preset_config

COUNTS = {"small": (16, 32, 128), "4b": (16, 32, 64, 128, 256)}
"""Tokens asked of an encoder that can make any number, by preset: those of the paper's tables."""

IMAGE_SIZE = {"small": 216, "4b": 384}
"""27 x 27 patches in both presets, so that every encoder makes as many tokens as in the 4B model: Tarsier's
5,832 are 8 frames of 729."""


class Point(NamedTuple):
    """One row: an encoder and the tokens that it makes of a video."""

    encoder: str
    tokens: int


def case_of(preset: str, tokens: int) -> str:
    """The name of a case: `4b_32_tokens`."""
    return f"{preset}_{tokens}_tokens"


def tokens_of(case: str) -> int:
    """The number of tokens in a case's name, as `case_of` made it.

    Raises:
        UserError: it is no such name.
    """
    *_, count, last = ["", *case.split("_")]
    if last != "tokens" or not count.isdigit():
        raise UserError(f"no case {case!r}: cases of this level are named like {case_of('small', 32)}")
    return int(count)


@functools.cache
def config_of(preset: str, point: Point) -> Blip3VideoConfig:
    """The preset with this encoder.

    Raises:
        ValueError: the encoder cannot make so many tokens.
    """
    vision = _vision(preset) | {"image_size": IMAGE_SIZE[preset]}
    return preset_config(preset, point.encoder, point.tokens, vision_config=vision)


@functools.cache
def _vision(preset: str) -> dict[str, Any]:
    return dict(preset_config(preset).vision_config.to_dict())


def points(
    preset: str, encoders: Sequence[str] | None = None, tokens: Sequence[int] | None = None
) -> list[Point]:
    """All points, by encoder and then by tokens.

    Args:
        encoders: names; None for all nineteen.
        tokens: numbers of tokens; None for `COUNTS`, or the one number of an encoder that has no choice.

    Raises:
        UserError: an unknown encoder, or none that makes one of these numbers.
    """
    for name in encoders or ():
        if name not in TEMPORAL_ENCODER_NAMES:
            raise UserError(
                f"there is no temporal encoder {name!r}; choose from {', '.join(TEMPORAL_ENCODER_NAMES)}"
            )
    found = []
    for encoder in encoders or TEMPORAL_ENCODER_NAMES:
        counts = (*COUNTS[preset], _natural_count(preset, encoder)) if tokens is None else tokens
        asked = [Point(encoder, count) for count in sorted(set(counts))]
        found += [point for point in asked if _makes(preset, point)]
    if not found:
        raise UserError(f"no such encoder makes {', '.join(map(str, tokens or ()))} tokens; ask for others")
    return found


def _makes(preset: str, point: Point) -> bool:
    try:
        config_of(preset, point)
    except ValueError:
        return False
    return True


def _natural_count(preset: str, encoder: str) -> int:
    """What the encoder makes of 8 frames unless it is asked for a number."""
    config = config_of(preset, Point("token_learner", TOKENS))
    return video_token_count(config.video_token_spec() | {"temporal_encoder": encoder}, config.num_frames)
