"""The sizes at which the levels above the ops run the models of `blip3v.profiling.presets`."""

from __future__ import annotations

import re

import torch

from blip3v.errors import UserError
from blip3v.models.configuration import Blip3VideoConfig
from blip3v.profiling.presets import preset_config

VIDEOS = {"small": (1, 2), "4b": (1, 16)}
"""Videos side by side in the cases that are taken without asking."""


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
