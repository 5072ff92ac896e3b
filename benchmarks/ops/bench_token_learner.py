"""token_learner against its peers: `blip3v bench ops --op token_learner`.

What a row says, and when it shows no time: benchmarks/rows.py. The peers are PyTorch's layers, eager and
compiled, and the einsum spelling of public repositories. Under a CUDA graph (the graph columns) the gaps
between launches are gone: that is the bar at one video, where all of it takes a few microseconds.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.rows import Bench
from benchmarks.subject import Subject
from blip3v.ops.token_learner import Arguments, token_learner
from blip3v.ops.token_learner.arguments import EPS
from blip3v.ops.token_learner.exact import exact
from blip3v.testing.cases.token_learner import CASES, PoolingCase

OURS = ("cuda", "triton", "reference", "simulator")
COMPILED = {
    "compile default": "default",
    "compile max-autotune": "max-autotune-no-cudagraphs",
    "compile max-autotune einsum": "max-autotune-no-cudagraphs",
}
PEERS = (*OURS, "einsum", *COMPILED)
ROUNDINGS = {"cuda": 1, "triton": 1, "simulator": 1}
OTHERS_ROUND = 16
"""PyTorch's layers round every intermediate, and on a CPU add up the gradients of the norms in bfloat16."""


def work(case: PoolingCase, direction: str, element: int) -> tuple[float, float]:
    """(FLOP, bytes) that nobody can do without.

    Forward the products with w1, w2 and A, and one pass over x. Backward two products for each of these, x
    read and dx written once. What a peer computes again or keeps in between does not count.
    """
    rows = case.videos * case.tokens
    product = 2 * rows * (case.inner * case.width + case.made * case.inner)
    pooling = 2 * rows * case.made * case.width
    parameters = element * (4 * case.width + case.inner * case.width + case.made * case.inner)
    x, out = rows * case.width * element, case.videos * case.made * case.width * element
    lse = case.videos * case.made * 4
    forward = product + pooling, x + out + parameters + lse
    if direction == "forward":
        return forward
    backward = 2 * (product + pooling), 2 * x + 2 * out + 2 * parameters + lse
    return forward[0] + backward[0], forward[1] + backward[1]


class Pooling(Subject):
    """A case on a device: what the rows measure."""

    def __init__(self, case: PoolingCase, dtype: torch.dtype, device: str) -> None:
        self.case = case
        self.tensors = case.build(dtype, device)
        self.inputs, self.cotangents = self.tensors[:7], [self.tensors.dout]
        truth = exact(Arguments(*self.tensors[:8]), self.tensors.dout)
        self.truth = {name: pair for name, pair in truth.items() if name != "lse"}

    def peer(self, backend: str) -> Callable[..., Tensor]:
        keep = self.tensors.keep
        if backend in OURS:
            return lambda *floating: token_learner(*floating, keep=keep, backend=backend)
        if keep is not None and "einsum" in backend:
            raise ValueError("it has no masks")
        if backend == "einsum":
            return einsum
        torch.compiler.reset()
        layers = einsum if "einsum" in backend else self.peer("reference")
        return torch.compile(layers, fullgraph=True, dynamic=False, mode=COMPILED[backend])

    def roundings(self, backend: str) -> int:
        return ROUNDINGS.get(backend, OTHERS_ROUND)

    def work(self, direction: str) -> tuple[float, float]:
        return work(self.case, direction, self.tensors.x.element_size())


def einsum(
    x: Tensor, gamma1: Tensor, beta1: Tensor, gamma2: Tensor, beta2: Tensor, w1: Tensor, w2: Tensor
) -> Tensor:
    """The module that people copy from public repositories."""
    width = x.shape[-1:]
    z = F.layer_norm(F.layer_norm(x, width, gamma1, beta1, EPS), width, gamma2, beta2, EPS)
    logits = F.linear(F.gelu(F.linear(z, w1)), w2)
    return torch.einsum("bnk,bnd->bkd", logits.softmax(dim=1), x)


BENCH = Bench(
    op="token_learner",
    cases=CASES,
    presets={
        "4b": (
            "one_video",
            "sixteen_videos",
            "sixty_four_videos",
            "sixteen_videos_to_128",
            "sixty_four_frames",
            "grouped_ttm_of_one_video",
        ),
        "small": ("model", "model_masked"),
    },
    peers=PEERS,
    build=Pooling,
)
