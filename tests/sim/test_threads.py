"""Threads of a block and blocks of a cluster: barriers, shuffles, proxy fences, distributed shared memory."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

from blip3v.testing import simulator

EVERY_THREAD, FIRST_THREAD, NO_THREAD = range(3)  # Fence in csrc/sim/selftest/selftest.h


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


def test_named_barriers_hand_a_value_to_and_fro(sim: ModuleType, schedule: tuple[str, int]) -> None:
    x, out = normal(20), np.full(20, np.nan, np.float32)
    sim.selftest.ping_pong(address(x), address(out), len(x))
    assert np.array_equal(out, x + 1)
    assert simulator.stats()["barrier_waits"] == 64 * len(x)


def test_shuffles_and_votes(sim: ModuleType, schedule: tuple[str, int]) -> None:
    x = np.random.default_rng(3).integers(1, 50, 32).astype(np.uint32)
    out = np.zeros((9, 32), np.uint32)
    sim.selftest.shuffles(address(x), address(out))
    lane = np.arange(32)
    assert np.array_equal(out[0], np.full(32, x[5]))
    assert np.array_equal(out[1], x[lane // 8 * 8 + 3])
    assert np.array_equal(out[2], x[lane ^ 9])
    assert np.array_equal(out[3], x[np.where(lane + 4 < 32, lane + 4, lane)])
    assert np.array_equal(out[4], x[np.where(lane % 16 + 3 < 16, lane + 3, lane)])
    assert np.array_equal(out[5], x[np.where(lane >= 2, lane - 2, lane)])
    assert np.array_equal(out[6], np.full(32, sum(1 << i for i in lane if x[i] % 3 == 0), np.uint32))
    assert np.array_equal(out[7], np.where(lane % 2, x[31], x[0]))
    assert np.array_equal(out[8], np.full(32, (x == 7).any() + 2 * (x > 0).all()))


def test_stmatrix(sim: ModuleType, schedule: tuple[str, int]) -> None:
    x = np.random.default_rng(4).integers(0, 2**16, (32, 8)).astype(np.uint16)
    out = np.zeros_like(x)
    sim.selftest.stmatrix(address(x), address(out))
    assert np.array_equal(out, x)
    assert simulator.stats()["shared_accesses"] == 2  # one stmatrix, one load of 16 bytes
    assert simulator.stats()["shared_conflicts"] == 0


def test_ldmatrix(sim: ModuleType, schedule: tuple[str, int]) -> None:
    x = np.random.default_rng(5).integers(0, 2**16, (32, 8)).astype(np.uint16)
    out = np.zeros_like(x)
    sim.selftest.ldmatrix(address(x), address(out))
    assert np.array_equal(out, x)
    assert simulator.stats()["shared_accesses"] == 2  # one store of 16 bytes, one ldmatrix
    assert simulator.stats()["shared_conflicts"] == 0


@pytest.mark.parametrize(
    "fence, rows_seen", [(EVERY_THREAD, range(64)), (FIRST_THREAD, range(1)), (NO_THREAD, range(0))]
)
def test_tma_sees_what_its_writer_has_fenced(
    sim: ModuleType, schedule: tuple[str, int], fence: int, rows_seen: range
) -> None:
    x, out = normal(64, 32), np.zeros((64, 32), np.float32)
    sim.selftest.staged_store(address(x), address(out), fence)
    seen = (out == x).all(axis=1)
    assert np.flatnonzero(seen).tolist() == list(rows_seen)
    assert np.isnan(out[~seen]).all()


def test_without_the_check_of_proxies_all_is_seen(sim: ModuleType) -> None:
    x, out = normal(64, 32), np.zeros((64, 32), np.float32)
    with simulator.schedule("forward", check_proxy=False):
        sim.selftest.staged_store(address(x), address(out), NO_THREAD)
    assert np.array_equal(out, x)


def test_multicast_loads_once_for_both_blocks(sim: ModuleType, schedule: tuple[str, int]) -> None:
    x, out = normal(64 * 5, 32), np.full((2, 32), np.nan, np.float32)
    sim.selftest.multicast_sum(address(x), address(out), 5)
    assert np.abs(out - x.astype(np.float64).sum(axis=0)).max() < 1e-4
    counted = simulator.stats()
    assert counted["tma_load_bytes"] == x.nbytes
    assert counted["tma_loads"] == 2 * 5
    assert counted["global_store_bytes"] == out.nbytes


@pytest.mark.parametrize("blocks", [2, 8])
def test_blocks_write_into_their_neighbour(sim: ModuleType, schedule: tuple[str, int], blocks: int) -> None:
    x, out = normal(blocks, 32), np.full((blocks, 32), np.nan, np.float32)
    sim.selftest.rotate_blocks(address(x), address(out), blocks)
    assert np.array_equal(out, np.roll(x, 1, axis=0))
    assert simulator.stats()["remote_shared_bytes"] == x.nbytes
