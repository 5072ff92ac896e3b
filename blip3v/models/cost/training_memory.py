"""How much memory a training step takes on each device: an estimate by part, with the formula of each.

Weights, moments and gradients are exact. Activations are counted (see `kept`) and right within a quarter on
one device in float32, where a test measures them; under autocast and FSDP nobody has measured them on a GPU
yet. Left out: what kernels, the allocator and communication take for themselves; leave a tenth of the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from blip3v.models.configuration import Blip3VideoConfig
from blip3v.models.cost import kept
from blip3v.models.cost.kept import Kept, Mode
from blip3v.models.cost.memory import activation_bytes
from blip3v.models.modeling import Blip3VideoForConditionalGeneration
from blip3v.models.temporal import READS_PATCHES


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters: all, those trained, and of the trained those that are matrices.

    block: of one language layer. tokenizer: of the vision tokenizer. rest: trained, in neither a language
    layer nor the tokenizer (embeddings, head, norms). vision_trained: something of the vision encoder is.
    """

    total: int
    trained: int
    trained_matrices: int
    block: int
    tokenizer: int
    rest: int
    vision_trained: bool


@dataclass(frozen=True)
class Part:
    """bytes on one device, and how they come about."""

    name: str
    bytes: int
    formula: str


@dataclass(frozen=True)
class Load:
    """One micro-batch on one device.

    videos: of `frames` frames each. tokens: computed, over all samples. logits: places with a label.
    features_given: the vision encoder has run before.
    """

    videos: int
    frames: int
    tokens: int
    logits: int
    features_given: bool = False


@dataclass(frozen=True)
class Sharing:
    """How devices share a model.

    shards: devices that together hold one copy of what is trained (FSDP); 1 for everything else.
    autocast: bf16 computation over fp32 weights.
    waiting: gradients of earlier micro-batches wait whole on each device.
    reduce_bytes: of a gradient on its way.
    vision_copy: bytes of each weight of the frozen vision encoder in the copy that a graph, the compiler or
    FP8 works on; 0 for none.
    """

    shards: int = 1
    autocast: bool = True
    waiting: bool = False
    reduce_bytes: int = 4
    vision_copy: int = 0


def count_parameters(config: Blip3VideoConfig, frozen: Sequence[str]) -> Parameters:
    """Counted on a model without memory (meta device), with the submodules `frozen` not trained."""
    with torch.device("meta"):
        model = Blip3VideoForConditionalGeneration(config)
    for name in frozen:
        model.get_submodule(name).requires_grad_(False)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    layers = "lang_model.model.layers."
    parts = (layers, "vision_tokenizer.")
    return Parameters(
        total=sum(p.numel() for p in model.parameters()),
        trained=sum(p.numel() for p in trained.values()),
        trained_matrices=sum(p.numel() for p in trained.values() if p.ndim >= 2),
        block=sum(p.numel() for name, p in trained.items() if name.startswith(f"{layers}0.")),
        tokenizer=sum(p.numel() for name, p in trained.items() if name.startswith(parts[1])),
        rest=sum(p.numel() for name, p in trained.items() if not name.startswith(parts)),
        vision_trained=any(name.startswith("vision_encoder.") for name in trained),
    )


def training_memory(
    config: Blip3VideoConfig,
    parameters: Parameters,
    load: Load,
    mode: Mode = "none",
    sharing: Sharing = Sharing(),
) -> list[Part]:
    """Parts that are held at the same time at the moment that needs most: the end of the forward pass.

    Weights are float32, moments AdamW's two. Where the frozen vision encoder alone takes more than all
    activations behind it, its part stands in their place.
    """
    parts = _states(parameters, sharing)
    activations = _activations(config, load, mode, sharing.autocast, parameters.vision_trained)
    # No text is there yet when the vision encoder is at work.
    frozen_vision = load.videos * activation_bytes(config, load.frames, 0, 1, 2 if sharing.autocast else 4)
    if not load.features_given and frozen_vision > sum(part.bytes for part in activations):
        activations = [Part("vision encoder at work", frozen_vision, "its widest layer, without autograd")]
    return parts + activations


def _states(parameters: Parameters, sharing: Sharing) -> list[Part]:
    trained, frozen = parameters.trained, parameters.total - parameters.trained
    own = -(-trained // sharing.shards)
    by = f" / {sharing.shards} shards" if sharing.shards > 1 else ""
    parts = [
        Part("weights, trained", 4 * own, f"4 B * {trained:,}{by}"),
        Part("weights, frozen", 4 * frozen, f"4 B * {frozen:,}"),
        Part("moments of AdamW", 8 * own, f"2 * 4 B * {trained:,}{by}"),
        Part("gradients", 4 * own, f"4 B * {trained:,}{by}"),
    ]
    value_bytes = 2 if sharing.autocast else 4
    if sharing.vision_copy:
        size = sharing.vision_copy
        parts.append(Part("vision encoder, copy", size * frozen, f"{size} B * {frozen:,}"))
    if sharing.shards > 1:
        gathered = parameters.rest + parameters.tokenizer + 2 * parameters.block
        parts.append(
            Part(
                "gathered weights",
                value_bytes * gathered,
                f"{value_bytes} B * (rest + 2 blocks, {gathered:,})",
            )
        )
        if sharing.waiting:
            size = sharing.reduce_bytes
            parts.append(Part("waiting gradients", size * trained, f"{size} B * {trained:,}, not in shards"))
    elif sharing.autocast:
        matrices = parameters.trained_matrices
        parts.append(Part("bf16 copies of weights", 2 * matrices, f"2 B * {matrices:,}, made by autocast"))
    return parts


def _activations(
    config: Blip3VideoConfig, load: Load, mode: Mode, autocast: bool, vision_is_trained: bool
) -> list[Part]:
    value_bytes = 2 if autocast else 4
    videos, frames = load.videos, load.frames

    def part(name: str, amount: Kept, formula: str) -> Part:
        return Part(name, amount.bytes(value_bytes), f"{formula}, recomputed: {mode}")

    each = f"{videos} videos * {frames} frames"
    parts = [
        part(
            "activations, language model", kept.language(config, load.tokens, mode), f"{load.tokens:,} tokens"
        ),
        part(
            "activations, temporal encoder",
            (kept.temporal_encoder(config, frames, mode) + kept.projection(config, frames)) * videos,
            each,
        ),
    ]
    if config.temporal_encoder not in READS_PATCHES:
        parts.append(part("activations, resampler", kept.resampler(config, frames, mode) * videos, each))
    if vision_is_trained and not load.features_given:
        parts.append(
            part("activations, vision encoder", kept.vision_encoder(config, frames, mode) * videos, each)
        )
    columns = config.text_config.vocab_size + config.additional_vocab_size
    per_logit = value_bytes + 3 * 4 + (4 if autocast else 0)
    logits = Part(
        "logits and their gradient",
        load.logits * columns * per_logit,
        f"{per_logit} B * {load.logits:,} labels * {columns:,} columns",
    )
    again = kept.language_layer(config, load.tokens, "none").bytes(value_bytes) if mode != "none" else 0
    block = Part("one block, computed again", again, f"a language layer over {load.tokens:,} tokens")
    # Logits are gone before the first block is computed again.
    return [*parts, max(logits, block, key=lambda candidate: candidate.bytes)]
