"""Whether a setup trains right: the loss and the gradients of one real step against a precise computation.

The step is that of two videos with texts of different lengths, taken by the trainer itself, so packing,
compiled blocks, graphs and recomputation are all in it. The truth is the plain model on padded rows, in
float64, for the 4B model in float32 without autocast; benchmarks/precise.py says how far off one may be.

FP8 is no rounding that such bounds know. So a setup with it is judged in three parts: everything behind the
vision encoder against the truth *on the same features*; the features against precise ones by `FEATURES`; and
the loss with them against the loss with bfloat16 features by `LOSS`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from benchmarks.precise import Judge, parameters_in, relative
from benchmarks.presets import dtype_of
from benchmarks.rows import DTYPES
from benchmarks.train.setups import SETUPS, forced
from benchmarks.train.steps import trainer_of
from blip3v.models.frozen_vision import FrozenVision
from blip3v.models.modeling import Blip3VideoForConditionalGeneration
from blip3v.models.vision import encode_frames
from blip3v.profiling.presets import TEXT_TOKENS
from blip3v.profiling.synthetic import synthetic_batch
from blip3v.rounding import UNIT
from blip3v.testing.compare import Verdict
from blip3v.train.optimizer import frozen, trainable_parameters
from blip3v.train.recipe import Recipe

FROZEN = ("vision_encoder",)
SAMPLES = 2

FEATURES = 0.09
"""Relative error of FP8 features: the gate of tests/models/fp8/test_layer.py, on weights with outliers."""

LOSS = 0.02
"""Share of the loss by which FP8 features may change it. Between seeds a loss curve differs by more, see
tests/models/test_frozen_vision.py."""

PLAINEST = "eager reference"
PIXELS, GIVEN = "pixel_values_videos", "video_features"


def check(model: Blip3VideoForConditionalGeneration, preset: str, name: str) -> list[Verdict]:
    """Of a setup: the loss, all gradients as one, single gradients that are wrong; with FP8, its features.

    Raises: whatever keeps this setup from running.
    """
    setup, device, text = SETUPS[name], model.device, TEXT_TOKENS[preset]
    precise = torch.float32 if preset == "4b" else torch.float64
    batch = synthetic_batch(model.config, text, SAMPLES, setup.recipe(model.config, device).packed)
    plain_batch = synthetic_batch(model.config, text, SAMPLES)
    found = []
    with frozen(model, FROZEN):
        names = ["loss", *(f"gradient of {parameter}" for parameter in trainable_parameters(model))]
        got = gradients_of_a_step(model, name, batch)
        if setup.recipe(model.config, device).vision_fp8:
            found, features = judged_features(model, name, plain_batch, precise)
            plain_batch = {GIVEN: features, **plain_batch}
            del plain_batch[PIXELS]
        plain = gradients_of_a_step(model, PLAINEST, plain_batch)
        with parameters_in(model, precise):
            truth = gradients(model, _moved(plain_batch, device, precise))
    # The trainer keeps losses in float32, which may round the plainest form's by luck to the very truth.
    error = max(relative(plain[0], truth[0]), 2 * UNIT[torch.float32])
    plain[0] = truth[0] * (1 + error)
    return Judge(names, truth, plain, DTYPES[dtype_of(str(device))]).verdicts(got) + found


def gradients_of_a_step(
    model: Blip3VideoForConditionalGeneration, name: str, batch: dict[str, Any]
) -> list[Tensor]:
    """The loss, and the gradients of all that trains, of one step of the trainer without clipping."""
    recipe = SETUPS[name].recipe(
        model.config,
        model.device,
        batch_size=SAMPLES,
        max_steps=1,
        clip_norm=math.inf,
        checkpoint_every=0,
        log_every=1,
    )
    losses: list[Tensor] = []
    optimizers: list[KeptGradients] = []

    def build(model: torch.nn.Module, recipe: Recipe) -> KeptGradients:
        optimizers.append(KeptGradients(model))
        return optimizers[0]

    trainer = trainer_of(model, recipe, batch, lambda step, loss: losses.append(loss), build_optimizer=build)
    with forced(model, name):
        trainer.run()
    return [losses[0], *optimizers[0].kept]


class KeptGradients(torch.optim.Optimizer):
    """Takes no step; keeps the gradients, zeros where there is none, in the order of the parameters.

    The embedding of the added tokens gets none here: their places hold the videos.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__(list(trainable_parameters(model).values()), {"lr": 0.0})
        self.kept: list[Tensor] = []

    def step(self, closure: Any = None) -> None:
        parameters = [p for group in self.param_groups for p in group["params"]]
        self.kept = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]


def gradients(model: Blip3VideoForConditionalGeneration, batch: dict[str, Any]) -> list[Tensor]:
    """The same from the bare model in its own dtype, with neither trainer nor autocast."""
    parameters = list(trainable_parameters(model).values())
    with forced(model, "blip3v reference"):
        loss = model(**batch, use_cache=False).loss
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [
        loss.detach(),
        *(torch.zeros_like(p) if grad is None else grad for p, grad in zip(parameters, found)),
    ]


@torch.no_grad()
def judged_features(
    model: Blip3VideoForConditionalGeneration, name: str, batch: dict[str, Any], precise: torch.dtype
) -> tuple[list[Verdict], Tensor]:
    """The FP8 features of a setup [n,T,S,dim], how far off they are, and how far they move the loss."""
    device, encoder = model.device, model.vision_encoder
    recipe = SETUPS[name].recipe(model.config, device)
    pixels = batch[PIXELS].to(device)
    dtype = torch.bfloat16 if device.type == "cuda" else None
    rounded = FrozenVision(encoder, mode=recipe.vision, fp8=True, device=device, dtype=dtype)(pixels)
    usual = FrozenVision(encoder, device=device, dtype=torch.bfloat16)(pixels)
    with parameters_in(encoder, precise):
        exact = encode_frames(encoder, pixels.to(precise))
    rest = _moved({key: value for key, value in batch.items() if key != PIXELS}, device)
    own = next(model.vision_tokenizer.parameters()).dtype
    losses = []
    with forced(model, PLAINEST), torch.autocast(device.type, torch.bfloat16, device.type == "cuda"):
        for features in (rounded, usual):
            losses.append(model(**rest, video_features=features.to(own), use_cache=False).loss)
    bounds = {
        "FP8 features": (relative(rounded, exact), FEATURES),
        "loss with FP8 against bfloat16 features": (relative(*losses), LOSS),
    }
    return [Verdict(what, error, error / bound, 0.0) for what, (error, bound) in bounds.items()], rounded


def _moved(batch: dict[str, Any], device: torch.device, dtype: torch.dtype | None = None) -> dict[str, Any]:
    """On the device, and what is not whole numbers in `dtype`."""
    return {
        key: value.to(device, dtype if value.is_floating_point() else None)
        if isinstance(value, Tensor)
        else value
        for key, value in batch.items()
    }
