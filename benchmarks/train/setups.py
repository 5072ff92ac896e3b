"""The ways of training that are measured beside each other, as a table: name -> changes of the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.stages.stage_modules import set_attention
from blip3v.models.configuration import Blip3VideoConfig
from blip3v.models.modeling import Blip3VideoForConditionalGeneration
from blip3v.ops.registry import use_backend
from blip3v.train.recipe import Recipe


@dataclass(frozen=True)
class Setup:
    """changes: of the recipe. backend: of all operators; None lets each choose. attention: of all layers."""

    changes: Mapping[str, Any] = field(default_factory=dict)
    backend: str | None = None
    attention: str = "sdpa"

    def recipe(self, config: Blip3VideoConfig, device: torch.device, **fields: Any) -> Recipe:
        """The recipe of this setup; `fields` win over its changes. CUDA graphs become `compile` on a CPU."""
        changes = {**self.changes, **fields}
        if changes.get("vision") == "graph" and device.type != "cuda":
            changes["vision"] = "compile"
        return Recipe("benchmark", num_frames=config.num_frames, video_tokens=config.video_tokens, **changes)


FASTEST: Mapping[str, Any] = {"packed": True, "compiled": True, "vision": "graph", "vision_fp8": True}
BEST = "blip3v compiled fp8"

SETUPS: Mapping[str, Setup] = {
    "blip3v": Setup(),
    "blip3v compiled": Setup(FASTEST | {"vision_fp8": False}),
    BEST: Setup(FASTEST),
    f"{BEST} without packing": Setup(FASTEST | {"packed": False}),
    f"{BEST} without compiled blocks": Setup(FASTEST | {"compiled": False}),
    f"{BEST} without vision graph": Setup(FASTEST | {"vision": "eager"}),
    f"{BEST} with full recompute": Setup(FASTEST | {"activation_checkpointing": "full"}),
    "blip3v without packing": Setup({"packed": False}),
    "blip3v cuda": Setup(backend="cuda"),
    "blip3v triton": Setup(backend="triton"),
    "eager reference": Setup({"packed": False}, backend="reference", attention="eager"),
}
"""`blip3v` is the recipe as it comes: packed, nothing compiled. On a GPU the frozen vision encoder runs
outside the model in bfloat16 whatever the setup. The fastest without FP8 is `blip3v compiled`."""

BACKENDS = ("blip3v", "blip3v cuda", "blip3v triton", "eager reference")
"""Those that differ in operators and attention alone, so inference knows them too."""

SWITCHED_OFF = {
    "packing": f"{BEST} without packing",
    "compiled blocks": f"{BEST} without compiled blocks",
    "vision as a CUDA graph": f"{BEST} without vision graph",
    "vision in FP8": "blip3v compiled",
    "activations kept": f"{BEST} with full recompute",
}
"""Part of the fastest -> the setup that differs from it in this part alone."""


def default_setups(device: str) -> tuple[str, ...]:
    """All on a GPU; on a CPU the recipe as it comes, as compiling takes minutes there and FP8 is emulated."""
    return tuple(SETUPS) if torch.device(device).type == "cuda" else ("blip3v",)


def forced(model: Blip3VideoForConditionalGeneration, name: str) -> AbstractContextManager[None]:
    """The model made ready for a setup, or for `blip3v <backend>`; inside, backends are chosen."""
    setup = SETUPS.get(name) or Setup(backend=name.removeprefix("blip3v "))
    set_attention(model, setup.attention)
    return nullcontext() if setup.backend is None else use_backend(setup.backend)
