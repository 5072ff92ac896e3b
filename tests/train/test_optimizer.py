from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from blip3v.errors import UserError
from blip3v.train.optimizer import build_adamw, frozen, learning_rate, trainable_parameters
from blip3v.train.recipe import Recipe


def _names(model: nn.Module, parameters: list[nn.Parameter]) -> set[str]:
    wanted = {id(parameter) for parameter in parameters}
    return {name for name, parameter in model.named_parameters() if id(parameter) in wanted}


def test_decay_leaves_out_norms_biases_embeddings_latents_and_memory(new_model: Callable[..., Any]) -> None:
    model = new_model()
    decayed, rest = (
        group["params"] for group in build_adamw(model, Recipe("t", weight_decay=0.1)).param_groups
    )
    trainable = trainable_parameters(model)
    assert len(decayed) + len(rest) == len(trainable)
    rest_names = _names(model, rest)
    for part in ("latents", "initial_memory", "embed_tokens.weight", "position_embedding.weight"):
        assert any(name.endswith(part) for name in rest_names), part
    for name, parameter in trainable.items():
        if parameter.ndim < 2:
            assert name in rest_names
    matrices = [name for name, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    assert _names(model, decayed) == {f"{name}.weight" for name in matrices} & set(trainable)


def test_only_what_needs_a_gradient_is_optimised(new_model: Callable[..., Any]) -> None:
    model = new_model()
    everything = set(trainable_parameters(model))
    model.lang_model.requires_grad_(False)
    with frozen(model, ("vision_encoder",)):
        optimizer = build_adamw(model, Recipe("t"))
        names = _names(model, [p for group in optimizer.param_groups for p in group["params"]])
        assert names == {name for name in everything if name.startswith("vision_tokenizer.")}
        with frozen(model, ("vision_tokenizer",)), pytest.raises(UserError, match="freezes every parameter"):
            build_adamw(model, Recipe("t"))


def test_freezing_ends_as_it_began(new_model: Callable[..., Any]) -> None:
    model = new_model().train()
    model.vision_encoder.embeddings.requires_grad_(False)
    before = set(trainable_parameters(model))
    with frozen(model, ("vision_encoder",)):
        assert not any(name.startswith("vision_encoder") for name in trainable_parameters(model))
        assert not model.vision_encoder.training
        assert model.lang_model.training
    assert set(trainable_parameters(model)) == before
    assert all(module.training for module in model.modules())


def test_an_unknown_part_is_named_and_nothing_is_left_frozen(new_model: Callable[..., Any]) -> None:
    model = new_model()
    before = set(trainable_parameters(model))
    with pytest.raises(UserError, match=r"cannot freeze 'vit'.*vision_encoder"):
        frozen(model, ("lang_model", "vit")).__enter__()
    assert set(trainable_parameters(model)) == before


def test_adamw_steps_follow_the_formula() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(3, 2).double()
    recipe = Recipe("t", learning_rate=0.1, weight_decay=0.2, betas=(0.8, 0.9), epsilon=1e-3)
    optimizer = build_adamw(layer, recipe)
    expected = {name: parameter.detach().clone() for name, parameter in layer.named_parameters()}
    first = {name: torch.zeros_like(value) for name, value in expected.items()}
    second = {name: torch.zeros_like(value) for name, value in expected.items()}
    for step in range(1, 5):
        for name, parameter in layer.named_parameters():
            gradient = torch.randn(parameter.shape, dtype=torch.float64)
            parameter.grad = gradient
            expected[name] *= 1 - 0.1 * (0.2 if name == "weight" else 0.0)
            first[name] = 0.8 * first[name] + 0.2 * gradient
            second[name] = 0.9 * second[name] + 0.1 * gradient**2
            denominator = (second[name] / (1 - 0.9**step)).sqrt() + 1e-3
            expected[name] -= 0.1 * first[name] / (1 - 0.8**step) / denominator
        optimizer.step()
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected[name])


def test_the_learning_rate_warms_up_and_follows_the_cosine() -> None:
    recipe = Recipe("t", learning_rate=2.0, warmup_steps=4)
    rates = [learning_rate(step, 12, recipe) for step in range(12)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    assert rates[4:] == pytest.approx([1 + math.cos(math.pi * k / 8) for k in range(8)])
    assert rates == sorted(rates[:4]) + sorted(rates[4:], reverse=True)
    assert 0 < rates[-1] < 0.2
    assert learning_rate(0, 3, Recipe("t", warmup_steps=0, learning_rate=2.0)) == 2.0
    assert learning_rate(1, 2, recipe) == 1.0  # shorter than its warm-up
