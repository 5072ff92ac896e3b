from __future__ import annotations

import pytest
import torch
from transformers import SiglipVisionModel

from blip3v.models.configuration import blip3_video_4b, blip3_video_tiny
from blip3v.models.cost.language import values_per_token
from blip3v.models.cost.memory import activation_bytes, inference_bytes, largest_batch, parameter_bytes
from blip3v.models.language import LanguageModel
from blip3v.models.modeling import Blip3VideoForConditionalGeneration
from blip3v.models.vision import VisionTokenizer, encode_frames


@pytest.mark.parametrize("config", [blip3_video_4b(), blip3_video_tiny("ttm", None)], ids=["4b", "tiny"])
def test_weights_are_those_of_the_model_without_what_nothing_runs(config):
    with torch.device("meta"):
        model = Blip3VideoForConditionalGeneration(config)
    unused = (".ttm_unit.read_layer.", "vision_encoder.head.")
    run = [p.numel() for name, p in model.named_parameters() if not any(part in name for part in unused)]
    assert parameter_bytes(config) == 2 * sum(run)
    assert parameter_bytes(config, 4) == 4 * sum(run)


def test_the_largest_batch_fits_and_the_next_does_not():
    config, memory = blip3_video_4b(), 80 * 10**9
    batch = largest_batch(config, 8, 128, memory, new_tokens=64)
    assert inference_bytes(config, 8, 128, 64, batch) <= memory
    assert inference_bytes(config, 8, 128, 64, batch + 1) > memory


def test_more_tokens_leave_room_for_fewer_videos():
    sizes = [
        largest_batch(blip3_video_4b(name, tokens), 8, 128, 80 * 10**9)
        for name, tokens in (("token_learner", 32), ("none", 1024), ("tarsier", 5832))
    ]
    assert sizes[0] > sizes[1] > sizes[2] > 0


def test_nothing_fits_where_the_weights_do_not():
    assert largest_batch(blip3_video_4b(), 8, 128, 10**9) == 0


def test_activations_grow_with_videos_and_frames():
    config = blip3_video_tiny()
    assert activation_bytes(config, 4, 16, batch=3) == 3 * activation_bytes(config, 4, 16)
    assert activation_bytes(config, 400, 16) > 50 * activation_bytes(config, 4, 16)


@pytest.mark.parametrize("frames", [1, 8])
def test_the_vision_encoder_holds_what_is_counted(frames, held):
    config = blip3_video_4b("token_learner", 32, frames=frames)
    with torch.device("meta"):
        encoder = SiglipVisionModel(config.vision_config)
        pixels = torch.randn(2, frames, 3, 384, 384)
    peak = held(lambda: encode_frames(encoder, pixels))
    assert activation_bytes(config, frames, 16, batch=2, value_bytes=4) == pytest.approx(peak, rel=0.01)


@pytest.mark.parametrize("hoist", [False, True])
def test_the_resampler_holds_no_more_than_is_counted(hoist, held, fake):
    """With all layers' keys and values at once it is what takes most of all stages."""
    config = blip3_video_4b("token_learner", 32, resampler_hoist_media=hoist)
    tokenizer = VisionTokenizer(config)
    features = torch.randn(2, 8, 729, 1152)
    peak = held(lambda: tokenizer(features)) + features.nbytes
    counted = activation_bytes(config, 8, 16, batch=2, value_bytes=4)
    assert peak <= counted * 1.1
    assert hoist == (peak > counted * 0.9)


@pytest.mark.parametrize(("name", "tokens"), [("llava_onevision", 1568), ("tarsier", 5832)])
def test_the_language_model_holds_what_is_counted_and_the_whole_prompt_s_cache(name, tokens, held):
    """Beside the patch features; with fewer tokens the vision encoder takes more than the language model."""
    config = blip3_video_4b(name, tokens)
    prompt = tokens + 128
    with torch.device("meta"):
        model = LanguageModel(config)
        embeds, mask = torch.randn(1, prompt, 3072), torch.zeros(1, 1, prompt, prompt)
    peak = held(lambda: model(embeds, attention_mask=mask, use_cache=True)) + embeds.nbytes
    cache = prompt * values_per_token(config)
    features = 8 * 729 * 1152
    counted = activation_bytes(config, 8, 128, value_bytes=4) + 4 * (cache - features)
    assert counted == pytest.approx(peak, rel=0.02)
