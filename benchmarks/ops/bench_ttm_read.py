"""ttm_read against its peers: `blip3v bench ops --op ttm_read`.

What a row says, and when it shows no time: benchmarks/rows.py. The peers are PyTorch's layers, eager and
compiled; under a CUDA graph (the graph columns) the gaps between launches are gone, which is the bar at one
video.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.rows import Bench
from benchmarks.subject import Subject
from blip3v.ops.ttm_read import Arguments, ttm_read
from blip3v.ops.ttm_read.exact import exact
from blip3v.testing.cases.ttm_read import CASES, ReadCase

OURS = ("cuda", "triton", "reference", "simulator")
COMPILED = {"compile default": "default", "compile max-autotune": "max-autotune-no-cudagraphs"}
OTHERS_ROUND = 16
"""PyTorch's layers round every intermediate, and on a CPU add up the gradients of the norm in bfloat16."""


def work(case: ReadCase, direction: str, element: int, parameter: int) -> tuple[float, float]:
    """(FLOP, bytes): forward every row in and twice out; backward three rows in and one out."""
    positions = case.videos * case.positions
    row = case.width * element
    statistics, vectors = 8 * (case.slots + 1) * positions, 2 * case.width * parameter
    group = positions * (case.slots + 1) * row
    forward = 8 * positions * (case.slots + 1) * case.width, 3 * group + statistics + vectors
    if direction == "forward":
        return forward
    backward = 12 * positions * (case.slots + 1) * case.width, 4 * group + statistics + 3 * vectors / 2
    return forward[0] + backward[0], forward[1] + backward[1]


class Read(Subject):
    """A case on a device: what the rows measure."""

    def __init__(self, case: ReadCase, dtype: torch.dtype, device: str) -> None:
        self.case = case
        self.tensors = case.build(dtype, device)
        memory, frame, self.stamp, weight, bias = self.tensors[:5]
        self.inputs, self.cotangents = (memory, frame, weight, bias), self.tensors[5:7]
        truth = exact(Arguments(*self.tensors[:5]), *self.cotangents)
        self.truth = {name: pair for name, pair in truth.items() if name not in ("mean", "rstd")}

    def peer(self, backend: str) -> Callable[..., tuple[Tensor, ...]]:
        def read(memory: Tensor, frame: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
            name = backend if backend in OURS else "reference"
            return ttm_read(memory, frame, self.stamp, weight, bias, backend=name)

        if backend in OURS:
            return read
        torch.compiler.reset()
        return torch.compile(read, fullgraph=True, dynamic=False, mode=COMPILED[backend])

    def roundings(self, backend: str) -> int:
        return OTHERS_ROUND if backend == "reference" or backend in COMPILED else 1

    def work(self, direction: str) -> tuple[float, float]:
        element, parameter = self.tensors.memory.element_size(), self.tensors.norm_weight.element_size()
        return work(self.case, direction, element, parameter)


BENCH = Bench(
    op="ttm_read",
    cases=CASES,
    presets={"4b": ("one_video", "sixteen_videos"), "small": ("demo", "model")},
    peers=(*OURS, *COMPILED),
    build=Read,
)
