"""The stages of the model as modules of one tensor each: what runs between two arrows of the data road."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel, SiglipVisionModel, StaticCache

from blip3v.errors import UserError
from blip3v.models.blocks import SelfAttention
from blip3v.models.configuration import Blip3VideoConfig
from blip3v.models.language import LanguageModel
from blip3v.models.resampler import PerceiverAttention
from blip3v.models.temporal import READS_PATCHES, build_resampler, build_temporal_encoder
from blip3v.models.token_count import TEMPORAL_ENCODER_NAMES
from blip3v.models.vision import encode_frames
from blip3v.profiling.presets import preset_config


@dataclass(frozen=True)
class Stage:
    """One stage.

    build: (config, text tokens) -> module. shape: (config, videos, text tokens) -> shape of its input.
    trains, trains_input: whether training needs the gradient of its weights, and of its input. The vision
    encoder is frozen; a training step through the language model is the level `train`.
    ops: those of blip3v.ops that run in it.
    """

    name: str
    build: Callable[[Blip3VideoConfig, int], nn.Module]
    shape: Callable[[Blip3VideoConfig, int, int], tuple[int, ...]]
    trains: bool = False
    trains_input: bool = False
    ops: tuple[str, ...] = ()

    def config(self, preset: str) -> Blip3VideoConfig:
        """The preset with this stage's temporal encoder."""
        if self.name not in TEMPORAL_ENCODER_NAMES:
            return preset_config(preset)
        # The vanilla machine of the einsum modules writes out latents / frames tokens a frame.
        return preset_config(preset, self.name, 128 if self.name == "ttm" else None)


class VisionEncoder(nn.Module):
    """pixels [B,T,3,H,W] -> patch features [B,T,S,dim]."""

    def __init__(self, config: Blip3VideoConfig) -> None:
        super().__init__()
        self.encoder = SiglipVisionModel(config.vision_config)

    def forward(self, pixels: Tensor) -> Tensor:
        return encode_frames(self.encoder, pixels)


class Prefill(nn.Module):
    """embeddings [B,L,dim] -> logits of the next token [B,vocab]; keys and values of all go into a cache."""

    def __init__(self, config: Blip3VideoConfig) -> None:
        super().__init__()
        self.language = LanguageModel(config)

    def forward(self, embeddings: Tensor) -> Tensor:
        hidden = self.language(embeddings, use_cache=True).last_hidden_state
        return self.language.logits(hidden[:, -1])


class DecodeStep(nn.Module):
    """embedding of one token [B,1,dim] -> logits of the next [B,vocab], behind `past` tokens in a cache.

    The cache is put back before each call, so that every call is the same step. Call `prepare` first.
    """

    def __init__(self, config: Blip3VideoConfig, past: int) -> None:
        super().__init__()
        self.language, self.past, self.static = LanguageModel(config), past, False
        self._cache: Any = None
        self._keys_values: list[tuple[Tensor, Tensor]] = []

    def prepare(self, like: Tensor, static: bool) -> None:
        """A cache of random numbers for inputs like this one, in place of an earlier one.

        static: preallocated, as compiled generation has it; otherwise it grows by concatenation, which is
        what transformers does unasked.
        """
        text = self.language.model.config
        size = (len(like), text.num_key_value_heads, self.past, text.hidden_size // text.num_attention_heads)
        generator = torch.Generator(like.device).manual_seed(0)

        def draw() -> Tensor:
            # Rounded to bfloat16 first, so that they are the same numbers in every dtype.
            return torch.randn(size, generator=generator, device=like.device).bfloat16().to(like.dtype)

        self.static = static
        self._keys_values = [(draw(), draw()) for _ in range(text.num_hidden_layers)]
        if static:
            self._cache = StaticCache(config=text, max_cache_len=self.past + 1)
            for index, (keys, values) in enumerate(self._keys_values):
                self._cache.update(keys, values, index)
        else:
            self._cache = DynamicCache(self._keys_values, config=text)

    def forward(self, embedding: Tensor) -> Tensor:
        for layer, (keys, values) in zip(self._cache.layers, self._keys_values):
            if self.static:
                layer.cumulative_length.fill_(self.past)
            else:
                layer.keys, layer.values, layer.cumulative_length = keys, values, self.past
        position = torch.full((1, 1), self.past, device=embedding.device)
        hidden = self.language(
            embedding, past_key_values=self._cache, position_ids=position, use_cache=True
        ).last_hidden_state
        return self.language.logits(hidden[:, -1])


def set_attention(module: nn.Module, implementation: str) -> None:
    """`eager`, `sdpa` or `flash_attention_2` in all that attends.

    Raises:
        ImportError: the package is not installed.
    """
    if implementation == "flash_attention_2":
        import flash_attn  # noqa: F401  transformers would look for a substitute on the network
    for part in module.modules():
        if isinstance(part, PreTrainedModel):
            part.set_attn_implementation(implementation)
        elif isinstance(part, (PerceiverAttention, SelfAttention)):
            part.implementation = "eager" if implementation == "eager" else "sdpa"


def _patches(config: Blip3VideoConfig, videos: int, text: int) -> tuple[int, ...]:
    return videos, config.num_frames, config.patch_grid**2, config.vision_config.hidden_size


def _frame_tokens(config: Blip3VideoConfig, videos: int, text: int) -> tuple[int, ...]:
    return videos, config.num_frames, config.num_latents, config.vision_config.hidden_size


def _pixels(config: Blip3VideoConfig, videos: int, text: int) -> tuple[int, ...]:
    side = config.vision_config.image_size
    return videos, config.num_frames, 3, side, side


def _sequence(config: Blip3VideoConfig, videos: int, text: int) -> tuple[int, ...]:
    return videos, config.video_tokens + text, config.text_config.hidden_size


def _one_token(config: Blip3VideoConfig, videos: int, text: int) -> tuple[int, ...]:
    return videos, 1, config.text_config.hidden_size


STAGES = {
    stage.name: stage
    for stage in (
        Stage("vit", lambda config, text: VisionEncoder(config), _pixels),
        Stage(
            "resampler",
            lambda config, text: build_resampler(config, config.num_latents),
            _patches,
            trains=True,
            ops=("resampler_attention",),
        ),
        Stage("prefill", lambda config, text: Prefill(config), _sequence),
        Stage(
            "decode_step",
            lambda config, text: DecodeStep(config, config.video_tokens + text),
            _one_token,
        ),
    )
}
DEFAULT = ("vit", "resampler", "grouped_ttm", "token_learner", "prefill", "decode_step")
NAMES = (*STAGES, *TEMPORAL_ENCODER_NAMES)

OPS_OF_ENCODERS = {
    "grouped_ttm": ("grouped_ttm", "token_learner"),
    "ttm": ("token_learner",),
    "token_learner": ("token_learner",),
    "token_learner_per_frame": ("token_learner",),
    "joint_perceiver": ("resampler_attention",),
}


def stage_named(name: str) -> Stage:
    """A stage, or a temporal encoder as a stage.

    Raises:
        UserError: there is none of this name.
    """
    if name in STAGES:
        return STAGES[name]
    if name not in TEMPORAL_ENCODER_NAMES:
        raise UserError(f"no stage {name!r}: choose one of {', '.join(NAMES)}")
    return Stage(
        name,
        lambda config, text: build_temporal_encoder(config),
        _patches if name in READS_PATCHES else _frame_tokens,
        trains=True,
        trains_input=name not in READS_PATCHES,
        ops=OPS_OF_ENCODERS.get(name, ()),
    )
