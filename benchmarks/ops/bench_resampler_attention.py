"""resampler_attention against its peers: `blip3v bench ops --op resampler_attention`.

What a row says, and when it shows no time: benchmarks/rows.py.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.ops.attention_peers import PEERS
from benchmarks.rows import Bench
from benchmarks.subject import Subject
from blip3v.ops.resampler_attention import Arguments
from blip3v.ops.resampler_attention.exact import exact
from blip3v.testing.cases.resampler_attention import CASES, AttentionCase

ROUNDINGS = {"cuda": 1, "triton": 1, "simulator": 1}
OTHERS_ROUND = 8
"""Peers round scores too, and partial sums: at scores of 8, eight times what our kernels may be off."""


def work(case: AttentionCase, direction: str, element: int) -> tuple[float, float]:
    """(FLOP, bytes): two matrix products forward, five backward; each tensor read or written once a pass."""
    keys = case.media + case.latents
    products = 2 if direction == "forward" else 7
    flops = products * 2 * case.frames * case.heads * case.queries * keys * case.dim
    rows = case.frames * case.heads * case.dim * element
    forward = rows * (2 * case.queries + 2 * keys)  # q, out; k, v
    backward = rows * (4 * case.queries + 4 * keys)  # q, out, dout, dq; k, v, dk, dv
    lse = case.frames * case.heads * case.queries * 4
    return flops, forward + lse if direction == "forward" else forward + backward + 2 * lse


class Attention(Subject):
    """A case on a device: what the rows measure."""

    def __init__(self, case: AttentionCase, dtype: torch.dtype, device: str) -> None:
        self.case = case
        self.tensors = case.build(dtype, device)
        self.scale = case.dim**-0.5 if case.scale is None else case.scale
        self.inputs, self.cotangents = self.tensors[:5], [self.tensors.dout]
        truth = exact(Arguments(*self.tensors[:7]), self.tensors.dout, self.scale)
        self.truth = {name: pair for name, pair in truth.items() if name != "lse"}

    def peer(self, backend: str) -> Callable[..., Tensor]:
        return PEERS[backend](self.tensors, self.scale)

    def roundings(self, backend: str) -> int:
        return ROUNDINGS.get(backend, OTHERS_ROUND)

    def work(self, direction: str) -> tuple[float, float]:
        return work(self.case, direction, self.tensors.q.element_size())


BENCH = Bench(
    op="resampler_attention",
    cases=CASES,
    presets={
        "4b": ("one_video", "one_video_hoisted", "sixteen_videos"),
        "small": ("model", "model_masked"),
    },
    peers=list(PEERS),
    build=Attention,
)
