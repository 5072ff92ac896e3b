"""AdamW with decay where it belongs, the learning rate of a step, and frozen modules."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from blip3v.errors import UserError
from blip3v.train.recipe import Recipe


@contextmanager
def frozen(model: nn.Module, names: Sequence[str]) -> Iterator[None]:
    """Within: the submodules `names` need no gradient and are in evaluation mode (no dropout).

    Afterwards every parameter and module is as before, so one model can go through stages that freeze
    different parts. What was frozen already (the base model under LoRA) stays frozen.

    Raises:
        UserError: a name that is no submodule.
    """
    modules = []
    for name in names:
        try:
            modules.append(model.get_submodule(name))
        except AttributeError as error:
            children = ", ".join(child for child, _ in model.named_children())
            raise UserError(
                f"cannot freeze {name!r}: the model has no such part; it has {children}"
            ) from error
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    training = [m for module in modules for m in module.modules() if m.training]
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        for module in modules:
            module.eval()
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
        for module in training:
            module.training = True


def decays(name: str, parameter: nn.Parameter, owner: nn.Module) -> bool:
    """Whether weight decay acts: on matrices, not on norms, biases, embeddings, latents and memories.

    Latents, memories and queries are learned inputs, recognised by not being called `weight`.
    """
    return parameter.ndim >= 2 and name.endswith("weight") and not isinstance(owner, nn.Embedding)


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that need a gradient, by name; tied ones once."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def build_adamw(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW over the trainable parameters, in two groups: with weight decay, and without.

    Raises:
        UserError: nothing left to train.
    """
    groups: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
    for name, parameter in trainable_parameters(model).items():
        owner, _, leaf = name.rpartition(".")
        groups[0 if decays(leaf, parameter, model.get_submodule(owner)) else 1].append(parameter)
    if not any(groups):
        raise UserError(
            f"recipe {recipe.name} freezes every parameter; leave something to train out of `frozen`"
        )
    # The fused step is one pass over each parameter; it exists for CPU and CUDA tensors.
    fused = all(parameter.device.type in ("cpu", "cuda") for group in groups for parameter in group)
    return torch.optim.AdamW(
        [
            {"params": group, "weight_decay": decay}
            for group, decay in zip(groups, (recipe.weight_decay, 0.0), strict=True)
            if group
        ],
        lr=recipe.learning_rate,
        betas=recipe.betas,
        eps=recipe.epsilon,
        fused=fused,
    )


def learning_rate(step: int, total_steps: int, recipe: Recipe) -> float:
    """Learning rate of step 0 ... total_steps - 1: linear warm-up, then half a cosine towards 0.

    With w = warm-up steps: peak * (step + 1) / w below w, then
    peak * (1 + cos(pi * (step - w) / (total - w))) / 2.
    A run shorter than its warm-up only warms up.
    """
    warmup = recipe.warmup_steps
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, total_steps - warmup)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
