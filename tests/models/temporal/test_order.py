"""Can a temporal encoder learn which of two events came first? Synthetic tokens, seconds of training."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blip3v.models.temporal.pooling import TemporalPool
from blip3v.models.temporal.token_learner import TokenLearnerEncoder
from blip3v.models.temporal.token_turing_machine import GroupedTokenTuringMachine

DIM, POSITIONS, FRAMES = 32, 2, 8

ENCODERS = {
    "grouped_ttm": lambda: GroupedTokenTuringMachine(DIM, POSITIONS, 4, None, depth=1, heads=4, ff_mult=2),
    "token_learner": lambda: TokenLearnerEncoder(DIM, 8, time_stamp=True, gain=16.0),
}


def events(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """x [count,FRAMES,POSITIONS,DIM] with events A and B at two random frames; 1 where A came first."""
    nothing, event_a, event_b = torch.randn(3, DIM, generator=torch.Generator().manual_seed(0))
    x = nothing.expand(count, FRAMES, POSITIONS, DIM).clone()
    frames = torch.stack([torch.randperm(FRAMES, generator=generator)[:2] for _ in range(count)])
    rows = torch.arange(count)
    x[rows, frames[:, 0]], x[rows, frames[:, 1]] = event_a, event_b
    return x + 0.1 * torch.randn(x.shape, generator=generator), (frames[:, 0] < frames[:, 1]).long()


def accuracy_after_training(encoder: nn.Module, steps: int) -> float:
    """Held-out accuracy of a linear reader on the mean of the video tokens."""
    reader = nn.Sequential(nn.LayerNorm(DIM), nn.Linear(DIM, 2))
    parameters = [p for p in (*encoder.parameters(), *reader.parameters()) if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x, answer = events(32, generator)
        loss = F.cross_entropy(reader(encoder(x).mean(1)), answer)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x, answer = events(256, torch.Generator().manual_seed(2))
    with torch.no_grad():
        return (reader(encoder(x).mean(1)).argmax(-1) == answer).float().mean().item()


@pytest.mark.parametrize("name", ENCODERS)
def test_order_is_learnt(name):
    torch.manual_seed(0)
    assert accuracy_after_training(ENCODERS[name](), steps=150) > 0.95


def test_pooling_cannot_learn_it():
    """The control: if this passed, the data would leak the order in some other way."""
    torch.manual_seed(0)
    assert accuracy_after_training(TemporalPool("mean"), steps=150) < 0.65
