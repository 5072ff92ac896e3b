"""Both presets hold every encoder, and cases are named as they are read."""

from __future__ import annotations

import pytest

from benchmarks.presets import VIDEOS, config_with_tokens, numbers_in, videos_case
from blip3v.errors import UserError
from blip3v.models.configuration import blip3_video_4b
from blip3v.models.token_count import TEMPORAL_ENCODER_NAMES
from blip3v.profiling.presets import preset_config


@pytest.mark.parametrize("preset", VIDEOS)
@pytest.mark.parametrize("name", TEMPORAL_ENCODER_NAMES)
def test_every_encoder_in_every_preset(preset: str, name: str) -> None:
    config = preset_config(preset, name)
    assert config.temporal_encoder == name
    assert config.video_tokens_for(config.num_frames) == config.video_tokens


@pytest.mark.parametrize("tokens", [None, 32, 128])
def test_4b_is_the_published_model(tokens: int | None) -> None:
    assert preset_config("4b", "grouped_ttm", tokens).to_dict() == (
        blip3_video_4b("grouped_ttm", tokens or 32).to_dict()
    )


def test_all_tokens_of_all_frames_need_no_encoder() -> None:
    assert config_with_tokens("4b", 1024).temporal_encoder == "none"
    assert config_with_tokens("4b", 16).temporal_encoder == "grouped_ttm"


@pytest.mark.parametrize("count", [1, 16])
def test_names_of_cases_are_read_back(count: int) -> None:
    assert numbers_in(videos_case("4b", count), r"4b_(\d+)_videos?", "") == (count,)


@pytest.mark.parametrize("case", ["small_1_video", "4b_0_videos", "4b_videos", ""])
def test_other_names_are_refused_with_an_example(case: str) -> None:
    with pytest.raises(UserError, match="4b_2_videos"):
        numbers_in(case, r"4b_(\d+)_videos?", "4b_2_videos")


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UserError, match="small, 4b"):
        preset_config("tiny")
    with pytest.raises(UserError, match="grouped_ttm"):
        preset_config("small", "grouped")
