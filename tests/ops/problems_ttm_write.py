"""Small calls of ttm_write's kernels with known results, for the probe that judges seeded faults."""

from __future__ import annotations

from types import ModuleType

import torch

from blip3v.ops.ttm_write import Arguments, compiled
from blip3v.ops.ttm_write.exact import exact
from blip3v.testing.cases.ttm_write import WriteCase
from blip3v.testing.compare import poisoned_memory
from tests.ops.problem import Problem, Results
from tests.ops.problems_ttm_read import Guarded

EPS = 0.1
"""Large, so that it shows."""

FORWARD = ("group", "normed", "mean", "rstd")
BACKWARD = tuple(f"d{name}" for name in Arguments._fields if name != "stamp")

CASES = (
    # More positions than the simulator has blocks (six forward, three backward), and several warps in each.
    (WriteCase("warps", videos=2, positions=4, width=264), torch.float32, 6),
    (WriteCase("bf16", videos=3, positions=1, width=136, memory="expanded"), torch.bfloat16, 2),
    (WriteCase("many_rows", positions=2, slots=2, processed=12, width=72, stamp=False), torch.float32, 2),
    (WriteCase("last_step", positions=4, slots=2, width=136, frame=False), torch.float32, 4),
)


def problems(direction: str) -> list[Problem]:
    """direction: `forward` or `backward`."""
    return [problem(direction, case, dtype, seeds) for case, dtype, seeds in CASES]


def problem(direction: str, case: WriteCase, dtype: torch.dtype, seeds: int) -> Problem:
    inputs = case.build(dtype)
    arguments = Arguments(*inputs[:12])
    truth = exact(arguments, inputs.dgroup, inputs.dnormed, EPS)
    # The backward is given what the forward would round.
    nothing = torch.empty(0)
    group = truth["group"].value.to(dtype)
    mean, rstd = (truth[name].value.float() if name in truth else nothing for name in ("mean", "rstd"))

    def run(module: ModuleType) -> Results:
        guarded = Guarded(module, "ttm_write")
        with poisoned_memory():
            if direction == "forward":
                names, results = FORWARD, compiled.forward(guarded, 0, *arguments, EPS)
            else:
                given = (inputs.dgroup, inputs.dnormed, *arguments, group, mean, rstd, EPS)
                names, results = BACKWARD, compiled.backward(guarded, 0, *given)
        return {name: (tensor, *truth[name]) for name, tensor in zip(names, results) if name in truth}

    return Problem(case.name, run, seeds)
