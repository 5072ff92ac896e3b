from __future__ import annotations

import pytest
import torch

from blip3v.models.configuration import blip3_video_tiny
from blip3v.models.temporal import READS_PATCHES, build_temporal_encoder
from blip3v.models.token_count import TEMPORAL_ENCODER_NAMES, check_token_count, video_token_count

COUNTS = (16, 32, 64, 128, 256)
ANY_COUNT = {
    "transformer",
    "token_learner",
    "token_learner_per_frame",
    "space_time_max_pool",
    "joint_perceiver",
}
ANY_COUNT |= {"ttm", "grouped_ttm", "video_llama"}
# The count of every other encoder follows from 8 frames, 128 tokens per frame and a grid of 4 x 4 patches.
ONE_COUNT = {
    "none": 1024,
    "sum_pool": 128,
    "mean_pool": 128,
    "max_pool": 128,
    "video_chatgpt": 24,
    "pllava": 128,
    "kangaroo": 16,
    "minigpt4_video": 32,
    "llava_next_video": 32,
    "llava_onevision": 32,
    "tarsier": 128,
}


def wide(name: str, tokens: int | None, **overrides):
    return blip3_video_tiny(name, tokens, frames=8, num_latents=128, width=16, **overrides)


def spec(name: str, **values):
    defaults = {"video_tokens": 32, "num_frames": 8, "num_latents": 128, "patch_grid": 4}
    return {"temporal_encoder": name, "time_stamp": False, "ttm_output": "attention"} | defaults | values


def test_the_two_tables_cover_every_encoder():
    assert ANY_COUNT | set(ONE_COUNT) == set(TEMPORAL_ENCODER_NAMES)


@pytest.mark.parametrize("name", TEMPORAL_ENCODER_NAMES)
@pytest.mark.parametrize("tokens", COUNTS)
def test_an_encoder_makes_what_was_asked_or_says_what_it_can_make(name, tokens):
    if name not in ANY_COUNT and tokens != ONE_COUNT[name]:
        with pytest.raises(
            ValueError, match=f"{name} makes {ONE_COUNT[name]} tokens .* not {tokens}: set video_t"
        ):
            wide(name, tokens)
        return
    config = wide(name, tokens)
    assert config.video_tokens_for(8) == tokens
    encoder = build_temporal_encoder(config).eval()
    per_frame = 16 if name in READS_PATCHES else 128
    for frames in (1, 3, 8):
        with torch.no_grad():
            out = encoder(torch.randn(1, frames, per_frame, 16))
        assert out.shape == (1, config.video_tokens_for(frames), 16)


@pytest.mark.parametrize("name", TEMPORAL_ENCODER_NAMES)
def test_every_encoder_has_a_natural_count(name):
    config = wide(name, None)
    assert config.video_tokens == ONE_COUNT.get(name, 32)
    assert config.video_tokens_for(8) == config.video_tokens


@pytest.mark.parametrize(
    ("name", "values", "frames", "tokens"),
    [
        ("none", {}, 3, 384),
        ("mean_pool", {}, 3, 128),
        ("token_learner", {}, 3, 32),
        ("token_learner_per_frame", {}, 3, 12),
        ("space_time_max_pool", {}, 3, 32),
        ("transformer", {"video_tokens": 256}, 1, 128),
        ("transformer", {"video_tokens": 256}, 2, 256),
        ("ttm", {"video_tokens": 128}, 3, 48),
        ("ttm", {"video_tokens": 128, "time_stamp": True}, 3, 128),
        ("grouped_ttm", {"ttm_output": "mean"}, 3, 128),
        ("grouped_ttm", {}, 3, 32),
    ],
)
def test_another_number_of_frames(name, values, frames, tokens):
    assert video_token_count(spec(name, **values), frames) == tokens


@pytest.mark.parametrize("name", ["token_learner_per_frame", "space_time_max_pool", "ttm"])
def test_tokens_that_do_not_divide_among_frames_are_refused(name):
    with pytest.raises(ValueError, match=r"must be a multiple of 8, got 20"):
        check_token_count(spec(name, video_tokens=20))


def test_a_machine_that_returns_its_memory_needs_no_equal_shares():
    check_token_count(spec("ttm", video_tokens=20, time_stamp=True))


def test_more_maxima_than_tokens_are_refused():
    with pytest.raises(ValueError, match="cannot make 256 tokens per frame out of 128; ask for at most 1024"):
        check_token_count(spec("space_time_max_pool", video_tokens=2048))


def test_more_last_tokens_than_the_video_has_are_refused():
    with pytest.raises(ValueError, match="transformer makes 1024 tokens"):
        check_token_count(spec("transformer", video_tokens=2048))


def test_an_unknown_encoder_is_answered_with_the_list():
    with pytest.raises(ValueError, match=r"no temporal encoder named 'lstm'; choose one of none, .*tarsier"):
        check_token_count(spec("lstm"))


@pytest.mark.parametrize("values", [{"video_tokens": 0}, {"num_frames": 0}])
def test_nothing_is_not_a_count(values):
    with pytest.raises(ValueError, match="must be at least 1"):
        check_token_count(spec("token_learner", **values))


def test_a_video_needs_a_frame():
    with pytest.raises(ValueError, match="at least one frame, got 0"):
        video_token_count(spec("none"), 0)
