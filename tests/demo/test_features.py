from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from blip3v.demo.clips import ClipSet
from blip3v.demo.features import load_features
from blip3v.demo.model import FRAMES, GRID, WIDTH, demo_model
from blip3v.demo.render import SIZE
from blip3v.errors import UserError
from blip3v.video import frames_to_pixels, read_video
from tests.demo.conftest import COUNTS


@torch.inference_mode()
def test_features_are_those_of_the_model_on_the_file(clip_set: ClipSet, features: dict[str, Tensor]) -> None:
    assert len(features) == sum(COUNTS.values())
    # transformers' own forward, on the encoder inside a whole model.
    encoder = demo_model("mean_pool", 16, seed=1).vision_encoder.eval()
    for split in COUNTS:
        path = clip_set.clip(split, 1)
        expected = encoder(frames_to_pixels(read_video(path, FRAMES).frames, SIZE)).last_hidden_state
        found = features[str(path)]
        assert found.dtype == torch.bfloat16
        assert found.shape == (FRAMES, GRID**2, WIDTH)
        torch.testing.assert_close(found.float(), expected, rtol=1e-2, atol=1e-2)


def test_no_features_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no features in"):
        load_features(tmp_path)
