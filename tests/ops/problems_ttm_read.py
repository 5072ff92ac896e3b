"""Small calls of ttm_read's kernels with known results, for the probe that judges seeded faults."""

from __future__ import annotations

from math import prod
from types import ModuleType
from typing import Any

import torch

from blip3v.ops.ttm_read import Arguments, compiled
from blip3v.ops.ttm_read.exact import exact
from blip3v.testing.cases.ttm_read import ReadCase
from blip3v.testing.compare import poisoned_memory
from tests.ops.problem import Problem, Results

EPS = 0.1
"""Large, so that it shows."""

FORWARD = ("group", "normed", "mean", "rstd")
BACKWARD = ("dmemory", "dframe", "dnorm_weight", "dnorm_bias")

CASES = (
    # More positions than the simulator's twelve blocks, and several warps in each.
    (
        ReadCase("warps", videos=2, positions=7, width=264, memory="group", strided_frame=True),
        torch.float32,
        6,
    ),
    (ReadCase("third_turn", videos=3, positions=9, slots=1, width=136), torch.float32, 8),
    (
        ReadCase("bf16", videos=3, positions=2, width=136, memory="expanded", strided_frame=True),
        torch.bfloat16,
        4,
    ),
    (ReadCase("no_stamp", positions=2, slots=8, width=72, stamp=False), torch.float32, 2),
)


class Guarded:
    """The module, but for launches of one op that declare the memory of their tensors first."""

    def __init__(self, module: ModuleType, op: str) -> None:
        self._module, self._op = module, op
        self._extents: list[tuple[int, int]] = []

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._module, name)
        if name not in (f"{self._op}_forward", f"{self._op}_backward"):
            return value

        def launch(*call: Any) -> None:
            self._module.declare_buffers(self._extents)
            try:
                value(*call)
            finally:
                self._module.forget_buffers()
                self._extents = []

        return launch

    def Tensor(self, pointer: int, dtype: str, device: str, index: int, sizes: Any, strides: Any) -> Any:
        if prod(sizes):
            last = sum((size - 1) * stride for size, stride in zip(sizes, strides))
            self._extents.append((pointer, (last + 1) * {"bfloat16": 2, "float32": 4}[dtype]))
        return self._module.Tensor(pointer, dtype, device, index, sizes, strides)


def problems(direction: str) -> list[Problem]:
    """direction: `forward` or `backward`."""
    return [problem(direction, case, dtype, seeds) for case, dtype, seeds in CASES]


def problem(direction: str, case: ReadCase, dtype: torch.dtype, seeds: int) -> Problem:
    inputs = case.build(dtype)
    arguments = Arguments(*inputs[:5])
    truth = exact(arguments, inputs.dgroup, inputs.dnormed, EPS)
    # The backward is given what the forward would round.
    group = truth["group"].value.to(dtype)
    mean, rstd = (truth[name].value.float() for name in ("mean", "rstd"))

    def run(module: ModuleType) -> Results:
        guarded = Guarded(module, "ttm_read")
        with poisoned_memory():
            if direction == "forward":
                names, results = FORWARD, compiled.forward(guarded, 0, *arguments, EPS)
            else:
                given = (inputs.dgroup, inputs.dnormed, group, arguments.norm_weight, mean, rstd)
                names, results = BACKWARD, compiled.backward(guarded, 0, *given)
        return {name: (tensor, *truth[name]) for name, tensor in zip(names, results)}

    return Problem(case.name, run, seeds)
