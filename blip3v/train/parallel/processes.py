"""The group of processes that torchrun started, and what they tell each other beside gradients."""

from __future__ import annotations

from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from blip3v.errors import UserError
from blip3v.train.parallel.launch import Launch

TIMEOUT = timedelta(minutes=15)
"""How long processes wait for each other: longer than a loader needs to come back after a dead worker."""


class Processes:
    """The started group. Numbers and flags travel between CPUs (gloo), so no GPU has to wait for them.

    On GPUs, the default group is "cpu:gloo,cuda:nccl". Numbers have a group of their own: a thread that
    writes a checkpoint may use the default group while the loop counts labels, and two threads in one group
    would mix up whose turn it is.

    NOT RUN on several GPUs yet: nccl has been exercised by no test, gloo on CPUs by all of them.
    """

    def __init__(self, launch: Launch, device: torch.device, numbers: dist.ProcessGroup) -> None:
        self.launch, self.device = launch, device
        self.rank, self.world_size = launch.rank, launch.world_size
        self._numbers = numbers

    @classmethod
    def start(cls, launch: Launch, device: str | None = None, timeout: timedelta = TIMEOUT) -> Processes:
        """Join the group that torchrun's variables describe.

        Raises:
            UserError: more processes on this node than GPUs; a process that does not come in time.
        """
        kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if kind == "cuda":
            if launch.local_rank >= torch.cuda.device_count():
                raise UserError(
                    f"torchrun started {launch.local_world_size} processes on a machine with "
                    f"{torch.cuda.device_count()} GPUs: pass --nproc-per-node {torch.cuda.device_count()}"
                )
            own = torch.device("cuda", launch.local_rank)
            torch.cuda.set_device(own)
        else:
            own = torch.device("cpu")
        try:
            dist.init_process_group(
                backend="cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo",
                timeout=timeout,
                device_id=own if kind == "cuda" else None,
            )
            numbers = dist.new_group(backend="gloo", timeout=timeout)
        except dist.DistError as error:
            raise UserError(
                f"process {launch.rank} of {launch.world_size} cannot meet the others: "
                f"{_first_line(error)}; look at the log of those that did not come, and check that "
                "MASTER_ADDR and MASTER_PORT can be reached from every node"
            ) from error
        processes = cls(launch, own, numbers)
        processes.barrier()
        return processes

    def total(self, value: int) -> int:
        return self._reduced(value, dist.ReduceOp.SUM)

    def any(self, flag: bool) -> bool:
        return bool(self._reduced(int(flag), dist.ReduceOp.MAX))

    def _reduced(self, value: int, how: dist.ReduceOp.RedOpType) -> int:
        number = torch.tensor(value, dtype=torch.int64)
        dist.all_reduce(number, how, group=self._numbers)
        return int(number)

    def total_loss(self, loss: Tensor) -> Tensor:
        total = loss.detach().clone()
        dist.all_reduce(total)
        return total

    def barrier(self, timeout: timedelta | None = None) -> None:
        """Wait for all; process 0 can say which of them are missing, the others that it stopped waiting."""
        try:
            dist.monitored_barrier(self._numbers, timeout=timeout, wait_all_ranks=True)
        except RuntimeError as error:
            raise UserError(
                f"process {self.rank} of {self.world_size} waited in vain: {_first_line(error)}; "
                "look at the log of the missing ones"
            ) from error

    def close(self) -> None:
        dist.destroy_process_group()


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300]
