"""How a step is spread over devices: the interface that the loop knows, and four ways to fill it.

`parallel_named` is the one table from a recipe's `parallel` to an object.
"""

from __future__ import annotations

from collections.abc import Callable

from blip3v.errors import UserError
from blip3v.train.parallel.data_parallel import DataParallel
from blip3v.train.parallel.fully_shard import FullyShard, HybridShard
from blip3v.train.parallel.interface import Parallel
from blip3v.train.parallel.launch import Launch
from blip3v.train.parallel.processes import Processes
from blip3v.train.parallel.single import SingleDevice
from blip3v.train.recipe import Recipe

__all__ = [
    "DataParallel", "FullyShard", "HybridShard", "Launch", "Parallel", "SingleDevice", "parallel_named",
]  # fmt: skip

_SPREAD: dict[str, Callable[[Processes, Recipe], Parallel]] = {
    "ddp": DataParallel,
    "fsdp": FullyShard,
    "hybrid": HybridShard,
}
NAMES = ("auto", "single", *_SPREAD)


def parallel_named(name: str, recipe: Recipe, device: str | None = None) -> Parallel:
    """The way called `name`; where it takes several processes, their group is started.

    `auto` is fsdp where torchrun started several processes, single otherwise. Call `close` at the end.

    Args:
        name: auto, single, ddp, fsdp or hybrid.
        recipe: `bf16` and `reduce_dtype` are read.
        device: "cpu" or "cuda"; None is the GPU where there is one.

    Raises:
        UserError: no such way; one that does not fit how the processes were started; more processes than
            GPUs; a process that does not come.
    """
    if name not in NAMES:
        raise UserError(f"no way to spread a step called {name!r}: choose one of {', '.join(NAMES)}")
    launch = Launch.from_environment()
    processes = 1 if launch is None else launch.world_size
    if name == "auto":
        name = "fsdp" if processes > 1 else "single"
    if name == "single":
        if processes > 1:
            raise UserError(
                f"parallel single runs in one process, and torchrun started {processes}, which would all "
                "train the same: choose ddp, fsdp or hybrid, or start one process"
            )
        return SingleDevice(device)
    if launch is None:
        raise UserError(
            f"parallel {name} needs processes that torchrun starts: "
            "torchrun --nproc-per-node GPUS -m blip3v train ..."
        )
    if name == "hybrid":
        launch.require_equal_nodes()
    return _SPREAD[name](Processes.start(launch, device), recipe)
