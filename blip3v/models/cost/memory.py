"""How much device memory answering takes, and how many videos fit at once: an estimate from counts.

Weights, the key/value cache, and the activations of the stage that needs most: what its modules hold at once
when they run without autograd, one after the other. Left out: what kernels and the allocator take for
themselves, so a device that is exactly full does not fit in practice.
"""

from __future__ import annotations

from blip3v.models.configuration import Blip3VideoConfig
from blip3v.models.cost.language import embedding_weights, prefill, values_per_token
from blip3v.models.cost.totals import vision_work


def parameter_bytes(config: Blip3VideoConfig, value_bytes: int = 2) -> int:
    """Bytes of all weights that inference reads: every stage's once, and the embedding tables.

    What a checkpoint stores and no forward runs (SigLIP's pooling head, the TTM's `read_layer`) is left out.
    """
    weights = sum(work.weights for work in vision_work(config).values()) + prefill(config, 1).weights
    return (weights + embedding_weights(config)) * value_bytes


def activation_bytes(
    config: Blip3VideoConfig, frames: int, text_tokens: int, batch: int = 1, value_bytes: int = 2
) -> int:
    """The most that one stage holds beside weights and cache, without autograd."""
    return batch * value_bytes * max(_vision(config, frames), _language(config, frames, text_tokens))


def _vision(config: Blip3VideoConfig, frames: int) -> int:
    """Values per video: an MLP of the vision encoder, or the resampler with the media tokens' projection."""
    vision = config.vision_config
    dim, rows = vision.hidden_size, frames * config.patch_grid**2
    # The layer's input, the sum behind its attention, that sum normed and the encoder's input; and the
    # inner width before and after GELU.
    encoder = 4 * dim + 2 * vision.intermediate_size
    # Features, the same normed, keys and values of one layer or of all, and once more side by side with those
    # of the latents.
    layers = config.resampler_depth if config.resampler_hoist_media else 1
    resampler = 2 * dim + 2 * config.resampler_heads * config.resampler_dim_head * (layers + 1)
    return rows * max(encoder, resampler)


def _language(config: Blip3VideoConfig, frames: int, text_tokens: int) -> int:
    """Values per video: an MLP of the language model, while the patch features wait."""
    text = config.text_config
    tokens = config.video_tokens_for(frames) + text_tokens
    features = frames * config.patch_grid**2 * config.vision_config.hidden_size
    # Four of the width as above; gate and up together, the activated gate, and its product with up.
    return features + tokens * (4 * text.hidden_size + 4 * text.intermediate_size)


def inference_bytes(
    config: Blip3VideoConfig,
    frames: int,
    text_tokens: int,
    new_tokens: int = 0,
    batch: int = 1,
    value_bytes: int = 2,
) -> int:
    """Weights, keys and values of the whole prompt and answer, and activations, for `batch` videos.

    A sliding window does not help here: transformers keeps the window's part of a prompt as a view, and with
    it the memory of the whole.
    """
    tokens = config.video_tokens_for(frames) + text_tokens + new_tokens
    cache = batch * tokens * values_per_token(config) * value_bytes
    activations = activation_bytes(config, frames, text_tokens, batch, value_bytes)
    return parameter_bytes(config, value_bytes) + cache + activations


def largest_batch(
    config: Blip3VideoConfig,
    frames: int,
    text_tokens: int,
    memory_bytes: int,
    new_tokens: int = 0,
    value_bytes: int = 2,
) -> int:
    """Videos that fit in `memory_bytes` at once; 0 if not even the weights and one video do."""
    weights = parameter_bytes(config, value_bytes)
    per_video = inference_bytes(config, frames, text_tokens, new_tokens, 1, value_bytes) - weights
    return max(0, (memory_bytes - weights) // per_video)
