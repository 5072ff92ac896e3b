"""Recipes: what a training stage does, as data. The command line offers every field as an option."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from blip3v.errors import UserError


def setting(default: Any, help: str, affects_result: bool = True) -> Any:
    """A field with its help text; one that does not affect the result may change on resume."""
    return field(default=default, metadata={"help": help, "affects_result": affects_result})


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a stage's result, beside its data and the model it starts from.

    Source: arXiv 2410.16267, training section. What the paper does not say is marked "not in the paper" and
    set to common practice.

    Raises:
        UserError: a value that cannot work.
    """

    name: str
    num_frames: int = setting(8, "frames per video")
    video_tokens: int = setting(32, "tokens that one video becomes; the model must make this many")
    # What counts for the result is their product with the number of devices, which a resumed run must keep.
    batch_size: int = setting(16, "samples per batch and device", False)
    accumulation: int = setting(1, "batches whose gradients make one step", False)
    learning_rate: float = setting(2e-5, "highest learning rate, at the end of the warm-up")
    warmup_steps: int = setting(500, "steps of linear warm-up before the cosine")
    # Not in the paper: decay between 0 and 0.1, default betas, clip 1.
    weight_decay: float = setting(0.0, "decay of matrices; norms, biases, embeddings, latents have none")
    betas: tuple[float, float] = setting((0.9, 0.999), "averaging of AdamW's two moments")
    epsilon: float = setting(1e-8, "AdamW's denominator floor")
    clip_norm: float = setting(1.0, "largest norm of the gradient; a larger one is scaled down to it")
    epochs: int = setting(1, "passes over the data")
    max_steps: int | None = setting(None, "stop after this many steps instead of counting epochs")
    max_length: int = setting(2000, "tokens of a conversation at most, video included")
    frozen: tuple[str, ...] = setting(("vision_encoder",), "submodules of the model that are not trained")
    # Not in the paper: bf16 over fp32 parameters, everything from here on.
    bf16: bool = setting(True, "bf16 autocast on a GPU; a CPU always computes in the model's own dtype")
    reduce_dtype: Literal["float32", "bfloat16"] = setting("float32", "dtype in which FSDP sums gradients")
    activation_checkpointing: Literal["none", "selective", "full"] = setting(
        "none",
        "recompute activations: selective keeps matrix products, full the inputs of blocks only",
        False,
    )
    parallel: Literal["auto", "single", "ddp", "fsdp", "hybrid"] = setting(
        "auto", "how processes share a step; auto is fsdp under torchrun, single without", False
    )
    packed: bool = setting(
        True, "one row per batch without padding, logits only where there are labels", False
    )
    balanced: bool = setting(
        True, "share the samples of a step so that every device has as many tokens", False
    )
    compiled: bool = setting(False, "torch.compile of every repeated block", False)
    vision: Literal["eager", "compile", "graph"] = setting(
        "eager", "how the frozen vision encoder runs", False
    )
    vision_fp8: bool = setting(False, "FP8 matrix products in the frozen vision encoder (Hopper or newer)")
    seed: int = setting(42, "decides batches, frames and dropout")
    workers: int = setting(0, "processes that decode videos; 0 decodes in the training process", False)
    prefetch: int = setting(4, "batches that each worker decodes ahead", False)
    log_every: int = setting(10, "steps between lines of the log", False)
    checkpoint_every: int = setting(500, "steps between checkpoints; 0 writes only the last", False)
    keep_checkpoints: int = setting(2, "checkpoints kept", False)
    asynchronous_checkpoints: bool = setting(True, "write checkpoints while training goes on", False)

    def __post_init__(self) -> None:
        at_least = {
            "num_frames": 1, "video_tokens": 1, "batch_size": 1, "accumulation": 1, "warmup_steps": 0,
            "weight_decay": 0, "epochs": 1, "max_length": 2, "seed": 0, "workers": 0, "prefetch": 1,
            "log_every": 1, "checkpoint_every": 0, "keep_checkpoints": 1,
        }  # fmt: skip
        for name, least in at_least.items():
            if not getattr(self, name) >= least:
                raise self._refusal(name, f"use {least} or more")
        for name in ("learning_rate", "clip_norm", "epsilon"):
            if not getattr(self, name) > 0:
                raise self._refusal(name, "use a number above 0")
        if self.max_steps is not None and self.max_steps < 1:
            raise self._refusal("max_steps", "use 1 or more, or leave it out to count epochs")
        if (self.vision != "eager" or self.vision_fp8) and "vision_encoder" not in self.frozen:
            raise UserError(
                f"recipe {self.name}: vision {self.vision} and vision_fp8 need a frozen vision encoder; add "
                "vision_encoder to frozen, or use vision eager without vision_fp8"
            )
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise self._refusal("betas", "use two numbers from 0 to below 1")

    def _refusal(self, name: str, remedy: str) -> UserError:
        return UserError(f"recipe {self.name}: {name} cannot be {getattr(self, name)}; {remedy}")

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()
        }

    def differences(self, stored: dict[str, Any]) -> list[str]:
        """Fields that affect the result and differ from a stored `to_json`, as "name: stored -> here"."""
        here = self.to_json()
        return [
            f"{f.name}: {stored.get(f.name)} -> {here[f.name]}"
            for f in fields(self)
            if f.metadata.get("affects_result", True) and stored.get(f.name) != here[f.name]
        ]


def image_captions() -> Recipe:
    """Stage 1: still images with captions, each a video of one frame; the vision encoder stays frozen.

    The paper starts from BLIP-3 image weights (128 tokens per image) instead of running this stage; its
    learning rate is therefore not in the paper, and stage 2's is used.
    """
    return Recipe("image-captions", num_frames=1, video_tokens=128)


def video_captions() -> Recipe:
    """Stage 2: video captions, batch 16 per device, 2e-5, cosine, 500 warm-up steps, 1 epoch."""
    return Recipe("video-captions")


def instruction_tuning() -> Recipe:
    """Stage 3: questions about videos, batch 4 per device, 1e-5, cosine, 500 warm-up steps, 1 epoch."""
    return Recipe("instruction-tuning", batch_size=4, learning_rate=1e-5)


RECIPES: dict[str, Callable[[], Recipe]] = {
    "image-captions": image_captions,
    "video-captions": video_captions,
    "instruction-tuning": instruction_tuning,
}
"""The names that `blip3v train` knows."""


def recipe_named(name: str) -> Recipe:
    """The recipe that the command line calls `name`.

    Raises:
        UserError: no such recipe.
    """
    if name not in RECIPES:
        raise UserError(f"no recipe {name!r}: choose one of {', '.join(RECIPES)}")
    return RECIPES[name]()
