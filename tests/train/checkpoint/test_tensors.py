from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from blip3v.train.checkpoint.tensors import (
    generator_states,
    model_tensors,
    optimizer_tensors,
    plain_name,
    seed_generators,
    set_generator_states,
)

CPU = torch.device("cpu")


def test_generator_states_round_trip() -> None:
    states = generator_states(CPU)
    assert all(value.dtype == torch.uint8 for value in states.values())
    first = torch.rand(4)
    set_generator_states(states, CPU)
    assert torch.equal(torch.rand(4), first)


def test_every_seed_step_and_rank_draws_its_own_numbers() -> None:
    drawn = set()
    for entropy in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)):
        seed_generators(entropy)
        drawn.add(torch.rand(1).item())
    assert len(drawn) == 4


def test_names_are_those_of_the_plain_model(trained: Callable[..., Any]) -> None:
    model, optimizer = trained()
    tensors = model_tensors(model)
    assert set(tensors) == {
        f"model.{name}" for name in ("embedding.weight", "head.bias", "unused.weight", "unused.bias", "scale")
    }
    assert tensors["model.head.bias"].data_ptr() == model.head.bias.data_ptr()
    moments = optimizer_tensors(model, optimizer)
    assert set(moments) == {
        f"optimizer.{what}.{name}"
        for name in ("embedding.weight", "head.bias")
        for what in ("exp_avg", "exp_avg_sq", "step")
    }
    model.head = checkpoint_wrapper(model.head)
    assert set(model_tensors(model)) == set(tensors)
    assert set(optimizer_tensors(model, optimizer)) == set(moments)
    for name in ("_orig_mod.head.bias", "head._checkpoint_wrapped_module._orig_mod.bias"):
        assert plain_name(model, name) == "head.bias"
    assert plain_name(model, "module.bias") == "module.bias"  # only DDP's own `module` is a wrapper
