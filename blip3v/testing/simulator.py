"""The simulator `blip3v._sim`: how its next launches run, and what they moved.

`python -m blip3v.testing.simulator` prints one line about it.

The simulator is one per process: settings and counters hold for all threads. What it models, and what it
cannot show, stands in csrc/sim/README.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from blip3v.errors import UserError
from blip3v.native import load_simulator as load

if TYPE_CHECKING:
    from torch import Tensor

ScheduleName = Literal["forward", "reverse", "random"]

_current: tuple[ScheduleName, int, bool] = ("forward", 1, True)


def available() -> tuple[bool, str]:
    """Whether the simulator is there, and why not."""
    try:
        load()
    except UserError as error:
        return False, str(error)
    return True, ""


@contextmanager
def schedule(name: ScheduleName = "forward", seed: int = 1, *, check_proxy: bool = True) -> Iterator[None]:
    """Launches inside of it run in this schedule; the one before is restored.

    Args:
        name: "forward": threads in order, TMA and wgmma done at once. "reverse": threads backwards, TMA and
            wgmma done only when every thread waits. "random": both drawn from the seed, threads interrupted.
        seed: of "random".
        check_proxy: TMA and wgmma see ordinary writes to shared memory only after a proxy fence.
    """
    global _current
    before = _current
    module = load()
    module.configure(name, seed, check_proxy)
    _current = (name, seed, check_proxy)
    try:
        yield
    finally:
        module.configure(*before)
        _current = before


@contextmanager
def only(*tensors: Tensor) -> Iterator[None]:
    """Kernels inside of it may touch the memory of these CPU tensors and no other.

    What lies between the elements of a strided view counts as its memory. Without this, only unmapped memory
    is noticed.
    """
    module = load()
    module.declare_buffers([_extent(tensor) for tensor in tensors if tensor.numel()])
    try:
        yield
    finally:
        module.forget_buffers()


def _extent(tensor: Tensor) -> tuple[int, int]:
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride()))
    return tensor.data_ptr(), (last + 1) * tensor.element_size()


def reset_stats() -> None:
    """Sets the counters to zero."""
    load().reset_stats()


def stats() -> dict[str, float]:
    """Counters of all launches since `reset_stats`.

    The same in every schedule: launches, blocks; tma_loads, tma_stores (instructions); tma_load_bytes,
    tma_store_bytes (of global memory: without zero fill, a multicast once); global_load_bytes,
    global_store_bytes (by `load_global`, `store_global`); wgmma_flops; mbarrier_waits, barrier_waits (calls,
    per thread); shared_accesses (instructions of a warp by `load_shared`, `store_shared`, stmatrix),
    shared_conflicts (extra wavefronts); remote_shared_bytes (other blocks of the cluster).
    Not the same: switches, schedule_points, seconds.
    """
    return dict(load().stats())


if __name__ == "__main__":
    ok, reason = available()
    print(f"blip3v._sim {load().version}: the kernels run on this CPU, for tests" if ok else reason)
