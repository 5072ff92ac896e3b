"""The Hopper kernels of token_learner on the CPU: every schedule, every split, no memory but their own.

test_token_learner.py runs the backend `simulator` on the cases; here is what only a simulator can show.
"""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor

from blip3v.ops.token_learner import Arguments, compiled
from blip3v.ops.token_learner.exact import exact
from blip3v.testing import simulator
from blip3v.testing.cases.token_learner import PoolingCase, PoolingInputs
from blip3v.testing.compare import compare, poisoned_memory
from tests.ops.problems_token_learner import DEEP, EPS, LONG, RAGGED, Guarded

SCHEDULES = [("forward", 1), ("reverse", 1), *(("random", seed) for seed in range(1, 5))]
GRADIENTS = tuple(f"d{name}" for name in Arguments._fields[:7])

HALF_WIDE = PoolingCase("half_wide", tokens=140, made=100, width=72, hidden=200)
WIDEST = PoolingCase("widest", tokens=70, made=256, width=64, hidden=512, keep="random")
CASES = (RAGGED, LONG, DEEP, HALF_WIDE, WIDEST)


def launch(
    module: ModuleType,
    inputs: PoolingInputs,
    monkeypatch: pytest.MonkeyPatch,
    splits: int = 0,
    pool_splits: int = 0,
) -> dict[str, Tensor]:
    """Forward and backward into memory that was NaN; a touch of memory that is not the call's is an error."""
    monkeypatch.setattr(compiled, "SPLITS", splits)
    monkeypatch.setattr(compiled, "POOL_SPLITS", pool_splits)
    arguments = Arguments(*inputs[:8])
    with poisoned_memory():
        out, lse = compiled.forward(Guarded(module), 0, *arguments, EPS)
        gradients = compiled.backward(Guarded(module), 0, inputs.dout, *arguments, out, lse, EPS)
    return {"out": out, "lse": lse, **dict(zip(GRADIENTS, gradients))}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_schedule_gives_the_same_bits(
    simulator_module: ModuleType, case: PoolingCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = case.build(torch.bfloat16)
    expected = None
    for schedule, seed in SCHEDULES:
        with simulator.schedule(schedule, seed):
            results = launch(simulator_module, inputs, monkeypatch)
        expected = results if expected is None else expected
        for name, tensor in results.items():
            assert torch.equal(tensor, expected[name]), (name, schedule, seed)
    assert expected is not None and not any(tensor.isnan().any() for tensor in expected.values())


@pytest.mark.parametrize("splits, pool_splits", [(1, 1), (1, 8), (2, 5), (4, 2), (8, 3)])
def test_any_number_of_splits_is_right(
    simulator_module: ModuleType, splits: int, pool_splits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = DEEP.build(torch.bfloat16)
    results = launch(simulator_module, inputs, monkeypatch, splits, pool_splits)
    truth = exact(Arguments(*inputs[:8]), inputs.dout, EPS)
    verdicts = [compare(name, tensor, *truth[name], roundings=2) for name, tensor in results.items()]
    assert all(verdict.ok for verdict in verdicts), "\n".join(map(str, verdicts))


def test_splits_are_more_than_the_simulated_gpu_has_room_for(
    simulator_module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With tiles to spare the launcher does not split; with 64 made, slices of 192 channels."""
    case = PoolingCase("many", videos=6, tokens=130, made=70, width=200, hidden=24)
    inputs = case.build(torch.bfloat16)
    results = launch(simulator_module, inputs, monkeypatch)
    truth = exact(Arguments(*inputs[:8]), inputs.dout, EPS)
    verdicts = [compare(name, tensor, *truth[name], roundings=2) for name, tensor in results.items()]
    assert all(verdict.ok for verdict in verdicts), "\n".join(map(str, verdicts))


def test_rows_with_a_large_mean_keep_their_digits(
    simulator_module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The statistics take no difference of large squares, and the mean cancels in the product with Wf."""
    case = PoolingCase("far", tokens=70, made=9, width=584, hidden=24, offset=40.0)
    inputs = case.build(torch.bfloat16)
    results = launch(simulator_module, inputs, monkeypatch)
    truth = exact(Arguments(*inputs[:8]), eps=EPS)
    for name in ("out", "lse"):
        verdict = compare(name, results[name], *truth[name], roundings=2)
        assert verdict.ok, verdict


@pytest.mark.parametrize(
    "splits, pool_splits, what",
    [(3, 1, "splits"), (16, 1, "splits"), (8, 1, "at most one per 64 of the 72 channels"), (1, 9, "pooling")],
)
def test_the_binding_refuses_what_the_kernels_cannot_do(
    simulator_module: ModuleType, splits: int, pool_splits: int, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RuntimeError, match=what):
        launch(simulator_module, LONG.build(torch.bfloat16), monkeypatch, splits, pool_splits)
