"""Frame tokens or patches -> video tokens: what each temporal encoder computes.

One function per encoder, with the names of `blip3v.models.token_count`. L tokens per frame come from the
resampler and train; encoders that replace it read P*P frozen patches per frame.
"""

from __future__ import annotations

from collections.abc import Callable

from blip3v.models.configuration import Blip3VideoConfig
from blip3v.models.cost.vision import perceiver
from blip3v.models.cost.work import Work, attention, feed_forward, linear, norms


def temporal_encoder(config: Blip3VideoConfig, frames: int, batch: int = 1) -> Work:
    """The configuration's temporal encoder on videos of `frames` frames."""
    return _COSTS[config.temporal_encoder](config, frames, batch)


def _dim(config: Blip3VideoConfig) -> int:
    return int(config.vision_config.hidden_size)


def _frame_tokens(config: Blip3VideoConfig, frames: int, batch: int) -> int:
    return batch * frames * config.num_latents


def _patches(config: Blip3VideoConfig, frames: int, batch: int) -> int:
    return batch * frames * config.patch_grid**2


def _video_tokens(config: Blip3VideoConfig, frames: int, batch: int) -> int:
    return batch * config.video_tokens_for(frames)


def _view(config: Blip3VideoConfig, frames: int, batch: int) -> Work:
    """All tokens as they lie in memory."""
    return Work()


def _pool(config: Blip3VideoConfig, frames: int, batch: int) -> Work:
    tokens = _frame_tokens(config, frames, batch) + _video_tokens(config, frames, batch)
    return Work().moving(tokens * _dim(config))


def _pool_patches(config: Blip3VideoConfig, frames: int, batch: int) -> Work:
    tokens = _patches(config, frames, batch) + _video_tokens(config, frames, batch)
    return Work().moving(tokens * _dim(config))


def _token_learner(sets: int, tokens: int, dim: int, k: int) -> Work:
    """TL(k) over `tokens` tokens of each of `sets` sets: two layers to logits, then the weighted sums."""
    rows = sets * tokens
    # The weighted sum is a product of two activations, as those of attention are.
    mixing = Work(2 * rows * k * dim, 4 * rows * k * dim)
    return norms(2, dim) + linear(rows, dim, 2 * k) + linear(rows, 2 * k, k) + mixing


def _layer(rows: int, pairs: int, dim: int, mult: int, asking: int | None = None) -> Work:
    """A layer of `models.blocks.transformer`; `asking` of its rows are computed (None: all)."""
    asking = rows if asking is None else asking
    qkv = linear(asking, dim, dim) + linear(rows, dim, dim) * 2
    return norms(2, dim) + qkv + attention(pairs, dim) + feed_forward(asking, dim, mult * dim)


def _transformer(config: Blip3VideoConfig, frames: int, batch: int) -> Work:
    dim, mult, n = _dim(config), config.temporal_ff_mult, frames * config.num_latents
    out = config.video_tokens_for(frames)
    lower = _layer(batch * n, batch * n * n, dim, mult) * (config.temporal_depth - 1)
    top = _layer(batch * n, batch * n * out, dim, mult, batch * out)
    return (lower + top).moving(batch * (n + out) * dim)


def _over_video(config: Blip3VideoConfig, frames: int, batch: int) -> Work:
    work = _token_learner(batch, frames * config.num_latents, _dim(config), config.video_tokens)
    return work + _pool(config, frames, batch)


def _per_frame(config: Blip3VideoConfig, frames: int, batch: int) -> Work:
    k = config.video_tokens // config.num_frames
    return _token_learner(batch * frames, config.num_latents, _dim(config), k) + _pool(config, frames, batch)


def _joint_perceiver(config: Blip3VideoConfig, frames: int, batch: int) -> Work:
    return perceiver(config, batch, frames * config.patch_grid**2, config.video_tokens)


def _ttm(config: Blip3VideoConfig, frames: int, batch: int) -> Work:
    """The vanilla machine: one memory, which every frame reads and writes anew."""
    dim, mult, new = _dim(config), config.temporal_ff_mult, config.num_latents
    memory = config.video_tokens if config.time_stamp else config.num_latents
    read = max(1, config.num_latents // 2)
    step = (
        _token_learner(batch, memory + new, dim, read)
        + _layer(batch * read, batch * read * read, dim, mult) * 2
        + _token_learner(batch, memory + read, dim, memory)
    )
    if not config.time_stamp:
        step += _token_learner(batch, read, dim, config.video_tokens // config.num_frames)
    return Work(weights=memory * dim) + step.repeated(frames) + _pool(config, frames, batch)


def _grouped_ttm(config: Blip3VideoConfig, frames: int, batch: int) -> Work:
    """The grouped machine: `memory_slots` slots for each position, which never meets another position."""
    dim, slots, positions = _dim(config), config.memory_slots, config.num_latents
    groups, group = batch * positions, slots + 1
    step = (
        _layer(groups * group, groups * group**2, dim, config.temporal_ff_mult) * config.temporal_depth
    ) + _token_learner(groups, slots + group, dim, slots)
    work = Work(weights=positions * slots * dim) + step.repeated(frames) + _pool(config, frames, batch)
    if config.ttm_output == "attention":
        work += _token_learner(batch, positions * slots, dim, config.video_tokens)
    return work


def _video_llama(config: Blip3VideoConfig, frames: int, batch: int) -> Work:
    """Two Q-Former layers, each with self- and cross-attention; the frames are frozen."""
    dim, queries, media = _dim(config), config.video_tokens, frames * config.patch_grid**2
    rows, biased = batch * queries, True
    own = linear(rows, dim, dim, biased) * 4 + attention(rows * queries, dim)
    cross = (
        linear(rows, dim, dim, biased) * 2
        + linear(batch * media, dim, 2 * dim, biased, frozen_input=True)
        + attention(rows * media, dim)
    )
    layer = own + cross + feed_forward(rows, dim, 4 * dim, biased) + norms(3, dim)
    learned = Work(weights=queries * dim) + norms(1, dim)
    return learned + layer * 2 + _pool_patches(config, frames, batch)


def _kangaroo(config: Blip3VideoConfig, frames: int, batch: int) -> Work:
    """A depthwise convolution over cells of 2 x 2 x 2 patches, then a linear layer."""
    dim, rows = _dim(config), _video_tokens(config, frames, batch)
    flops = 2 * rows * 8 * dim
    convolution = Work(flops, flops, (8 + 1) * dim)  # frozen patches: weights' gradient only
    return convolution + linear(rows, dim, dim, bias=True) + _pool_patches(config, frames, batch)


def _minigpt4_video(config: Blip3VideoConfig, frames: int, batch: int) -> Work:
    dim, rows = _dim(config), _video_tokens(config, frames, batch)
    merge = linear(rows, 4 * dim, dim, bias=True, frozen_input=True)
    return merge + _pool_patches(config, frames, batch)


_COSTS: dict[str, Callable[[Blip3VideoConfig, int, int], Work]] = {
    "none": _view,
    "sum_pool": _pool,
    "mean_pool": _pool,
    "max_pool": _pool,
    "transformer": _transformer,
    "token_learner": _over_video,
    "token_learner_per_frame": _per_frame,
    "space_time_max_pool": _pool,
    "joint_perceiver": _joint_perceiver,
    "ttm": _ttm,
    "grouped_ttm": _grouped_ttm,
    "video_chatgpt": _pool_patches,
    "pllava": _pool_patches,
    "video_llama": _video_llama,
    "kangaroo": _kangaroo,
    "minigpt4_video": _minigpt4_video,
    "llava_next_video": _pool_patches,
    "llava_onevision": _pool_patches,
    "tarsier": _view,
}
