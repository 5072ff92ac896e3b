from __future__ import annotations

import json

import pytest
from huggingface_hub.errors import StrictDataclassFieldValidationError

from blip3v.models.configuration import Blip3VideoConfig, blip3_video_4b, blip3_video_tiny
from blip3v.models.token_count import TEMPORAL_ENCODER_NAMES, video_token_count


def test_the_published_dimensions():
    config = blip3_video_4b()
    vision, text = config.vision_config, config.text_config
    assert (config.temporal_encoder, config.video_tokens, config.num_frames) == ("grouped_ttm", 32, 8)
    assert (config.num_latents, config.resampler_depth, config.resampler_heads) == (128, 6, 16)
    assert (config.resampler_dim_head, config.resampler_ff_mult) == (96, 4)
    assert (config.temporal_depth, config.temporal_heads, config.memory_slots) == (4, 8, 4)
    assert (config.base_vocab_size, config.additional_vocab_size, config.image_token_id) == (32012, 3, 32012)
    assert (vision.hidden_size, vision.intermediate_size, vision.num_hidden_layers) == (1152, 4304, 27)
    assert (vision.num_attention_heads, vision.layer_norm_eps) == (16, 1e-6)
    assert vision.hidden_act == "gelu_pytorch_tanh"
    assert config.patch_grid == 27
    assert (text.hidden_size, text.intermediate_size, text.num_hidden_layers) == (3072, 8192, 32)
    assert (text.num_attention_heads, text.num_key_value_heads, text.vocab_size) == (32, 32, 32064)
    assert (text.max_position_embeddings, text.sliding_window, text.rms_norm_eps) == (4096, 2047, 1e-5)
    assert text.rope_parameters["rope_theta"] == 10000.0
    assert not text.tie_word_embeddings
    assert (text.eos_token_id, text.pad_token_id) == (32007, 32011)


def test_the_default_configuration_is_the_published_one():
    assert Blip3VideoConfig().to_dict() == blip3_video_4b().to_dict()


@pytest.mark.parametrize(("tokens", "output"), [(32, "attention"), (128, "mean"), (256, "attention")])
def test_readout_of_the_grouped_machine_follows_the_released_models(tokens, output):
    config = blip3_video_4b(tokens=tokens)
    assert (config.ttm_output, config.time_stamp) == (output, True)


@pytest.mark.parametrize("make", [blip3_video_4b, blip3_video_tiny])
@pytest.mark.parametrize("name", TEMPORAL_ENCODER_NAMES)
def test_every_encoder_survives_a_file(tmp_path, make, name):
    config = make(name, tokens=None)
    config.save_pretrained(tmp_path)
    loaded = Blip3VideoConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    assert loaded.video_token_spec() == config.video_token_spec()
    assert type(loaded.vision_config) is type(config.vision_config)
    assert type(loaded.text_config) is type(config.text_config)


def test_the_token_spec_is_plain_values_and_enough_to_count():
    config = blip3_video_tiny("pllava", None)
    spec = json.loads(json.dumps(config.video_token_spec()))
    for frames in (1, 3, 8):
        assert video_token_count(spec, frames) == config.video_tokens_for(frames)


@pytest.mark.parametrize("make", [blip3_video_4b, blip3_video_tiny])
def test_an_unknown_encoder_is_named(make):
    with pytest.raises(ValueError, match="no temporal encoder named 'lstm'; choose one of none, "):
        make("lstm")
    with pytest.raises(ValueError, match="no temporal encoder named 'lstm'; choose one of none, "):
        Blip3VideoConfig(temporal_encoder="lstm")


def test_an_impossible_count_is_refused_on_construction():
    with pytest.raises(ValueError, match=r"mean_pool makes 128 tokens .* set video_tokens=128"):
        blip3_video_4b("mean_pool", 32)
    with pytest.raises(ValueError, match="mean_pool makes 128 tokens"):
        Blip3VideoConfig(temporal_encoder="mean_pool")


@pytest.mark.parametrize(
    ("field", "value"),
    [("ttm_output", "sum"), ("num_frames", "8"), ("temporal_depth", 1.5), ("time_stamp", 1)],
)
def test_a_value_of_the_wrong_kind_is_refused(field, value):
    with pytest.raises(StrictDataclassFieldValidationError, match=f"'{field}' expected"):
        Blip3VideoConfig(**{field: value})


def test_overrides_win_over_the_preset():
    config = blip3_video_tiny(memory_slots=2, temporal_depth=1, time_stamp=False)
    assert (config.memory_slots, config.temporal_depth, config.time_stamp) == (2, 1, False)


def test_presets_do_not_share_their_parts():
    first, second = blip3_video_tiny(), blip3_video_tiny()
    first.text_config.vocab_size = 1
    assert second.text_config.vocab_size == 64
