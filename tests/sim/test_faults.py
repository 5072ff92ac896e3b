"""Kernels that break one rule each (csrc/sim/selftest/faults.cpp): the report says which, and where."""

from __future__ import annotations

import re
from types import ModuleType

import pytest
import torch

from blip3v.testing import simulator

WHERE = r"block \(\d,0,0\) thread \d+ = warp \d+ lane \d+"

# The report, beside block, thread, warp and lane.
REPORTS = {
    "mbarrier without init": "mbarrier at shared offset 0x2000 is used before init, or was overwritten",
    "mbarrier overwritten": "mbarrier at shared offset 0x2000 is used before init, or was overwritten",
    "mbarrier arrival too many": "more arrivals than its count of 1 in one phase",
    "mbarrier parity of 2": "parity 2 is neither 0 nor 1",
    "TMA before the fence of its mbarrier": "without a fence after its init (fence_barrier_init)",
    "TMA to a misaligned tile": "TMA: shared offset 0x80 is not aligned to 1024 bytes",
    "TMA beyond shared memory": "a box of 8192 bytes at shared offset 0x800 does not fit in the 9216 bytes",
    "TMA load after the block": "arrives in the shared memory of block rank 0, which has ended",
    "TMA store without wait": "the thread ends with TMA stores that it never waited for",
    "TMA store without commit": "the thread ends with TMA stores that it never waited for",
    "wgmma without fence": "wgmma without a fence (warpgroup_arrive) since the last wait",
    "wgmma without wait": "the thread ends with wgmma instructions that it never waited for",
    "wgmma with two opinions": "the threads of a warpgroup disagree on descriptors or shape",
    "wgmma by three warps": "wgmma by threads that are not a whole warpgroup",
    "shared store out of bounds": ", which is not in shared memory",
    "plain shared store out of bounds": "outside shared memory: offset 13312 of a block with 9216 bytes",
    "shared load misaligned": ", which is not aligned to them",
    "shared load of global memory": ", which is not in shared memory",
    "global load of shared memory": "global load at an address in shared memory",
    "global store to null": "global store of 4 bytes at (nil), in front of every declared buffer",
    "global store behind the buffer": " bytes into a buffer of 4096",
    "stack overflow": "a thread's stack is full",
    "more shared memory than launched": "uses 9217 bytes of dynamic shared memory, its launch gave 9216",
    "named barrier with two counts": " by earlier arrivals",
    "named barrier of half a warp": "named barrier 8: 16 threads are not whole warps",
    "named barrier 16": "named barrier 16: only 1 to 15 exist beside __syncthreads",
    "shuffle outside of its mask": "a lane that is not in its own warp mask 0xffff",
    "trap": "__trap() [block (0,0,0) thread 3 = warp 0 lane 3]",
    "brkpt": "a check inside the kernel or CUTLASS failed [block (0,0,0) thread 3 = warp 0 lane 3]",
    "rank that does not exist": "distributed shared memory: rank 2 in a cluster of 2 blocks",
    "peer that has ended": "shared load in block rank 0, which has ended",
    "cluster wait without arrive": "cluster barrier: wait without arrive",
    "cluster arrive twice": "cluster barrier: a second arrive without a wait between them",
    "ldmatrix transposed": "not simulated: Trying to use ldmatrix",
    "cp.async": "not simulated: Support for cp.async",
    "mma.sync": "not simulated: Attempting to use SM80_16x8x16",
}
# Who waits for what.
IN = "in block (0,0,0):"
DEADLOCKS = {
    "mbarrier bytes missing": f"128 threads (first 0, last 127) {IN} mbarrier wait for parity 0 at "
    "shared offset 0x2000 (phase bit 0, 0 of 1 arrivals missing, 64 transaction bytes outstanding)",
    "wgmma by half a warpgroup": f"64 threads (first 0, last 63) {IN} wgmma wait",
    "syncthreads in half of the block": f"32 threads (first 32, last 63) {IN} named barrier 8 (32 of 64",
    "shuffle in divergent code": f"8 threads (first 0, last 28) {IN} warp synchronisation or shuffle",
    "overlapping masks": f"16 threads (first 0, last 15) {IN} warp synchronisation or shuffle "
    "(other lanes of the mask 0x1ffff are missing)",
    "registers for nobody": f"384 threads (first 0, last 383) {IN} setmaxnreg: wants 240 registers",
}
# Whether these go wrong depends on what is faster, on the hardware too.
SHOWS_ONLY_IN = {
    "TMA load after the block": ["reverse"],
    "TMA store without wait": ["reverse"],
    "peer that has ended": ["forward"],
}


@pytest.fixture
def memory() -> torch.Tensor:
    return torch.zeros(4096 + 64, dtype=torch.uint8)


def run(sim: ModuleType, name: str, memory: torch.Tensor) -> None:
    first = -memory.data_ptr() % 64
    own = memory[first : first + 4096]
    with simulator.only(own):
        sim.selftest.run_fault(name, own.data_ptr())


def test_every_fault_has_its_report(sim: ModuleType) -> None:
    assert set(sim.selftest.faults()) == {*REPORTS, *DEADLOCKS}


@pytest.mark.parametrize("name", REPORTS)
def test_a_broken_rule_is_reported(sim: ModuleType, memory: torch.Tensor, name: str) -> None:
    for schedule in SHOWS_ONLY_IN.get(name, ["forward", "reverse"]):
        with simulator.schedule(schedule), pytest.raises(RuntimeError) as caught:
            run(sim, name, memory)
        report = str(caught.value)
        assert report.startswith("blip3v: fault: simulator: ")
        assert REPORTS[name] in report
        assert re.search(WHERE, report), report


@pytest.mark.parametrize("name", DEADLOCKS)
def test_a_deadlock_says_who_waits_for_what(
    sim: ModuleType, schedule: tuple[str, int], memory: torch.Tensor, name: str
) -> None:
    with pytest.raises(RuntimeError) as caught:
        run(sim, name, memory)
    assert "simulator: deadlock: no thread can run" in str(caught.value)
    assert DEADLOCKS[name] in str(caught.value)


@pytest.mark.parametrize("name", SHOWS_ONLY_IN)
def test_some_seed_shows_what_depends_on_speed(sim: ModuleType, memory: torch.Tensor, name: str) -> None:
    caught = 0
    for seed in range(20):
        try:
            with simulator.schedule("random", seed):
                run(sim, name, memory)
        except RuntimeError as error:
            caught += REPORTS[name] in str(error)
    assert caught


def test_the_simulator_works_after_a_fault(sim: ModuleType, memory: torch.Tensor) -> None:
    for name in (
        "brkpt",
        "plain shared store out of bounds",
        "TMA load after the block",
        "mbarrier bytes missing",
    ):
        with simulator.schedule("reverse"), pytest.raises(RuntimeError):
            run(sim, name, memory)
        x = torch.arange(10, dtype=torch.float32)
        out = torch.full_like(x, torch.nan)
        sim.selftest.ping_pong(x.data_ptr(), out.data_ptr(), len(x))
        assert torch.equal(out, x + 1)


def test_unmapped_memory_without_declared_buffers(sim: ModuleType, memory: torch.Tensor) -> None:
    with pytest.raises(RuntimeError, match=r"unmapped memory at .nil. .block .0,0,0. thread 7 "):
        sim.selftest.run_fault("global store to null", memory.data_ptr() + -memory.data_ptr() % 64)


@pytest.mark.parametrize("blocks, why", [(9, r"9 blocks in a cluster, need 1 to 8"), (0, r"need 1 to 8")])
def test_a_launch_that_no_gpu_takes_is_refused(sim: ModuleType, blocks: int, why: str) -> None:
    x = torch.zeros(16, 32)
    with pytest.raises(RuntimeError, match=rf"blip3v: rotate_blocks: .*{why}"):
        sim.selftest.rotate_blocks(x.data_ptr(), x.data_ptr(), blocks)


def test_settings_are_checked(sim: ModuleType) -> None:
    with pytest.raises(RuntimeError, match="forward, reverse or random"):
        sim.configure("sideways")
