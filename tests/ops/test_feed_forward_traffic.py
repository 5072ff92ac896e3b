"""What the kernels move and compute, counted in the simulator: the half of their speed that needs no GPU.

The floors of feed_forward assume that outputs are written once, and that a tile of outputs reads its rows of
both operands once; blocks of a cluster share what they read.
"""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

import pytest
import torch

from blip3v.ops.feed_forward import compiled
from blip3v.testing import simulator
from blip3v.testing.cases.feed_forward import FeedForwardCase

pytestmark = pytest.mark.usefixtures("simulator_module")

DEPTH = 64
ELEMENT = 2
LANES = 32
"""CUTLASS lets a whole warp issue a TMA store. The machine's instruction is a warp's and happens once
(UTMASTG on the uniform datapath); the simulator counts threads."""


class Cut(NamedTuple):
    """As in csrc/feed_forward/tiles.h: outputs of a tile, blocks of a cluster."""

    m: int
    n: int
    cluster_m: int
    cluster_n: int


WIDENING = {"few": Cut(128, 192, 1, 2), "many": Cut(128, 128, 2, 1)}
NARROWING = {"few": Cut(64, 96, 2, 2), "many": Cut(256, 128, 2, 1)}

CASES = {
    "few": FeedForwardCase("few", (300,), 136, 520),
    "many": FeedForwardCase("many", (1400,), 72, 136),
}


def clusters(cut: Cut, rows: int, columns: int) -> tuple[int, int]:
    """How many lie above and beside one another."""
    return ceil(ceil(rows / cut.m) / cut.cluster_m), ceil(ceil(columns / cut.n) / cut.cluster_n)


def loaded(cut: Cut, rows: int, columns: int, depth: int) -> int:
    """Bytes of operands: each column of clusters reads all of a, each row of them all of b."""
    down, across = clusters(cut, rows, columns)
    return ELEMENT * depth * (rows * across + columns * down)


def flops(cut: Cut, rows: int, columns: int, depth: int) -> int:
    """Whole tiles in whole clusters, whole steps of depth."""
    down, across = clusters(cut, rows, columns)
    tiles = down * cut.cluster_m * across * cut.cluster_n
    return 2 * cut.m * cut.n * tiles * ceil(depth / DEPTH) * DEPTH


@pytest.mark.parametrize("rows", ["few", "many"])
def test_operands_are_read_once_per_tile_and_outputs_written_once(rows: str) -> None:
    case, module = CASES[rows], simulator.load()
    inputs = case.build(torch.bfloat16)
    r, d, j = case.rows, case.width, case.hidden
    narrow, wide = ELEMENT * r * d, ELEMENT * r * j
    simulator.reset_stats()
    _, h = compiled.forward(module, 0, *inputs[:4])
    forward = simulator.stats()
    simulator.reset_stats()
    compiled.input_backward(module, 0, inputs.dout, inputs.w1, inputs.w2, h)
    backward = simulator.stats()

    first, second = (WIDENING[rows], r, j, d), (NARROWING[rows], r, d, j)
    assert forward["tma_load_bytes"] == loaded(*first) + loaded(*second) + narrow  # and the residual
    assert forward["tma_store_bytes"] == LANES * (2 * wide + narrow)  # h, a, out
    assert backward["tma_load_bytes"] == loaded(*first) + wide  # and h
    assert backward["tma_store_bytes"] == LANES * 2 * wide  # dh, a
    assert forward["wgmma_flops"] == flops(*first) + flops(*second)
    assert backward["wgmma_flops"] == flops(*first)
    for counted in (forward, backward):
        assert counted["global_load_bytes"] == counted["global_store_bytes"] == 0
        assert counted["shared_conflicts"] == 0


def test_one_video_is_one_wave() -> None:
    """640 tokens of the 4B model: no product has more tiles than an H100 has multiprocessors."""
    for cut, columns in ((WIDENING["few"], 4608), (NARROWING["few"], 1152)):
        down, across = clusters(cut, 640, columns)
        assert down * cut.cluster_m * across * cut.cluster_n == 120 <= 132


def test_counters_do_not_depend_on_the_schedule() -> None:
    case, module = FeedForwardCase("ragged", (70,), 72, 200), simulator.load()
    inputs = case.build(torch.bfloat16)
    seen = []
    for name, seed in (("forward", 1), ("reverse", 1), ("random", 7)):
        simulator.reset_stats()
        with simulator.schedule(name, seed):
            compiled.forward(module, 0, *inputs[:4])
        counted = simulator.stats()
        for varying in ("switches", "schedule_points", "seconds"):
            del counted[varying]
        seen.append(counted)
    assert seen[0] == seen[1] == seen[2]
