from __future__ import annotations

import pytest
import torch

from blip3v.models.configuration import blip3_video_4b, blip3_video_tiny
from blip3v.models.cost.language import (
    cache_bytes,
    cached_tokens,
    decode_step,
    embedding_weights,
    forward,
    prefill,
    values_per_token,
    visible_pairs,
)
from blip3v.models.language import LanguageModel

PRESETS = {"4b": blip3_video_4b, "tiny": blip3_video_tiny}
LENGTH = 40


def without_memory(config):
    config.text_config._attn_implementation = "eager"
    with torch.device("meta"):
        return LanguageModel(config), torch.randn(2, LENGTH, config.text_config.hidden_size)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("logits", [1, LENGTH])
def test_the_language_model_is_counted_as_pytorch_counts_it(preset, logits, counted):
    """But for the pairs that the causal mask hides: PyTorch's products compute them, nobody needs them.

    Within 0.1%, because transformers computes the angles of its rotary positions by a product.
    """
    config = PRESETS[preset]()
    model, embeds = without_memory(config)
    mask = torch.zeros(1, 1, LENGTH, LENGTH, device="meta")
    work = forward(config, LENGTH, batch=2, logits=logits)

    def run():
        hidden = model(embeds, attention_mask=mask, use_cache=False).last_hidden_state
        return model.logits(hidden[:, -logits:])

    flops, out = counted(run)
    text = config.text_config
    hidden_pairs = LENGTH * LENGTH - visible_pairs(LENGTH, text.sliding_window)
    hidden = 2 * hidden_pairs * 4 * text.hidden_size * text.num_hidden_layers
    assert work.flops == pytest.approx(flops - hidden, rel=1e-3)
    assert work.weights + embedding_weights(config) == sum(p.numel() for p in model.parameters())
    assert work.moved == embeds.numel() + out.numel()
    # The video tokens among the inputs come from modules that train.
    embeds.requires_grad_()
    _, out = counted(run)
    backward, _ = counted(lambda: out.sum().backward())
    assert work.backward_flops == pytest.approx(backward - 2 * hidden, rel=1e-3)


@pytest.mark.parametrize(("tokens", "window"), [(1, None), (7, None), (7, 3), (7, 7), (3, 7)])
def test_pairs_that_a_causal_window_shows(tokens, window):
    seen = sum(
        1 for query in range(tokens) for key in range(query + 1) if window is None or query - key < window
    )
    assert visible_pairs(tokens, window) == seen


@pytest.mark.parametrize("window", [None, 6])
@pytest.mark.parametrize("tokens", [3, 6, 11])
def test_the_cache_is_as_large_as_the_real_one(window, tokens):
    config = blip3_video_tiny()
    config.text_config.sliding_window = window
    model = LanguageModel(config).eval()
    with torch.inference_mode():
        cache = model(torch.randn(2, tokens, 32), use_cache=True).past_key_values
    kept = sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)
    assert cache_bytes(config, tokens, batch=2, value_bytes=4) == 4 * kept


def test_fewer_key_heads_need_fewer_weights_and_a_smaller_cache():
    config = blip3_video_tiny()
    config.text_config.num_key_value_heads = 1
    with torch.device("meta"):
        model = LanguageModel(config)
    assert forward(config, 5).weights + embedding_weights(config) == sum(
        p.numel() for p in model.parameters()
    )
    assert values_per_token(config) * 2 == values_per_token(blip3_video_tiny())


def test_one_step_is_the_difference_between_two_prompts():
    config = blip3_video_4b()
    step = decode_step(config, 160, batch=3)
    assert step.flops == prefill(config, 161, 3).flops - forward(config, 160, 3, logits=0).flops
    assert step.moved > 3 * 161 * values_per_token(config)


def test_beyond_the_window_a_step_costs_the_same():
    config = blip3_video_4b()
    window = config.text_config.sliding_window
    assert decode_step(config, window) == decode_step(config, 4000)
    assert cached_tokens(config, 5832) == window - 1
