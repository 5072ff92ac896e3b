"""Small calls of token_learner with results in float64: what a faulty kernel must get wrong.

`Guarded` stands between compiled.py and the module: a launch may touch the tensors that it was given and no
others.
"""

from __future__ import annotations

from math import prod
from types import ModuleType
from typing import Any

import torch

from blip3v.ops.token_learner import Arguments, compiled
from blip3v.ops.token_learner.exact import exact
from blip3v.testing.cases.token_learner import PoolingCase
from blip3v.testing.compare import poisoned_memory
from tests.ops.problem import Problem, Results

EPS = 1e-5


class Guarded:
    """The module, but for launches that declare the memory of their tensors first."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module
        self._extents: list[tuple[int, int]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def Tensor(self, pointer: int, dtype: str, device: str, index: int, sizes: Any, strides: Any) -> Any:
        if prod(sizes):
            last = sum((size - 1) * stride for size, stride in zip(sizes, strides))
            width = {"bfloat16": 2, "float32": 4, "uint8": 1}[dtype]
            self._extents.append((pointer, (last + 1) * width))
        return self._module.Tensor(pointer, dtype, device, index, sizes, strides)

    def token_learner_forward(self, *call: Any) -> None:
        self._launch(self._module.token_learner_forward, call)

    def token_learner_backward(self, *call: Any) -> None:
        self._launch(self._module.token_learner_backward, call)

    def _launch(self, function: Any, call: tuple[Any, ...]) -> None:
        self._module.declare_buffers(self._extents)
        try:
            function(*call)
        finally:
            self._module.forget_buffers()
            self._extents = []


def problem(direction: str, case: PoolingCase, splits: int, pool_splits: int, seeds: int) -> Problem:
    """One call, cut into `splits` and `pool_splits`."""
    inputs = case.build(torch.bfloat16)
    # A bias whose mean shows.
    arguments = Arguments(*inputs[:8])._replace(norm1_bias=inputs.norm1_bias + 0.5)
    truth = exact(arguments, inputs.dout, EPS)
    # The backward kernels are given out as the forward ones would round it.
    out, lse = truth["out"].value.bfloat16(), truth["lse"].value.float()
    gradients = [f"d{name}" for name in Arguments._fields[:7]]

    def run(module: ModuleType) -> Results:
        compiled.SPLITS, compiled.POOL_SPLITS = splits, pool_splits
        with poisoned_memory():
            if direction == "forward":
                results = dict(zip(("out", "lse"), compiled.forward(Guarded(module), 0, *arguments, EPS)))
            else:
                made = compiled.backward(Guarded(module), 0, inputs.dout, *arguments, out, lse, EPS)
                results = dict(zip(gradients, made))
        return {name: (got, *truth[name]) for name, got in results.items()}

    return Problem(f"{direction} {case.name} {splits} {pool_splits}", run, seeds)


# The widths are one chunk of 64 channels, chunks of which the last is ragged, and more than a ring holds; the
# tokens one tile of 128 and less, and several.
SMALL = PoolingCase("small", tokens=70, made=9, width=64, hidden=16)
RAGGED = PoolingCase(
    "ragged", videos=2, tokens=67, made=5, width=136, hidden=72, keep="first_nothing", precise=True
)
LONG = PoolingCase("long", videos=2, tokens=330, made=20, width=72, hidden=40, layout="sliced")
# One block does several tiles of both videos: `inputs` for 64 channels and less is persistent.
NARROW = PoolingCase("narrow", videos=2, tokens=390, made=20, width=56, hidden=40, layout="sliced")
DEEP = PoolingCase("deep", tokens=66, made=6, width=584, hidden=136, keep="random")


def problems(direction: str) -> list[Problem]:
    """Of the forward kernels also one backward call: `logits` writes what the backward ones begin with."""
    if direction == "forward":
        return [
            problem("forward", SMALL, 1, 1, seeds=24),
            problem("forward", RAGGED, 1, 1, seeds=2),
            problem("forward", RAGGED, 2, 2, seeds=10),
            problem("forward", LONG, 2, 3, seeds=2),
            problem("forward", LONG, 1, 1, seeds=4),
            problem("forward", DEEP, 1, 1, seeds=10),
            problem("forward", DEEP, 8, 1, seeds=2),
            problem("backward", RAGGED, 2, 1, seeds=0),
        ]
    return [
        problem("backward", SMALL, 1, 1, seeds=20),
        problem("backward", RAGGED, 1, 1, seeds=4),
        problem("backward", LONG, 1, 1, seeds=4),
        problem("backward", NARROW, 1, 1, seeds=6),
        problem("backward", DEEP, 1, 1, seeds=6),
    ]
