"""How many language-model tokens a video becomes: plain arithmetic, no tensors.

T frames, L resampler tokens per frame, P x P patches per frame, M tokens asked for, N frames at which M was
asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import ceil
from typing import Any

Spec = Mapping[str, Any]


def _latents(spec: Spec, frames: int) -> int:
    return spec["num_latents"]


def _as_asked(spec: Spec, frames: int) -> int:
    return spec["video_tokens"]


def _as_asked_per_frame(spec: Spec, frames: int) -> int:
    return spec["video_tokens"] // spec["num_frames"] * frames


def _transformer(spec: Spec, frames: int) -> int:
    return min(spec["video_tokens"], frames * spec["num_latents"])


def _ttm(spec: Spec, frames: int) -> int:
    return spec["video_tokens"] if spec["time_stamp"] else _as_asked_per_frame(spec, frames)


def _grouped_ttm(spec: Spec, frames: int) -> int:
    return spec["num_latents"] if spec["ttm_output"] == "mean" else spec["video_tokens"]


def _all_frame_tokens(spec: Spec, frames: int) -> int:
    return frames * spec["num_latents"]


def _grid_per_frame(side: Callable[[int], int]) -> Callable[[Spec, int], int]:
    return lambda spec, frames: frames * side(spec["patch_grid"]) ** 2


_COUNTS: dict[str, Callable[[Spec, int], int]] = {
    "none": _all_frame_tokens,
    "sum_pool": _latents,
    "mean_pool": _latents,
    "max_pool": _latents,
    "transformer": _transformer,
    "token_learner": _as_asked,
    "token_learner_per_frame": _as_asked_per_frame,
    "space_time_max_pool": _as_asked,
    "joint_perceiver": _as_asked,
    "ttm": _ttm,
    "grouped_ttm": _grouped_ttm,
    "video_chatgpt": lambda spec, frames: spec["patch_grid"] ** 2 + frames,
    "pllava": _grid_per_frame(lambda p: min(p, 12)),
    "video_llama": _as_asked,
    "kangaroo": lambda spec, frames: ceil(frames / 2) * ceil(spec["patch_grid"] / 2) ** 2,
    "minigpt4_video": lambda spec, frames: frames * ceil(spec["patch_grid"] ** 2 / 4),
    "llava_next_video": _grid_per_frame(lambda p: p // 2),
    "llava_onevision": _grid_per_frame(lambda p: ceil(p / 2)),
    "tarsier": _grid_per_frame(lambda p: p),
}
TEMPORAL_ENCODER_NAMES: tuple[str, ...] = tuple(_COUNTS)

_PER_FRAME = ("token_learner_per_frame", "space_time_max_pool")


def video_token_count(spec: Spec, frames: int) -> int:
    """Tokens for one video of `frames` frames (at least 1), for a `Blip3VideoConfig.video_token_spec()`.

    Raises:
        ValueError: fewer than one frame.
    """
    if frames < 1:
        raise ValueError(f"a video needs at least one frame, got {frames}")
    return _COUNTS[spec["temporal_encoder"]](spec, frames)


def check_token_count(spec: Spec) -> None:
    """Refuse an unknown encoder, or a token count that its formula cannot make.

    Raises:
        ValueError: with what the encoder can make.
    """
    name, tokens, frames = spec["temporal_encoder"], spec["video_tokens"], spec["num_frames"]
    if name not in _COUNTS:
        raise ValueError(
            f"no temporal encoder named {name!r}; choose one of {', '.join(TEMPORAL_ENCODER_NAMES)}"
        )
    if tokens < 1 or frames < 1:
        raise ValueError(f"video_tokens and num_frames must be at least 1, got {tokens} and {frames}")
    per_frame = name in _PER_FRAME or (name == "ttm" and not spec["time_stamp"])
    if per_frame and tokens % frames:
        raise ValueError(
            f"{name} makes the same number of tokens for each of its {frames} frames: "
            f"video_tokens must be a multiple of {frames}, got {tokens}"
        )
    made = video_token_count(spec, frames)
    if made != tokens:
        raise ValueError(
            f"{name} makes {made} tokens from {frames} frames of {spec['num_latents']} tokens, "
            f"not {tokens}: set video_tokens={made} or choose another encoder"
        )
    if name == "space_time_max_pool" and tokens // frames > spec["num_latents"]:
        raise ValueError(
            f"space_time_max_pool cannot make {tokens // frames} tokens per frame "
            f"out of {spec['num_latents']}; ask for at most {frames * spec['num_latents']}"
        )
