"""The repeated blocks of a model: what is recomputed, compiled or sharded one by one."""

from __future__ import annotations

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from blip3v.models.blocks import TransformerLayer
from blip3v.models.resampler import ResamplerLayer


def transformer_layers(model: nn.Module) -> list[nn.Module]:
    """Layers of Phi-3 and SigLIP, in order: transformers gives all its repeated layers one base class."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def repeated_blocks(model: nn.Module) -> list[nn.Module]:
    """Those, and the layers of the resampler and of the temporal encoder.

    The vision encoder's are among them only where something of it is trained: frozen, it needs no backward
    pass, and how it runs is `blip3v.models.frozen_vision`'s matter. The fused recurrence of the grouped
    Token Turing Machine calls no layer, so nothing that is done to its layers acts on it.
    """
    kinds = (GradientCheckpointingLayer, ResamplerLayer, TransformerLayer)
    vision = getattr(model, "vision_encoder", None)
    frozen = set()
    if vision is not None and not any(p.requires_grad for p in vision.parameters()):
        frozen = set(vision.modules())
    return [m for m in model.modules() if isinstance(m, kinds) and m not in frozen]
