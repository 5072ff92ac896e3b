"""ttm_write against its peers: `blip3v bench ops --op ttm_write`.

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
from blip3v.ops.ttm_write import Arguments, ttm_write
from blip3v.ops.ttm_write.exact import exact
from blip3v.testing.cases.ttm_write import CASES, WriteCase

OURS = ("cuda", "triton", "reference", "simulator")
COMPILED = {"compile default": "default", "compile max-autotune": "max-autotune-no-cudagraphs"}
OTHERS_ROUND = 16
"""PyTorch's layers round every intermediate, and on a CPU add up the gradients of the norms in bfloat16."""


def work(case: WriteCase, direction: str, element: int, parameter: int) -> tuple[float, float]:
    """(FLOP, bytes) that nobody can do without.

    FLOP of the products with w1, w2 and the attention, twice as many backward. Bytes: memory, processed and
    frame read, group and normed written; backward the gradients of these read, the rows and the group read
    again, and the gradients of the former written; parameters once a pass.
    """
    positions, width, slots = case.videos * case.positions, case.width, case.slots
    hidden = 2 * slots if case.hidden is None else case.hidden
    rows, made = slots + case.rows, slots + int(case.frame)
    products = 2 * positions * rows * (hidden * width + hidden * slots + slots * width)
    row, norms = width * element, (4 + 2 * int(case.frame)) * width
    parameters = parameter * (norms + hidden * width + hidden * slots)
    read, written = positions * (rows + int(case.frame)) * row, positions * made * row
    written += positions * made * (row + 8) * int(case.frame)  # normed and the statistics
    forward = products, read + written + parameters
    if direction == "forward":
        return forward
    again = positions * rows * row + positions * made * row * int(case.frame)
    backward = 2 * products, written + again + read + 2 * parameters
    return forward[0] + backward[0], forward[1] + backward[1]


class Write(Subject):
    """A case on a device: what the rows measure."""

    def __init__(self, case: WriteCase, dtype: torch.dtype, device: str) -> None:
        self.case = case
        self.tensors = case.build(dtype, device)
        self.arguments = Arguments(*self.tensors[:12])
        given = self.arguments._asdict().items()
        self.names = [name for name, tensor in given if tensor is not None and name != "stamp"]
        self.inputs = [getattr(self.arguments, name) for name in self.names]
        self.cotangents = [tensor for tensor in self.tensors[12:] if tensor is not None]
        truth = exact(self.arguments, self.tensors.dgroup, self.tensors.dnormed)
        self.truth = {name: pair for name, pair in truth.items() if name not in ("mean", "rstd")}

    def peer(self, backend: str) -> Callable[..., Tensor | tuple[Tensor, ...]]:
        def write(*inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
            call = self.arguments._replace(**dict(zip(self.names, inputs)))
            return ttm_write(*call, backend=backend if backend in OURS else "reference")

        if backend in OURS:
            return write
        torch.compiler.reset()
        return torch.compile(write, fullgraph=True, dynamic=False, mode=COMPILED[backend])

    def roundings(self, backend: str) -> int:
        return OTHERS_ROUND if backend == "reference" or backend in COMPILED else 1

    def work(self, direction: str) -> tuple[float, float]:
        element, parameter = self.tensors.memory.element_size(), self.tensors.w1.element_size()
        return work(self.case, direction, element, parameter)


BENCH = Bench(
    op="ttm_write",
    cases=CASES,
    presets={
        "4b": ("one_video", "sixteen_videos", "sixteen_videos_last_step"),
        "small": ("demo", "model"),
    },
    peers=(*OURS, *COMPILED),
    build=Write,
)
