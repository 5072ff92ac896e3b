"""Pixels -> patch features -> frame tokens: what SigLIP and the Perceiver-Resampler compute."""

from __future__ import annotations

from blip3v.models.configuration import Blip3VideoConfig
from blip3v.models.cost.work import Work, attention, feed_forward, linear, norms


def vision_encoder(config: Blip3VideoConfig, frames: int, batch: int = 1) -> Work:
    """SigLIP on `frames` frames of each video, without the pooling head that nobody runs."""
    vision = config.vision_config
    dim, patches = vision.hidden_size, config.patch_grid**2
    images, pixels = batch * frames, vision.num_channels * vision.image_size**2
    rows = images * patches
    per_patch = vision.num_channels * vision.patch_size**2
    embedding = linear(rows, per_patch, dim, bias=True) + Work(weights=patches * dim)
    layer = (
        norms(2, dim)
        + linear(rows, dim, dim, bias=True) * 4
        + attention(rows * patches, dim)
        + feed_forward(rows, dim, vision.intermediate_size, bias=True)
    )
    all_layers = embedding + layer * vision.num_hidden_layers + norms(1, dim)
    return all_layers.moving(images * pixels + rows * dim)


def resampler(config: Blip3VideoConfig, frames: int, batch: int = 1) -> Work:
    """The Perceiver-Resampler on each frame by itself."""
    return perceiver(config, batch * frames, config.patch_grid**2, config.num_latents)


def perceiver(config: Blip3VideoConfig, sets: int, media: int, latents: int) -> Work:
    """`latents` learned tokens read each of `sets` sets of `media` frozen features, see `models.resampler`.

    Queries, and keys and values of the latents, are counted for each set in the first layer too, though they
    are the same there.
    """
    dim = config.vision_config.hidden_size
    inner = config.resampler_heads * config.resampler_dim_head
    rows, media_rows = sets * latents, sets * media
    # The media tokens and the latents share one key/value matrix, whose parameters count once.
    media_kv = linear(media_rows, dim, 2 * inner, frozen_input=True)
    latents_kv = linear(rows, dim, 2 * inner)
    shared = Work(weights=-2 * inner * dim)
    layer = (
        norms(3, dim)
        + linear(rows, dim, inner)
        + (media_kv + latents_kv + shared)
        + attention(rows * (media + latents), inner)
        + linear(rows, inner, dim)
        + feed_forward(rows, dim, config.resampler_ff_mult * dim)
    )
    learned = Work(weights=latents * dim)
    return (learned + layer * config.resampler_depth).moving(media_rows * dim + rows * dim)
