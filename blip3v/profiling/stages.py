"""One stage of a model on random inputs: only the weights that it needs are made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from blip3v.errors import UserError
from blip3v.models.configuration import Blip3VideoConfig
from blip3v.profiling.presets import TEXT_TOKENS, preset_config
from blip3v.profiling.request import Request
from blip3v.profiling.workloads import dtype_of
from blip3v.ranges import stage_range


def config_of(request: Request) -> Blip3VideoConfig:
    """The preset with the request's encoder.

    Raises:
        UserError: an encoder that does not exist, or cannot make so many tokens.
    """
    try:
        return preset_config(request.preset, request.encoder, request.tokens, request.frames)
    except ValueError as error:
        raise UserError(str(error)) from error


def text_tokens_of(request: Request) -> int:
    return request.text_tokens or TEXT_TOKENS[request.preset]


def stage_call(request: Request, device: str) -> Callable[[], Any]:
    """-> a call of the stage.

    Raises:
        UserError: a stage or direction that this model does not have.
    """
    config, dtype = config_of(request), dtype_of(request, device)
    with torch.device(device):
        call, parameters = _STAGES[request.name](config, request, dtype)
    if request.direction == "forward":

        def forward() -> Any:
            with torch.no_grad():
                return call()

        return forward
    if request.name == "decode":
        raise UserError("a decode step has no backward pass; leave out --direction")

    def both() -> Any:
        with stage_range("forward"):
            out = call()
        with stage_range("backward"):
            return torch.autograd.grad(out, parameters, torch.ones_like(out), allow_unused=True)

    return both


Stage = tuple[Callable[[], Tensor], list[nn.Parameter]]


def _trainable(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def _vision(config: Blip3VideoConfig, request: Request, dtype: torch.dtype) -> Stage:
    """Pixels [batch,frames,3,H,W] -> features."""
    from transformers import SiglipVisionModel

    from blip3v.models.vision import encode_frames

    encoder = SiglipVisionModel(config.vision_config).to(dtype).eval()
    side = config.vision_config.image_size
    pixels = torch.randn(request.batch, request.frames, 3, side, side, dtype=dtype)
    return lambda: encode_frames(encoder, pixels), _trainable(encoder)


def _resampler(config: Blip3VideoConfig, request: Request, dtype: torch.dtype) -> Stage:
    """Features [batch,frames,patches,dim] -> frame tokens; the features need no gradient."""
    from blip3v.models.temporal import READS_PATCHES, build_resampler

    if config.temporal_encoder in READS_PATCHES:
        raise UserError(f"{config.temporal_encoder} reads patches: a model with it has no resampler")
    resampler = build_resampler(config, config.num_latents).to(dtype)
    features = _tokens(config, request, config.patch_grid**2, dtype)
    return lambda: resampler(features), _trainable(resampler)


def _temporal(config: Blip3VideoConfig, request: Request, dtype: torch.dtype) -> Stage:
    """Frame tokens, or patches where the encoder reads them -> video tokens."""
    from blip3v.models.temporal import READS_PATCHES, build_temporal_encoder

    encoder = build_temporal_encoder(config).to(dtype)
    per_frame = config.patch_grid**2 if config.temporal_encoder in READS_PATCHES else config.num_latents
    tokens = _tokens(config, request, per_frame, dtype).requires_grad_(request.direction != "forward")

    def call() -> Tensor:
        with stage_range("temporal encoder"):
            out: Tensor = encoder(tokens)
        return out

    # Pooling has no parameters; what comes in has a gradient then, as in training.
    return call, [*_trainable(encoder), tokens]  # type: ignore[list-item]


def _prefill(config: Blip3VideoConfig, request: Request, dtype: torch.dtype) -> Stage:
    """Video and text tokens -> keys, values and the logits of the next token."""
    model, embeds = _language(config, request, dtype)

    def call() -> Tensor:
        hidden = model(embeds, use_cache=True).last_hidden_state
        logits: Tensor = model.logits(hidden[:, -1:])
        return logits

    return call, _trainable(model)


def _decode(config: Blip3VideoConfig, request: Request, dtype: torch.dtype) -> Stage:
    """One token behind video and text; the cache is cut back, so every iteration is the same."""
    from transformers import DynamicCache

    model, embeds = _language(config, request, dtype)
    cache = DynamicCache(config=config.text_config)
    with torch.no_grad():
        model(embeds, use_cache=True, past_key_values=cache)
    token = embeds[:, -1:]

    def call() -> Tensor:
        hidden = model(token, use_cache=True, past_key_values=cache).last_hidden_state
        logits: Tensor = model.logits(hidden)
        cache.crop(-1)
        return logits

    return call, []


def _language(config: Blip3VideoConfig, request: Request, dtype: torch.dtype) -> tuple[Any, Tensor]:
    from blip3v.models.language import LanguageModel

    model = LanguageModel(config).to(dtype).eval()
    length = config.video_tokens_for(request.frames) + text_tokens_of(request)
    if length >= config.text_config.max_position_embeddings:
        raise UserError(
            f"{length} tokens are too many for this language model, which takes "
            f"{config.text_config.max_position_embeddings}; ask for fewer --tokens or --text-tokens"
        )
    return model, torch.randn(request.batch, length, config.text_config.hidden_size, dtype=dtype)


def _tokens(config: Blip3VideoConfig, request: Request, per_frame: int, dtype: torch.dtype) -> Tensor:
    dim = config.vision_config.hidden_size
    return torch.randn(request.batch, request.frames, per_frame, dim, dtype=dtype)


_STAGES: dict[str, Callable[[Blip3VideoConfig, Request, torch.dtype], Stage]] = {
    "vision": _vision,
    "resampler": _resampler,
    "temporal": _temporal,
    "prefill": _prefill,
    "decode": _decode,
}
