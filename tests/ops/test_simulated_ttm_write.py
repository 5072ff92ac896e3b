"""The kernels of ttm_write on the CPU: every schedule, and no memory but their own.

test_ttm_write.py runs the backend `simulator` on the cases; here is what only a simulator can show.
"""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor

from blip3v.ops.ttm_write import Arguments, compiled
from blip3v.testing import simulator
from blip3v.testing.cases.ttm_write import WriteCase
from blip3v.testing.compare import poisoned_memory
from tests.ops.problems_ttm_read import Guarded
from tests.ops.problems_ttm_write import CASES, EPS

SCHEDULES = [("forward", 1), ("reverse", 1), *(("random", seed) for seed in range(1, 5))]


def launch(module: ModuleType, case: WriteCase, dtype: torch.dtype) -> list[Tensor]:
    """Forward and backward into memory that was NaN; a touch of memory that is not the call's is an error."""
    inputs = case.build(dtype)
    arguments, guarded = Arguments(*inputs[:12]), Guarded(module, "ttm_write")
    with poisoned_memory():
        results = compiled.forward(guarded, 0, *arguments, EPS)
        given = (inputs.dgroup, inputs.dnormed, *arguments, results[0], *results[2:], EPS)
        gradients = compiled.backward(guarded, 0, *given)
    return [tensor for tensor in (*results, *gradients) if tensor is not None]


@pytest.mark.parametrize(
    "case, dtype", [c[:2] for c in CASES], ids=lambda value: getattr(value, "name", str(value))
)
def test_every_schedule_gives_the_same_bits(
    simulator_module: ModuleType, case: WriteCase, dtype: torch.dtype
) -> None:
    expected = None
    for schedule, seed in SCHEDULES:
        with simulator.schedule(schedule, seed):  # type: ignore[arg-type]
            results = launch(simulator_module, case, dtype)
        expected = results if expected is None else expected
        assert all(torch.equal(got, wanted) for got, wanted in zip(results, expected)), (schedule, seed)
    assert expected is not None and not any(tensor.isnan().any() for tensor in expected)
