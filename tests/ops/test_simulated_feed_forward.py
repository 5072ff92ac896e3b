"""The Hopper kernels of feed_forward on the CPU: every schedule, no memory but their own, every bf16 number.

test_feed_forward.py runs the backend `simulator` on the cases; here is what only a simulator can show.
"""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor

from blip3v.ops.feed_forward import reference
from blip3v.ops.tensor_description import describe
from blip3v.testing import simulator
from blip3v.testing.cases.feed_forward import CASES, FeedForwardCase

SCHEDULES = [("forward", 1), ("reverse", 1), *(("random", seed) for seed in range(1, 5))]


def empty(*shape: int) -> Tensor:
    return torch.full(shape, torch.nan, dtype=torch.bfloat16)


def launch(module: ModuleType, case: FeedForwardCase) -> dict[str, Tensor]:
    """All three kernels into memory that was NaN; a touch of memory that is not the call's is an error."""
    inputs = case.build(torch.bfloat16)
    z, residual, dout = (t.reshape(-1, case.width) for t in (inputs.z, inputs.residual, inputs.dout))
    wide, narrow = (case.rows, case.hidden), (case.rows, case.width)
    made = {
        "h": empty(*wide),
        "a": empty(*wide),
        "out": empty(*narrow),
        "dh": empty(*wide),
        "again": empty(*wide),
    }
    call(module.feed_forward_forward, z, inputs.w1, inputs.w2, residual, made["h"], made["a"], made["out"])
    call(module.feed_forward_backward, dout, inputs.w2, made["h"], made["dh"], made["again"])
    return made


def call(function, *tensors: Tensor) -> None:  # type: ignore[no-untyped-def]
    with simulator.only(*tensors):
        function(*(describe(simulator.load(), tensor) for tensor in tensors), 0)


@pytest.mark.parametrize("name", ["several_tiles", "many_rows", "ragged", "strided"])
def test_every_schedule_gives_the_same_bits(simulator_module: ModuleType, name: str) -> None:
    expected = None
    for schedule, seed in SCHEDULES:
        with simulator.schedule(schedule, seed):
            made = launch(simulator_module, CASES[name])
        expected = made if expected is None else expected
        for field, tensor in made.items():
            assert torch.equal(tensor, expected[field]), (field, schedule, seed)
    assert not any(tensor.isnan().any() for tensor in expected.values())
    assert torch.equal(expected["a"], expected["again"]), "the backward recomputes the a of the forward"


def test_rows_beyond_few_take_the_other_tiles_and_give_the_same_numbers(simulator_module: ModuleType) -> None:
    """The sum over the depth is taken in one order, whatever the tile: the same bits on both sides."""
    few = simulator_module.feed_forward_few_rows
    inputs = FeedForwardCase("boundary", (few + 1,), 72, 136).build(torch.bfloat16)
    results = []
    for rows in (few, few + 1):
        h, a, out = empty(rows, 136), empty(rows, 136), empty(rows, 72)
        call(
            simulator_module.feed_forward_forward,
            *(inputs.z[:rows], inputs.w1, inputs.w2, inputs.residual[:rows], h, a, out),
        )
        results.append((h[:few], a[:few], out[:few]))
    for one, other in zip(*results):
        assert torch.equal(one, other)


def test_gelu_and_its_derivative_of_every_bf16_number(simulator_module: ModuleType) -> None:
    """w1 and w2 are the identity: h is z, and dh is dout * gelu'(z)."""
    every = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.bfloat16)
    finite = every[every.isfinite() & (every.abs() < 1e30)]  # no squares that overflow
    z = finite[: finite.numel() // 64 * 64].view(-1, 64).contiguous()
    identity, one = torch.eye(64, dtype=torch.bfloat16), torch.ones_like(z)
    h, a, out, dh, again = (empty(*z.shape) for _ in range(5))
    call(simulator_module.feed_forward_forward, z, identity, identity, torch.zeros_like(z), h, a, out)
    call(simulator_module.feed_forward_backward, one, identity, z, dh, again)
    assert torch.equal(h, z) and torch.equal(out, a) and torch.equal(again, a)
    x = z.double()
    rounded = 2.0**-8 * 1.001
    # erfc, not 1 + erf, which has nothing left far below zero.
    gelu = x * torch.special.erfc(-x * 0.5**0.5) / 2
    assert ((a.double() - gelu).abs() <= rounded * gelu.abs() + 1.5e-7 * x.abs() + 1e-37).all()
    slope = reference.dgelu(x)
    assert ((dh.double() - slope).abs() <= rounded * slope.abs() + 2e-7 * (1 + x.abs().clamp(max=8))).all()
