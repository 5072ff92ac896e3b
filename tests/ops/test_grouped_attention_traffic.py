"""What the kernels move, counted in the simulator: the half of their speed that needs no GPU.

The floors of grouped_attention assume that every tensor is read once and written once.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from blip3v.ops.grouped_attention import compiled
from blip3v.testing import simulator
from blip3v.testing.cases.grouped_attention import CASES, GroupCase, GroupInputs

THREADS = 256
HELD = [
    CASES["model"],
    replace(CASES["model"], name="more_groups_than_blocks", groups=7),
    CASES["demo_64"],
    CASES["strided"],
]
BLOCKS = 3
"""Of the backward: the simulator has three multiprocessors."""

pytestmark = pytest.mark.usefixtures("simulator_module")


def bytes_of(*tensors: Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def run(case: GroupCase, dtype: torch.dtype) -> tuple[dict, dict, GroupInputs]:
    """Counters of the forward and of the backward, and what they were given."""
    inputs = case.build(dtype)
    module = simulator.load()
    simulator.reset_stats()
    y, _, mean, rstd = compiled.forward(module, 0, *inputs[:4], 1e-5)
    forward = simulator.stats()
    simulator.reset_stats()
    compiled.backward(module, 0, inputs.dy, inputs.dz, inputs.qkv, inputs.norm_weight, y, mean, rstd)
    return forward, simulator.stats(), inputs


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("case", HELD, ids=lambda case: case.name)
def test_everything_is_read_once_and_written_once(case: GroupCase, dtype: torch.dtype) -> None:
    forward, backward, inputs = run(case, dtype)
    row, rows = case.width * inputs.x.element_size(), case.groups * case.tokens
    statistics = 4 * rows
    assert forward["launches"] == backward["launches"] == 1
    # x, q, k, v; the LayerNorm's two parameters once per group. Out: y, z, mean, rstd.
    assert forward["global_load_bytes"] == 4 * rows * row + case.groups * 2 * 4 * case.width
    assert forward["global_store_bytes"] == 2 * rows * row + 2 * statistics
    # y, dy, dz, q, k, v; the weight once per block; every thread asks for mean and rstd. Out: dx, dq, dk,
    # dv and a row of partial sums per block.
    blocks = min(case.groups, BLOCKS)
    assert (
        backward["global_load_bytes"] == 6 * rows * row + blocks * 4 * case.width + 2 * THREADS * statistics
    )
    assert backward["global_store_bytes"] == 4 * rows * row + blocks * 2 * 4 * case.width


def test_other_groups_are_written_once_too() -> None:
    case = CASES["64_tokens"]
    forward, backward, _inputs = run(case, torch.bfloat16)
    row, rows = case.width * 2, case.groups * case.tokens
    assert forward["launches"] == 2 and backward["launches"] == 3
    assert forward["global_store_bytes"] == 2 * rows * row + 2 * 4 * rows
    partial_sums = BLOCKS * 2 * 4 * case.width if case.groups >= BLOCKS else case.groups * 2 * 4 * case.width
    row_sums = 2 * 4 * rows * case.heads
    assert backward["global_store_bytes"] == 4 * rows * row + partial_sums + row_sums
    # Keys are read once per tile of 4 queries: from the caches of a multiprocessor, but counted here.
    assert (
        forward["global_load_bytes"] <= (2 + 2 * case.tokens / 4 + 3) * rows * row + rows * 2 * 4 * case.width
    )


def test_shared_memory_is_used_without_many_conflicts() -> None:
    """Only where a warp stores its sums of more than four rows: 32 bytes apart, the fifth meets the first."""
    for counted in run(CASES["model"], torch.bfloat16)[:2]:
        assert 0 < counted["shared_conflicts"] <= counted["shared_accesses"] / 8


def test_counters_do_not_depend_on_the_schedule() -> None:
    seen = []
    for name, seed in (("forward", 1), ("reverse", 1), ("random", 7)):
        with simulator.schedule(name, seed):  # type: ignore[arg-type]
            counters = run(CASES["demo_64"], torch.float32)[:2]
        for counted in counters:
            for varying in ("switches", "schedule_points", "seconds"):
                del counted[varying]
        seen.append(counters)
    assert seen[0] == seen[1] == seen[2]
