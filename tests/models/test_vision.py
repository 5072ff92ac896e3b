"""Pixels to video tokens: SigLIP's features without its head, and the order norm-after-encoder."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import SiglipVisionConfig, SiglipVisionModel

from blip3v import blip3_video_tiny
from blip3v.models.temporal import READS_PATCHES
from blip3v.models.token_count import TEMPORAL_ENCODER_NAMES
from blip3v.models.vision import VisionTokenizer, encode_frames


def siglip(head: bool) -> SiglipVisionModel:
    torch.manual_seed(0)
    config = SiglipVisionConfig(
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=3,
        image_size=32,
        patch_size=8,
        vision_use_head=head,
    )
    return SiglipVisionModel(config).double().eval()


def test_features_are_siglips_last_hidden_state() -> None:
    encoder = siglip(head=True)
    pixels = torch.randn(2, 3, 3, 32, 32, dtype=torch.float64)
    expected = [encoder(video).last_hidden_state for video in pixels]
    torch.testing.assert_close(encode_frames(encoder, pixels), torch.stack(expected), rtol=0, atol=1e-12)


def test_the_pooling_head_never_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = siglip(head=True)
    monkeypatch.setattr(encoder.head, "forward", lambda *_: pytest.fail("the pooling head ran"))
    assert encode_frames(encoder, torch.randn(1, 2, 3, 32, 32, dtype=torch.float64)).shape == (1, 2, 16, 24)


def test_norm_and_projection_come_after_the_temporal_encoder() -> None:
    """The maximum over time and a LayerNorm do not commute, so the order shows."""
    torch.manual_seed(1)
    tokenizer = VisionTokenizer(blip3_video_tiny("max_pool", 8)).double()
    for parameter in tokenizer.parameters():
        nn.init.normal_(parameter, std=0.5)
    features = torch.randn(2, 4, 16, 32, dtype=torch.float64)
    pooled = tokenizer.resampler(features).amax(dim=1)
    centred = pooled - pooled.mean(dim=-1, keepdim=True)
    normed = centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()
    normed = normed * tokenizer.norm.weight + tokenizer.norm.bias
    expected = torch.einsum("bmd,od->bmo", normed, tokenizer.projection.weight) + tokenizer.projection.bias
    torch.testing.assert_close(tokenizer(features), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("temporal", TEMPORAL_ENCODER_NAMES)
def test_every_encoder_makes_the_tokens_that_the_config_counts(temporal: str) -> None:
    config = blip3_video_tiny(temporal, None)
    tokenizer = VisionTokenizer(config)
    assert (tokenizer.resampler is None) == (temporal in READS_PATCHES)
    for frames in (1, config.num_frames, 7):
        tokens = tokenizer(torch.randn(2, frames, config.patch_grid**2, 32))
        assert tokens.shape == (2, config.video_tokens_for(frames), config.text_config.hidden_size)
        assert tokens.isfinite().all()
