"""All processes run all trained parts in every pass, whatever their batches hold."""

from __future__ import annotations

import weakref
from typing import Any, cast

import torch
from torch import Tensor, nn

from blip3v.models.vision import encode_frames

KEYS = ("pixel_values_videos", "video_features")
_PREPARED: weakref.WeakSet[nn.Module] = weakref.WeakSet()


def run_every_part(model: nn.Module) -> None:
    """Let batches without a video run the vision side too, on one black video that counts for nothing.

    Processes exchange the gradients (and, sharded, the weights) of a part together. A process whose batch is
    text only would skip the vision side and leave the others waiting; with this its gradient there is zero
    instead of absent. One process does the same, so that a step without any video moves the weights, by their
    momentum and decay, as it does in several. A batch with videos costs nothing; without, the vision side of
    one video.

    Zero times its tokens is added to what the language model reads, where tokens of videos are otherwise: so
    the backward pass goes through every layer too, even where only the vision side is trained.

    Models without `vision_tokenizer` and `lang_model` are left alone. It ends with the model, and does
    nothing where no gradients are taken.
    """
    parts = (getattr(model, name, None) for name in ("vision_tokenizer", "lang_model"))
    if not all(isinstance(part, nn.Module) for part in parts) or model in _PREPARED:
        return
    nothing: list[Tensor] = []

    def before(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        nothing.clear()
        if torch.is_grad_enabled() and all(kwargs.get(key) is None for key in KEYS):
            nothing.append(_vision_side(module).sum() * 0)

    def read(module: nn.Module, args: Any) -> Any:
        return (args[0] + nothing.pop().to(args[0].dtype), *args[1:]) if nothing else None

    # The vision side runs first, as in a batch with videos: the order of exchanges must be the same.
    model.register_forward_pre_hook(before, with_kwargs=True)
    cast(nn.Module, model.lang_model).register_forward_pre_hook(read)
    _PREPARED.add(model)


def _vision_side(module: nn.Module) -> Tensor:
    """Video tokens [1,M,dim] of one black video, through the encoder if that is trained."""
    model = cast(Any, module)
    vision = model.config.vision_config
    weight = next(model.vision_tokenizer.parameters())
    if is_trained(model.vision_encoder):
        side = vision.image_size
        pixels = torch.zeros(
            (1, model.config.num_frames, 3, side, side), device=weight.device, dtype=model.dtype
        )
        features = encode_frames(model.vision_encoder, pixels)
    else:
        patches = model.config.patch_grid**2
        features = torch.zeros(
            (1, model.config.num_frames, patches, vision.hidden_size),
            device=weight.device,
            dtype=weight.dtype,
        )
    return model.vision_tokenizer(features)


def is_trained(module: nn.Module) -> bool:
    """Whether any of its parameters needs a gradient."""
    return any(parameter.requires_grad for parameter in module.parameters())
