"""feed_forward against its peers: `blip3v bench ops --op feed_forward`.

What a row says, and when it shows no time: benchmarks/rows.py. The peers are PyTorch's two linear layers,
eager and compiled; what torch.compile's default mode fuses is everything beside cuBLAS's products, and what
max-autotune fuses is the epilogues of Triton's products, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.rows import Bench
from benchmarks.subject import Subject
from blip3v.ops.feed_forward import Arguments, feed_forward
from blip3v.ops.feed_forward.exact import Exact, exact
from blip3v.testing.cases.feed_forward import CASES, LARGE, FeedForwardCase

OURS = ("cuda", "triton", "reference", "simulator")
COMPILED = {"compile default": "default", "compile max-autotune": "max-autotune-no-cudagraphs"}
PEERS = (*OURS, "eager", *COMPILED)


def eager(z: Tensor, w1: Tensor, w2: Tensor, residual: Tensor) -> Tensor:
    """What a transformer layer spells."""
    return residual + F.linear(F.gelu(F.linear(z, w1)), w2)


class FeedForward(Subject):
    """A case on a device: what the rows measure."""

    def __init__(self, case: FeedForwardCase, dtype: torch.dtype, device: str) -> None:
        self.case = case
        tensors = case.build(dtype, device)
        self.inputs: Sequence[Tensor] = tensors[:4]
        self.cotangents: Sequence[Tensor] = [tensors.dout]
        self.element = tensors.z.element_size()
        truth = exact(Arguments(*tensors[:4]), tensors.dout)
        truth["dresidual"] = Exact(tensors.dout.double(), torch.zeros_like(tensors.dout, dtype=torch.float64))
        self.truth: Mapping[str, tuple[Tensor, Tensor]] = {
            name: truth[name] for name in ("out", "dz", "dw1", "dw2", "dresidual")
        }

    def peer(self, backend: str) -> Callable[..., Tensor]:
        if backend in OURS:
            return lambda *inputs: feed_forward(*inputs, backend=backend)
        if backend in COMPILED:
            torch.compiler.reset()
            return torch.compile(eager, fullgraph=True, dynamic=False, mode=COMPILED[backend])
        return eager

    def roundings(self, backend: str) -> int:
        # Products that are tensors of their own are rounded once more.
        return 1 if backend in ("cuda", "triton", "simulator") else 2

    def work(self, direction: str) -> tuple[float, float]:
        return work(self.case, direction, self.element)


def work(case: FeedForwardCase, direction: str, element: int) -> tuple[float, float]:
    """(FLOP, bytes): two products forward, four backward; each tensor written or read once by each product.

    h is written for the backward, and read by it; a and dh are written and read, for nobody keeps a row of J
    channels in a block.
    """
    product = 2 * case.rows * case.width * case.hidden
    narrow, wide, weight = case.rows * case.width, case.rows * case.hidden, case.width * case.hidden
    # z, w1 -> h, a;  a, w2, residual -> out
    forward = narrow + weight + 2 * wide + wide + weight + 2 * narrow
    # dout, w2, h -> dh, a;  dh, w1 -> dz;  dh, z -> dw1;  a, dout -> dw2
    backward = narrow + weight + 3 * wide + wide + weight + narrow + 2 * (wide + narrow + weight)
    if direction == "forward":
        return 2 * product, element * forward
    return 6 * product, element * (forward + backward)


BENCH = Bench(
    op="feed_forward",
    cases=CASES,
    presets={"4b": tuple(case.name for case in LARGE), "small": ("model_width", "several_tiles")},
    peers=PEERS,
    build=FeedForward,
)
