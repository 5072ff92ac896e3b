"""A model with a tied weight and a parameter that never has a gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from blip3v.train.optimizer import build_adamw
from blip3v.train.recipe import Recipe


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5)
        self.head.weight = self.embedding.weight
        self.unused = nn.Linear(2, 2)
        self.register_buffer("scale", torch.rand(()))

    def forward(self) -> torch.Tensor:
        return self.head(self.embedding.weight).square().sum() * self.scale


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """One step; the weights after it."""
    optimizer.zero_grad()
    model().backward()
    optimizer.step()
    return {name: value.clone() for name, value in model.state_dict().items()}


Trained = tuple[Tied, torch.optim.Optimizer]


@pytest.fixture
def trained() -> Callable[..., Trained]:
    def build(seed: int = 0, steps: int = 3) -> Trained:
        torch.manual_seed(seed)
        model = Tied()
        optimizer = build_adamw(model, Recipe("t", learning_rate=0.1))
        for _ in range(steps):
            step(model, optimizer)
        return model, optimizer

    return build


@pytest.fixture(name="step")
def step_fixture() -> Callable[..., dict[str, torch.Tensor]]:
    return step
