from __future__ import annotations

import pytest
import torch

from blip3v.models.configuration import blip3_video_4b, blip3_video_tiny
from blip3v.models.cost import STAGES, VISION_STAGES, forward, mfu, model_work, training_flops, vision_work
from blip3v.models.modeling import Blip3VideoForConditionalGeneration

TERA = 1e12


def of_4b(tokens: int = 32) -> dict[str, float]:
    """The figures that are published with this project for one video of 8 frames, in TFLOP."""
    config = blip3_video_4b(tokens=tokens)
    everything = blip3_video_4b("none", tokens=None)
    work, all_tokens = model_work(config), model_work(everything)
    return {
        "vision encoder": work["vision_encoder"].flops / TERA,
        # With the projection of all of its 8 x 128 tokens.
        "resampler": (all_tokens["resampler"] + all_tokens["projection"]).flops / TERA,
        "grouped TTM": work["temporal_encoder"].flops / TERA,
        # Logits of all positions, as in training.
        "Phi-3, 32 + 128 tokens": forward(config, 160).flops / TERA,
        "Phi-3, 1024 + 128 tokens": forward(config, 1152).flops / TERA,
        "training step": training_flops(config) / TERA,
    }


@pytest.mark.parametrize(
    ("stage", "tflop"),
    [
        ("vision encoder", 5.32),
        ("resampler", 0.505),
        ("grouped TTM", 0.60),
        ("Phi-3, 32 + 128 tokens", 1.2),
        ("Phi-3, 1024 + 128 tokens", 8.8),
        ("training step", 12),
    ],
)
def test_the_4b_model_costs_what_its_documents_say(stage, tflop):
    assert of_4b()[stage] == pytest.approx(tflop, rel=0.01)


def test_stages_of_a_token_learner_are_small_change():
    assert vision_work(blip3_video_4b("token_learner"))["temporal_encoder"].flops < 0.001 * TERA


def test_the_vision_encoder_reads_its_weights_once():
    """0.83 GB of weights; pixels and features add 2%."""
    work = model_work(blip3_video_4b())["vision_encoder"]
    assert work.weights == 412_987_248
    assert work.bytes == pytest.approx(0.83e9, rel=0.025)


def test_a_batch_multiplies_flops_and_shares_weights():
    one, four = model_work(blip3_video_tiny()), model_work(blip3_video_tiny(), batch=4)
    assert tuple(four) == STAGES
    for stage in STAGES:
        assert four[stage].flops == 4 * one[stage].flops
        assert four[stage].weights == one[stage].weights
        assert one[stage].bytes <= four[stage].bytes <= 4 * one[stage].bytes


def test_values_of_four_bytes_are_twice_as_many_bytes():
    half, full = model_work(blip3_video_tiny()), model_work(blip3_video_tiny(), value_bytes=4)
    assert all(full[stage].bytes == 2 * half[stage].bytes for stage in STAGES)


def test_what_reads_patches_has_no_resampler():
    assert vision_work(blip3_video_tiny("tarsier", None))["resampler"].flops == 0


@pytest.mark.parametrize(("preset", "tolerance"), [(blip3_video_4b, 1e-3), (blip3_video_tiny, 0.02)])
def test_a_training_step_is_counted_as_pytorch_counts_it(preset, tolerance, counted):
    """Hidden pairs of attention are taken out; biases of norms go through the resampler's key/value matrices
    once a step, which weighs something at the small size only.
    """
    config = preset("transformer")
    text_tokens, tokens = 20, 20 + config.video_tokens
    for part in (config, config.text_config, config.vision_config):
        part._attn_implementation = "eager"
    side = config.vision_config.image_size
    with torch.device("meta"):
        model = Blip3VideoForConditionalGeneration(config)
        model.vision_encoder.requires_grad_(False)
        pixels = torch.randn(1, config.num_frames, 3, side, side)
        text = torch.randn(1, text_tokens, config.text_config.hidden_size)
        mask = torch.zeros(1, 1, tokens, tokens)

    def step() -> None:
        embeds = torch.cat([model.encode_video(pixels), text], dim=1)
        hidden = model.lang_model(embeds, attention_mask=mask, use_cache=False).last_hidden_state
        model.lang_model.logits(hidden).sum().backward()

    flops, _ = counted(step)
    hidden_pairs = tokens * tokens - tokens * (tokens + 1) // 2
    dim, layers = config.text_config.hidden_size, config.text_config.num_hidden_layers
    flops -= 3 * 4 * hidden_pairs * dim * layers
    assert training_flops(config, text_tokens=text_tokens) == pytest.approx(flops, rel=tolerance)


def test_logits_of_answers_alone_are_cheaper():
    config = blip3_video_4b()
    saved = training_flops(config) - training_flops(config, logits=28)
    head = (config.text_config.vocab_size + 3) * config.text_config.hidden_size
    assert saved == 3 * 2 * head * (160 - 28)


def test_mfu_of_the_published_speed():
    """8.2 samples/s per H100 are about 10% of 989.4 TFLOP/s."""
    assert mfu(8.2, training_flops(blip3_video_4b()), 989.4e12) == pytest.approx(0.1, rel=0.01)
    assert mfu(1, 2, 8) == 0.25
    with pytest.raises(ValueError, match="peak must be positive"):
        mfu(1, 1, 0)


def test_vision_stages_come_first():
    assert tuple(vision_work(blip3_video_tiny())) == VISION_STAGES
