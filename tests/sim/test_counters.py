"""The counters of memory traffic: exact, and the same in every schedule."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

from blip3v.testing import simulator

LANES, BANKS, BANK_BYTES = 32, 32, 4
DEPENDS_ON_THE_SCHEDULE = {"switches", "schedule_points", "seconds"}


def extra_wavefronts(size: int, stride: int) -> int:
    """By the definition: lanes are served in groups of 128 bytes; words of one bank take turns."""
    at_once = min(LANES, 128 // max(size, BANK_BYTES))
    extra = 0
    for first in range(0, LANES, at_once):
        words = {
            (lane * stride + byte) // BANK_BYTES
            for lane in range(first, first + at_once)
            for byte in range(0, size, min(size, BANK_BYTES))
        }
        extra += max(sum(word % BANKS == bank for word in words) for bank in range(BANKS)) - 1
    return extra


@pytest.mark.parametrize(
    "size, stride",
    [
        *[(2, stride) for stride in (0, 2, 4, 6, 64)],
        *[(4, stride) for stride in (0, 4, 8, 36, 128, 132)],
        *[(8, stride) for stride in (8, 16, 136, 256)],
        *[(16, stride) for stride in (16, 32, 48, 128, 144)],
    ],
)
def test_bank_conflicts(sim: ModuleType, schedule: tuple[str, int], size: int, stride: int) -> None:
    sim.selftest.strided_stores(size, stride, repeats=3)
    counted = simulator.stats()
    assert counted["shared_accesses"] == 3
    assert counted["shared_conflicts"] == 3 * extra_wavefronts(size, stride)


def test_the_definition_on_cases_known_by_heart() -> None:
    assert extra_wavefronts(4, 4) == 0 and extra_wavefronts(4, 0) == 0  # a row, a broadcast
    assert extra_wavefronts(4, 128) == 31 and extra_wavefronts(4, 132) == 0  # a column, a padded column
    assert extra_wavefronts(16, 128) == 4 * 7 and extra_wavefronts(16, 144) == 0


def test_counters_are_the_same_in_every_schedule(sim: ModuleType) -> None:
    x = np.random.default_rng(1).standard_normal((64, 32)).astype(np.float32)
    out = np.zeros_like(x)
    seen = []
    for name, seed in (("forward", 1), ("reverse", 1), ("random", 1), ("random", 2)):
        simulator.reset_stats()
        with simulator.schedule(name, seed):
            sim.selftest.staged_store(x.__array_interface__["data"][0], out.__array_interface__["data"][0], 0)
        seen.append({k: v for k, v in simulator.stats().items() if k not in DEPENDS_ON_THE_SCHEDULE})
    assert all(counted == seen[0] for counted in seen)
    assert seen[0] == {
        "launches": 1, "blocks": 1, "tma_loads": 0, "tma_stores": 1, "tma_load_bytes": 0,
        "tma_store_bytes": x.nbytes, "global_load_bytes": x.nbytes, "global_store_bytes": 0, "wgmma_flops": 0,
        "mbarrier_waits": 0, "barrier_waits": 64, "remote_shared_bytes": 0,
        # Two warps store 8 times 16 bytes per lane; the lanes of a phase lie a row of 128 bytes apart.
        "shared_accesses": 2 * 8, "shared_conflicts": 2 * 8 * 4 * 7,
    }  # fmt: skip


def test_counters_add_up_until_they_are_reset(sim: ModuleType) -> None:
    sim.selftest.strided_stores(4, 4, 2)
    sim.selftest.strided_stores(4, 4, 2)
    assert simulator.stats()["launches"] == 2 and simulator.stats()["shared_accesses"] == 4
    simulator.reset_stats()
    assert not any(simulator.stats().values())
