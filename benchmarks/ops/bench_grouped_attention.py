"""grouped_attention against its peers: `blip3v bench ops --op grouped_attention`.

What a row says, and when it shows no time: benchmarks/rows.py. The peers are PyTorch's SDPA, sum and
LayerNorm, eager and compiled, and the softmax spelled out, which the compiler can fuse. Under a CUDA graph
(the graph columns) the gaps between launches are gone: that is the bar at one video.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.rows import Bench
from benchmarks.subject import Subject
from blip3v.ops.grouped_attention import Arguments, grouped_attention
from blip3v.ops.grouped_attention.exact import Exact, exact
from blip3v.testing.cases.grouped_attention import CASES, GroupCase

EPS = 1e-5
OURS = ("cuda", "triton", "reference", "simulator")
COMPILED = {
    "compile default": "default",
    "compile default spelled out": "default",
    "compile max-autotune": "max-autotune-no-cudagraphs",
    "compile max-autotune spelled out": "max-autotune-no-cudagraphs",
}
PEERS = (*OURS, "spelled out", *COMPILED)
ROUNDINGS = {"cuda": 2, "triton": 2, "simulator": 2}
"""Once for the results, and once because z and the gradients are compared from the exact y and not from
theirs."""
OTHERS_ROUND = 16
"""PyTorch's layers round every intermediate, and on a CPU add up the gradients of the norm in bfloat16."""


def work(case: GroupCase, direction: str, element: int) -> tuple[float, float]:
    """(FLOP, bytes) that nobody can do without.

    Forward two products over the channels, reading x, q, k, v and writing y and z; backward five products,
    reading dy, dz, y, q, k, v and writing dx, dq, dk, dv. The softmax and the LayerNorm are not counted as
    FLOP.
    """
    rows = case.groups * case.tokens
    product = 2 * rows * case.tokens * case.width
    statistics, parameters = 2 * 4 * rows, 2 * 4 * case.width
    tensor = rows * case.width * element
    if direction == "forward":
        return 2 * product, 6 * tensor + statistics + parameters
    return 7 * product, 16 * tensor + 2 * statistics + 2 * parameters


class Groups(Subject):
    """A case on a device: what the rows measure."""

    def __init__(self, case: GroupCase, dtype: torch.dtype, device: str) -> None:
        self.case = case
        self.tensors = case.build(dtype, device)
        self.inputs: Sequence[Tensor] = self.tensors[:4]
        self.cotangents: Sequence[Tensor] = self.tensors[4:]
        arguments = Arguments(*self.inputs)
        y, y_terms = exact(arguments, self.tensors.x, EPS)["y"]
        truth = exact(arguments, y, EPS, self.tensors.dy, self.tensors.dz)
        # Nobody has this y, but one that is rounded; and z follows from that.
        z, z_terms = truth["z"]
        through = arguments.norm_weight.double().abs() * truth["rstd"].value[..., None] * y_terms
        truth["z"] = Exact(z, z_terms + through)
        self.truth: Mapping[str, tuple[Tensor, Tensor]] = {
            name: pair for name, pair in truth.items() if name not in ("mean", "rstd")
        }

    def peer(self, backend: str) -> Callable[..., tuple[Tensor, ...]]:
        if backend in OURS:
            return lambda *tensors: grouped_attention(*tensors, eps=EPS, backend=backend)
        if backend == "spelled out":
            return spelled_out
        torch.compiler.reset()
        layers = spelled_out if "spelled" in backend else self.peer("reference")
        return torch.compile(layers, fullgraph=True, dynamic=False, mode=COMPILED[backend])

    def roundings(self, backend: str) -> int:
        return ROUNDINGS.get(backend, OTHERS_ROUND)

    def work(self, direction: str) -> tuple[float, float]:
        return work(self.case, direction, self.tensors.x.element_size())


def spelled_out(x: Tensor, qkv: Tensor, norm_weight: Tensor, norm_bias: Tensor) -> tuple[Tensor, Tensor]:
    """The softmax without SDPA, whose kernels pad five tokens to 64 or 128."""
    q, k, v = qkv.unbind(2)
    scores = torch.einsum("rihd,rjhd->rhij", q, k) * q.shape[-1] ** -0.5
    y = x + torch.einsum("rhij,rjhd->rihd", scores.softmax(-1), v).flatten(2)
    return y, F.layer_norm(y, y.shape[-1:], norm_weight, norm_bias, EPS)


BENCH = Bench(
    op="grouped_attention",
    cases=CASES,
    presets={
        "4b": ("one_video", "sixteen_videos", "vanilla_sixteen_videos"),
        "small": ("model", "demo_128"),
    },
    peers=PEERS,
    build=Groups,
)
