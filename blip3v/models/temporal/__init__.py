"""Temporal encoders: frame tokens [B,T,S,dim] -> video tokens [B,M,dim].

`build_temporal_encoder` is the one table from a configuration's `temporal_encoder` to a module. Most
encoders read the resampler's frame tokens; those in `READS_PATCHES` read the vision encoder's patches and
replace the resampler.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from blip3v.models.configuration import Blip3VideoConfig
from blip3v.models.resampler import PerceiverResampler
from blip3v.models.temporal import compared_systems as compared
from blip3v.models.temporal.joint_perceiver import JointPerceiver
from blip3v.models.temporal.pooling import AllFrameTokens, SpaceTimeMaxPool, TemporalPool
from blip3v.models.temporal.token_learner import PerFrameTokenLearner, TokenLearnerEncoder
from blip3v.models.temporal.token_turing_machine import GroupedTokenTuringMachine, TokenTuringMachine
from blip3v.models.temporal.transformer import TransformerEncoder

READS_PATCHES = frozenset(
    {
        "joint_perceiver",
        "video_chatgpt",
        "pllava",
        "video_llama",
        "kangaroo",
        "minigpt4_video",
        "llava_next_video",
        "llava_onevision",
        "tarsier",
    }
)


def attention_of(config: Blip3VideoConfig) -> str:
    """`eager` where the configuration asks for it, else PyTorch's SDPA."""
    return "eager" if config._attn_implementation == "eager" else "sdpa"


def build_resampler(config: Blip3VideoConfig, num_latents: int) -> PerceiverResampler:
    """The configuration's resampler with `num_latents` latents."""
    return PerceiverResampler(
        config.vision_config.hidden_size,
        config.resampler_depth,
        config.resampler_heads,
        config.resampler_dim_head,
        num_latents,
        config.resampler_ff_mult,
        attention_of(config),
        config.resampler_hoist_media,
    )


def _transformer(c: Blip3VideoConfig) -> nn.Module:
    layers = (c.temporal_depth, c.temporal_heads, c.temporal_ff_mult)
    return TransformerEncoder(_dim(c), c.video_tokens, *layers, c.time_stamp, attention_of(c))


def _ttm(c: Blip3VideoConfig) -> nn.Module:
    return TokenTuringMachine(
        _dim(c),
        memory_tokens=c.video_tokens if c.time_stamp else c.num_latents,
        read_tokens=max(1, c.num_latents // 2),
        tokens_per_step=None if c.time_stamp else c.video_tokens // c.num_frames,
        depth=2,
        heads=c.temporal_heads,
        ff_mult=c.temporal_ff_mult,
        time_stamp=c.time_stamp,
        gain=c.token_learner_gain,
        implementation=attention_of(c),
    )


def _grouped_ttm(c: Blip3VideoConfig) -> nn.Module:
    return GroupedTokenTuringMachine(
        _dim(c),
        positions=c.num_latents,
        slots=c.memory_slots,
        tokens=c.video_tokens if c.ttm_output == "attention" else None,
        depth=c.temporal_depth,
        heads=c.temporal_heads,
        ff_mult=c.temporal_ff_mult,
        time_stamp=c.time_stamp,
        gain=c.token_learner_gain,
        implementation=attention_of(c),
        keep=c.ttm_keep,
    )


def _dim(c: Blip3VideoConfig) -> int:
    return c.vision_config.hidden_size


_BUILDERS: dict[str, Callable[[Blip3VideoConfig], nn.Module]] = {
    "none": lambda c: AllFrameTokens(),
    "sum_pool": lambda c: TemporalPool("sum"),
    "mean_pool": lambda c: TemporalPool("mean"),
    "max_pool": lambda c: TemporalPool("max"),
    "transformer": _transformer,
    "token_learner": lambda c: TokenLearnerEncoder(
        _dim(c), c.video_tokens, c.time_stamp, c.token_learner_gain
    ),
    "token_learner_per_frame": lambda c: PerFrameTokenLearner(
        _dim(c), c.video_tokens // c.num_frames, c.time_stamp, c.token_learner_gain
    ),
    "space_time_max_pool": lambda c: SpaceTimeMaxPool(c.num_frames, c.video_tokens // c.num_frames),
    "joint_perceiver": lambda c: JointPerceiver(build_resampler(c, c.video_tokens), c.time_stamp),
    "ttm": _ttm,
    "grouped_ttm": _grouped_ttm,
    "video_chatgpt": lambda c: compared.VideoChatGPT(),
    "pllava": lambda c: compared.PLLaVA(),
    "video_llama": lambda c: compared.VideoLLaMA(_dim(c), c.video_tokens),
    "kangaroo": lambda c: compared.Kangaroo(_dim(c)),
    "minigpt4_video": lambda c: compared.MiniGPT4Video(_dim(c)),
    "llava_next_video": lambda c: compared.LLaVANeXTVideo(),
    "llava_onevision": lambda c: compared.LLaVAOneVision(),
    "tarsier": lambda c: compared.Tarsier(),
}


def build_temporal_encoder(config: Blip3VideoConfig) -> nn.Module:
    """The module named by `config.temporal_encoder`, with fresh weights."""
    return _BUILDERS[config.temporal_encoder](config)
