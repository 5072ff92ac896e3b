"""TMA and wgmma: products over operand majors, swizzles and element types, and a CUTLASS collective."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from blip3v.testing import simulator

TILE_M, TILE_N, TILE_K = 64, 128, 64  # csrc/sim/selftest/gemm_tile.cuh

VARIANTS = [
    (dtype, swizzle, a_mn, b_mn, registers)
    for dtype, swizzle in [(torch.bfloat16, s) for s in (0, 32, 64, 128)] + [(torch.float16, 128)]
    for registers in (False, True)
    for a_mn in (False, True)
    for b_mn in (False, True)
    if not (registers and a_mn)  # registers hold A by rows
]


def tiles(size: int, tile: int) -> int:
    return -(-size // tile)


@pytest.mark.parametrize("m, n, k", [(64, 128, 64), (72, 136, 72)], ids=["whole", "ragged"])
@pytest.mark.parametrize("dtype, swizzle, a_mn, b_mn, registers", VARIANTS)
def test_a_product_is_right_in_every_schedule(
    sim: ModuleType,
    dtype: torch.dtype,
    swizzle: int,
    a_mn: bool,
    b_mn: bool,
    registers: bool,
    m: int,
    n: int,
    k: int,
) -> None:
    generator = torch.Generator().manual_seed(m)
    a = torch.randn(m, k, generator=generator).to(dtype)
    b = torch.randn(n, k, generator=generator).to(dtype)
    stored_a = a.t().contiguous() if a_mn else a
    stored_b = b.t().contiguous() if b_mn else b
    expected = a.double() @ b.double().t()
    bits = None
    for name, seed in (("forward", 1), ("reverse", 1), ("random", 1), ("random", 2)):
        d = torch.full((m, n), torch.nan)
        simulator.reset_stats()
        with simulator.schedule(name, seed), simulator.only(stored_a, stored_b, d):
            sim.selftest.gemm(
                dtype == torch.float16, swizzle, a_mn, b_mn, registers,
                stored_a.data_ptr(), stored_b.data_ptr(), d.data_ptr(), m, n, k,
            )  # fmt: skip
        assert (d.double() - expected).abs().max() < 1e-4  # fp32 sums of 72 products
        assert bits is None or torch.equal(d, bits)
        bits = d
        counted = simulator.stats()
        down, across, deep = tiles(m, TILE_M), tiles(n, TILE_N), tiles(k, TILE_K)
        assert counted["blocks"] == down * across
        # Each row of blocks reads B once, each column A; what lies beyond the border is not read.
        assert counted["tma_load_bytes"] == 2 * k * (m * across + n * down)
        assert counted["global_store_bytes"] == 4 * m * n
        assert counted["wgmma_flops"] == 2 * TILE_M * TILE_N * TILE_K * down * across * deep


@pytest.mark.parametrize("m, n, k", [(256, 128, 256), (200, 136, 200), (512, 384, 320)])
def test_a_cutlass_collective_is_right(
    sim: ModuleType, schedule: tuple[str, int], m: int, n: int, k: int
) -> None:
    generator = torch.Generator().manual_seed(k)
    a = torch.randn(m, k, generator=generator).bfloat16()
    b = torch.randn(n, k, generator=generator).bfloat16()
    d = torch.full((m, n), torch.nan).bfloat16()
    with simulator.only(a, b, d):
        sim.selftest.collective_gemm(a.data_ptr(), b.data_ptr(), d.data_ptr(), m, n, k, 4)
    expected = a.double() @ b.double().t()
    assert ((d.double() - expected).abs() <= expected.abs() * 2**-8 + 1e-3).all()  # rounded to bf16
