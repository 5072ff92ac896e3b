"""What a training step keeps of its forward for its backward, counted from a configuration alone.

Counted per stage in values: inputs of matrix products, of norms and of activations, queries, keys, values and
outputs of attention. Not counted: scores of attention (fused kernels keep none), statistics of norms, masks.
Three modes: `none` recomputes nothing, `selective` keeps what matrix products and attention made and computes
norms and activations again, `full` keeps the input of every block. Layers of a transformer follow the mode; a
TokenLearner keeps everything in all three.

The grouped TTM runs as modules, which follow the mode, or where a kernel is verified as one operator, which
does not (`ttm_keep` says what it keeps): the larger of the two is counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from blip3v.models.configuration import Blip3VideoConfig

Mode = Literal["none", "selective", "full"]


@dataclass(frozen=True)
class Kept:
    """values: in the dtype of the computation; precise: in float32 under autocast too, as for norms."""

    values: int = 0
    precise: int = 0

    def __add__(self, other: Kept) -> Kept:
        return Kept(self.values + other.values, self.precise + other.precise)

    def __mul__(self, times: int) -> Kept:
        return Kept(self.values * times, self.precise * times)

    def bytes(self, value_bytes: int) -> int:
        return self.values * value_bytes + self.precise * 4


def language_layer(config: Blip3VideoConfig, tokens: int, mode: Mode) -> Kept:
    """One layer of Phi-3 over `tokens` tokens: width D, inner width I, Q and K channels of all heads.

    none: input, normalised and scaled of both norms (6 D), qkv, rotated q and k, attention's output twice
    (4 Q + 3 K), gate and up, their product and SiLU (4 I).
    """
    text = config.text_config
    dim, inner = text.hidden_size, text.intermediate_size
    width = getattr(text, "head_dim", None) or dim // text.num_attention_heads
    q, k = text.num_attention_heads * width, text.num_key_value_heads * width
    if mode == "full":
        return Kept(0, dim) * tokens
    if mode == "selective":
        return Kept(q + 2 * k + q + dim + 2 * inner + dim, dim) * tokens
    return Kept(2 * dim + 4 * q + 3 * k + 4 * inner, 4 * dim) * tokens


def language(config: Blip3VideoConfig, tokens: int, mode: Mode) -> Kept:
    """All layers, and the last norm."""
    last = Kept(0, 2 * config.text_config.hidden_size) * tokens
    return language_layer(config, tokens, mode) * config.text_config.num_hidden_layers + last


def vision_encoder(config: Blip3VideoConfig, frames: int, mode: Mode) -> Kept:
    """SigLIP on `frames` frames, where it is trained."""
    vision = config.vision_config
    dim, inner, rows = vision.hidden_size, vision.intermediate_size, frames * config.patch_grid**2
    layer = {
        "none": Kept(7 * dim + 2 * inner, 2 * dim),
        "selective": Kept(6 * dim + inner, dim),
        "full": Kept(0, dim),
    }[mode]
    return layer * (rows * vision.num_hidden_layers) + Kept(0, 2 * dim) * rows


def resampler(config: Blip3VideoConfig, frames: int, mode: Mode) -> Kept:
    """The Perceiver-Resampler on each of `frames` frames."""
    return _perceiver(config, config.patch_grid**2, config.num_latents, mode) * frames


def projection(config: Blip3VideoConfig, frames: int) -> Kept:
    """The norm and the linear layer behind the temporal encoder, for one video."""
    dim = config.vision_config.hidden_size
    return Kept(dim, dim) * config.video_tokens_for(frames)


def temporal_encoder(config: Blip3VideoConfig, frames: int, mode: Mode) -> Kept:
    """The configuration's temporal encoder on one video of `frames` frames; 0 where nothing is learned."""
    if config.temporal_encoder == "joint_perceiver":
        return _perceiver(config, frames * config.patch_grid**2, config.video_tokens, mode)
    count = _COUNTS.get(config.temporal_encoder)
    return Kept() if count is None else count(config, frames, mode)


def _perceiver(config: Blip3VideoConfig, media: int, latents: int, mode: Mode) -> Kept:
    """`latents` tokens that read `media` features: keys and values of the media make most of it.

    The media tokens are frozen features: normalised, they are kept once for the gradient of their projection.
    """
    dim, depth = config.vision_config.hidden_size, config.resampler_depth
    inner, mult = config.resampler_heads * config.resampler_dim_head, config.resampler_ff_mult
    row = {
        "none": Kept(4 * inner + 2 * dim + 2 * mult * dim, 2 * dim),
        "selective": Kept(4 * inner + 3 * dim + mult * dim),
        "full": Kept(dim),
    }[mode]
    layer = Kept(2 * inner) * media + row * latents
    return Kept(dim) * media + layer * depth


def _layer(rows: int, dim: int, mult: int, mode: Mode, asking: int | None = None) -> Kept:
    """A layer of `models.blocks.transformer`, of whose rows `asking` ask (None: all)."""
    asking = rows if asking is None else asking
    if mode == "full":
        return Kept(dim) * rows
    if mode == "selective":
        return Kept(3 * dim) * rows + Kept(3 * dim + mult * dim) * asking
    return Kept(3 * dim, dim) * rows + Kept(3 * dim + 2 * mult * dim, dim) * asking


def _token_learner(tokens: int, dim: int, k: int) -> Kept:
    """TL(k): tokens, normalised twice, the hidden layer before and after GELU, weights."""
    return Kept(dim + 5 * k, 2 * dim) * tokens


def _transformer(config: Blip3VideoConfig, frames: int, mode: Mode) -> Kept:
    dim, mult, rows = config.vision_config.hidden_size, config.temporal_ff_mult, frames * config.num_latents
    lower = _layer(rows, dim, mult, mode) * (config.temporal_depth - 1)
    return lower + _layer(rows, dim, mult, mode, config.video_tokens_for(frames))


def _over_video(config: Blip3VideoConfig, frames: int, mode: Mode) -> Kept:
    return _token_learner(frames * config.num_latents, config.vision_config.hidden_size, config.video_tokens)


def _per_frame(config: Blip3VideoConfig, frames: int, mode: Mode) -> Kept:
    k = config.video_tokens // config.num_frames
    return _token_learner(frames * config.num_latents, config.vision_config.hidden_size, k)


def _ttm(config: Blip3VideoConfig, frames: int, mode: Mode) -> Kept:
    dim, mult, new = config.vision_config.hidden_size, config.temporal_ff_mult, config.num_latents
    memory = config.video_tokens if config.time_stamp else new
    read = max(1, new // 2)
    step = _token_learner(memory + new, dim, read) + _layer(read, dim, mult, mode) * 2
    step += _token_learner(memory + read, dim, memory)
    if not config.time_stamp:
        step += _token_learner(read, dim, config.video_tokens // config.num_frames)
    return step * frames


def _grouped_ttm(config: Blip3VideoConfig, frames: int, mode: Mode) -> Kept:
    dim, slots, positions = config.vision_config.hidden_size, config.memory_slots, config.num_latents
    rows = positions * (slots + 1)
    mult, depth = config.temporal_ff_mult, config.temporal_depth
    modules = _layer(rows, dim, mult, mode) * depth + _token_learner(positions * slots + rows, dim, slots)
    # The operator's group, and with `passes` qkv, attention's sum, and both sides of the feed-forward.
    passes = (5 + mult) * depth if config.ttm_keep == "passes" else 0
    operator = Kept((1 + passes) * dim) * rows
    step = max(modules, operator, key=lambda way: way.values)
    read_out = Kept()
    if config.ttm_output == "attention":
        read_out = _token_learner(positions * slots, dim, config.video_tokens)
    return step * frames + read_out


def _video_llama(config: Blip3VideoConfig, frames: int, mode: Mode) -> Kept:
    """Two Q-Former layers; the frames are frozen features, whose keys and values are kept."""
    dim, media = config.vision_config.hidden_size, frames * config.patch_grid**2
    rows = Kept(18 * dim, 3 * dim) * config.video_tokens
    return Kept(dim) * media + (Kept(2 * dim) * media + rows) * 2


def _patches(config: Blip3VideoConfig, frames: int, mode: Mode) -> Kept:
    """The frozen patches themselves, for the gradient of the layer that reads them."""
    return Kept(config.vision_config.hidden_size) * (frames * config.patch_grid**2)


_COUNTS: dict[str, Callable[[Blip3VideoConfig, int, Mode], Kept]] = {
    "transformer": _transformer,
    "token_learner": _over_video,
    "token_learner_per_frame": _per_frame,
    "ttm": _ttm,
    "grouped_ttm": _grouped_ttm,
    "video_llama": _video_llama,
    "kangaroo": _patches,
    "minigpt4_video": _patches,
}
"""Encoders with learned weights; `joint_perceiver` is the resampler over the whole video."""
