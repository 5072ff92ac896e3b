from __future__ import annotations

import pytest
import torch

from blip3v.models.configuration import blip3_video_4b, blip3_video_tiny
from blip3v.models.cost.temporal import temporal_encoder
from blip3v.models.temporal import READS_PATCHES, build_temporal_encoder
from blip3v.models.token_count import TEMPORAL_ENCODER_NAMES

PRESETS = {"4b": blip3_video_4b, "tiny": blip3_video_tiny}
# The machine that returns its steps' tokens never reads its last memory, whose backward then does not run.
BACKWARD_TOLERANCE = {"ttm": 0.03}


def setup(preset, name, **overrides):
    config = PRESETS[preset](name, None, **overrides)
    config._attn_implementation = "eager"
    encoder = build_temporal_encoder(config)
    per_frame = config.patch_grid**2 if name in READS_PATCHES else config.num_latents
    x = torch.randn(2, config.num_frames, per_frame, config.vision_config.hidden_size)
    return config, encoder, x.requires_grad_(name not in READS_PATCHES)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", TEMPORAL_ENCODER_NAMES)
def test_an_encoder_is_counted_as_pytorch_counts_it(preset, name, counted, fake):
    config, encoder, x = setup(preset, name)
    work = temporal_encoder(config, config.num_frames, batch=2)
    flops, tokens = counted(lambda: encoder(x))
    # Only the joint Perceiver is not exact: a norm's bias goes through each layer's key/value matrix.
    assert work.flops == pytest.approx(flops, rel=0.01 if name == "joint_perceiver" else 0)
    if not tokens.requires_grad or name == "kangaroo":
        # The counter takes the gradient of a depthwise convolution's weights for that of a dense one.
        return
    backward, _ = counted(lambda: tokens.sum().backward())
    assert work.backward_flops == pytest.approx(backward, rel=BACKWARD_TOLERANCE.get(name, 0.01), abs=0)


@pytest.mark.parametrize("name", TEMPORAL_ENCODER_NAMES)
def test_weights_and_what_enters_and_leaves(name, fake):
    """Of the grouped TTM, a layer is left out that checkpoints store and no forward runs."""
    config, encoder, x = setup("tiny", name)
    work = temporal_encoder(config, config.num_frames, batch=2)
    parts = encoder.named_parameters()
    assert work.weights == sum(
        p.numel() for part, p in parts if ".read_layer." not in f".ttm_unit.{part}" or name != "grouped_ttm"
    )
    recurrent = name in ("ttm", "grouped_ttm")
    if name in ("none", "tarsier"):
        assert work.moved == 0, "a view moves nothing"
    elif not recurrent:
        assert work.moved == x.numel() + encoder(x).numel()
    else:
        assert work.moved > x.numel() + encoder(x).numel() + (config.num_frames - 2) * work.weights


@pytest.mark.parametrize(
    ("name", "tokens", "overrides"),
    [
        ("grouped_ttm", 8, {}),
        ("grouped_ttm", 8, {"ttm_output": "mean", "num_latents": 8}),
        ("ttm", 6, {"time_stamp": True}),
        ("transformer", 20, {}),
        ("video_llama", 5, {}),
    ],
)
def test_other_settings(name, tokens, overrides, counted, fake):
    config = blip3_video_tiny(name, tokens, **overrides)
    config._attn_implementation = "eager"
    encoder = build_temporal_encoder(config)
    per_frame = config.patch_grid**2 if name in READS_PATCHES else config.num_latents
    x = torch.randn(1, 3, per_frame, config.vision_config.hidden_size)
    flops, _ = counted(lambda: encoder(x))
    assert temporal_encoder(config, frames=3).flops == flops
