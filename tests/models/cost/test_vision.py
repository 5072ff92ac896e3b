from __future__ import annotations

import pytest
import torch
from transformers import SiglipVisionModel

from blip3v.models.configuration import blip3_video_4b, blip3_video_tiny
from blip3v.models.cost.vision import resampler, vision_encoder
from blip3v.models.temporal import build_resampler
from blip3v.models.vision import encode_frames

PRESETS = {"4b": blip3_video_4b, "tiny": blip3_video_tiny}


@pytest.mark.parametrize("preset", PRESETS)
def test_the_vision_encoder_is_counted_as_pytorch_counts_it(preset, counted):
    config = PRESETS[preset]()
    config.vision_config._attn_implementation = "eager"
    with torch.device("meta"):
        model = SiglipVisionModel(config.vision_config)
        pixels = torch.randn(2, 3, 3, config.vision_config.image_size, config.vision_config.image_size)
    work = vision_encoder(config, frames=3, batch=2)
    with torch.no_grad():
        flops, features = counted(lambda: encode_frames(model, pixels))
    assert work.flops == flops
    head = sum(p.numel() for name, p in model.named_parameters() if name.startswith("head."))
    assert work.weights == sum(p.numel() for p in model.parameters()) - head
    assert work.moved == pixels.numel() + features.numel()


@pytest.mark.parametrize("preset", PRESETS)
def test_the_resampler_is_counted_as_pytorch_counts_it(preset, counted, fake):
    """Within 0.5%, because a norm's bias goes through the key/value matrix of each layer, once per call."""
    config = PRESETS[preset]()
    config._attn_implementation = "eager"
    module = build_resampler(config, config.num_latents)
    media = torch.randn(2, 3, config.patch_grid**2, config.vision_config.hidden_size)
    work = resampler(config, frames=3, batch=2)
    flops, tokens = counted(lambda: module(media))
    assert work.flops == pytest.approx(flops, rel=5e-3)
    assert work.weights == sum(p.numel() for p in module.parameters())
    assert work.moved == media.numel() + tokens.numel()
    backward, _ = counted(lambda: tokens.sum().backward())
    assert work.backward_flops == pytest.approx(backward, rel=5e-3)
