"""Saving and loading the checkpoints of one run, on one device or many."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.tensor import DTensor

from blip3v.errors import UserError
from blip3v.train.checkpoint.folders import aside_of, begin_aside, finish_aside, remove
from blip3v.train.checkpoint.loading import FORMAT, STATE, load_training, read_state, silence_single_process
from blip3v.train.checkpoint.storage import PartsPlanner, SafetensorsWriter
from blip3v.train.checkpoint.tensors import (
    RANDOM,
    device_of,
    generator_states,
    local_tensor,
    model_tensors,
    optimizer_tensors,
)
from blip3v.train.parallel import Parallel

_NAME = re.compile(r"step-(\d{8,})")


class Checkpointer:
    """The checkpoints of one run under `folder`, named `step-00000500`; the last `keep` stay.

    A checkpoint holds the model, the optimizer's moments, the states of every rank's random generators, and a
    JSON file of plain values. Each rank writes its own part; all of them must see the same `folder`. Every
    method is called by all ranks, and answers or fails on all of them alike.

    NOT RUN on GPUs yet; on CPUs with one process, and with two under DDP, FSDP2 and hybrid sharding.

    Args:
        folder: made when the first checkpoint is.
        keep: how many stay; an older one goes when a newer one is complete.
        parallel: how many ranks there are, and which this is; None is one process.
        asynchronous: copy the tensors to main memory at once and write them in a thread while training goes
            on. A rank then needs as much free main memory as its part takes: 12 bytes per trained parameter
            in fp32, divided by the ranks under FSDP2, all of it on the first rank under DDP.
    """

    def __init__(
        self,
        folder: str | Path,
        keep: int = 2,
        parallel: Parallel | None = None,
        asynchronous: bool = False,
    ) -> None:
        self.folder, self.keep, self.asynchronous = Path(folder), keep, asynchronous
        self.rank, self.world_size = (0, 1) if parallel is None else (parallel.rank, parallel.world_size)
        self._group: dist.ProcessGroup | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._under_way: tuple[Path, Future[None]] | None = None
        self._problem: UserError | None = None
        self._seed: int | None = None  # that of the run's first part

    def all(self) -> list[Path]:
        """Complete checkpoints, oldest first, as this rank sees them."""
        if not self.folder.is_dir():
            return []
        found = [path for path in self.folder.iterdir() if _NAME.fullmatch(path.name)]
        return sorted(found, key=_step)

    def latest(self) -> Path | None:
        """The newest complete checkpoint, the one under way included if it succeeds."""
        self._settle()
        found = self.all()
        step = self._first_rank_says(_step(found[-1]) if found else -1)
        return None if step < 0 else self._path(step)

    def save(
        self,
        step: int,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        state: Mapping[str, Any],
        wait: bool = False,
    ) -> Path:
        """Write the checkpoint of `step`; one that exists already is left as it is.

        An earlier one that is still being written is waited for. When the disk fails, that is said on stderr
        and training may go on; with `wait` it is an error.

        Args:
            state: plain values for `read_state`.
            wait: return when the checkpoint is complete.

        Raises:
            UserError: the disk failed, with `wait` only.
        """
        self._settle()
        target = self._path(step)
        if not self._first_rank_says(target.exists()):
            self._begin(target, step, model, optimizer, state, background=self.asynchronous and not wait)
        if wait:
            self.wait()
        return target

    def wait(self) -> None:
        """Return when the last checkpoint is complete.

        Raises:
            UserError: it could not be written.
        """
        self._settle()
        if self._problem is not None:
            raise self._problem

    def close(self) -> None:
        """Let the checkpoint under way come to its end, good or bad; for a run that ends by another error.

        Without it a run that goes on in the same process could meet the thread of the one before.
        """
        with suppress(Exception):
            self._settle()

    def read_state(self, path: Path) -> dict[str, Any]:
        """The plain values of a checkpoint, those given to `save` and its format, step, seed and ranks.

        Raises:
            UserError: not a checkpoint of this format.
        """
        return read_state(path)

    def load(self, path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Put a checkpoint's tensors into the model and the optimizer, and set the random generators.

        On as many ranks as wrote it, everything goes on bit for bit. On another number, every rank gets its
        part of the same values, and its generators start from (seed, step, rank).

        Raises:
            UserError: a damaged file, or tensors that do not fit the model.
        """
        self._settle()
        self._seed = self.read_state(path)["seed"]
        load_training(path, model, optimizer, self.rank, self.world_size, self._process_group())

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def _begin(
        self,
        target: Path,
        step: int,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        state: Mapping[str, Any],
        background: bool,
    ) -> None:
        tensors = model_tensors(model) | optimizer_tensors(model, optimizer)
        if self.rank > 0:
            # What every rank has alike is written by the first, and need not be copied by the others.
            tensors = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, DTensor)}
        random = generator_states(device_of(model))
        tensors |= {f"{RANDOM}{self.rank}.{name}": value for name, value in random.items()}
        parts = {name: local_tensor(tensor) for name, tensor in tensors.items()}
        if background:
            parts = {name: part.to("cpu", copy=True) for name, part in parts.items()}
        # As text at once: the loop goes on changing what `state` refers to.
        values = {
            "format": FORMAT,
            "step": step,
            "seed": torch.initial_seed() if self._seed is None else self._seed,
            "ranks": self.world_size,
            **state,
        }
        text = json.dumps(values, indent=1)

        def commit() -> None:
            (aside_of(target) / STATE).write_text(text, encoding="utf-8")
            finish_aside(target)
            # The new one is complete: an old one that cannot be removed is no failure.
            with suppress(OSError):
                for old in self.all()[: -self.keep]:
                    remove(old)

        writer = SafetensorsWriter(aside_of(target), self.rank, lambda: begin_aside(target), commit)
        silence_single_process()
        group = self._process_group()

        def write() -> None:
            dcp.save(
                dict(tensors),
                storage_writer=writer,
                planner=PartsPlanner(parts),
                process_group=group,
                no_dist=self.world_size == 1,
            )

        if background:
            self._under_way = (target, self._thread.submit(write))
        else:
            self._judge(target, write)

    def _settle(self) -> None:
        """Wait for the checkpoint under way, if any."""
        if self._under_way is not None:
            target, future = self._under_way
            self._under_way = None
            self._judge(target, future.result)

    def _judge(self, target: Path, finish: Callable[[], None]) -> None:
        """Finish a checkpoint; a failing disk is said and remembered, anything else is raised."""
        try:
            finish()
            self._problem = None
            return
        except CheckpointException as error:
            causes = [cause for cause, _ in error.failures.values()]
        if self.rank == 0:
            shutil.rmtree(aside_of(target), ignore_errors=True)
        for cause in causes:
            if not isinstance(cause, OSError):
                raise cause
        kept = self.all()
        self._problem = UserError(
            f"cannot write the checkpoint {target}: {causes[0]}; make room or repair the disk; "
            f"{f'the last good checkpoint is {kept[-1]}' if kept else 'there is no earlier checkpoint'}"
        )
        if self.rank == 0:
            # stderr may go to the same full disk.
            with suppress(OSError):
                print(f"WARNING: {self._problem}; training goes on", file=sys.stderr, flush=True)

    def _process_group(self) -> dist.ProcessGroup | None:
        """A group of its own on the CPU: a thread may not mix its messages with those of a training step."""
        if self.world_size > 1 and self._group is None:
            self._group = dist.new_group(backend="gloo")
        return self._group

    def _first_rank_says(self, number: int) -> int:
        """The first rank's number, on all ranks; a file system may show them different things."""
        group = self._process_group()
        if group is None:
            return int(number)
        said = torch.tensor([number])
        dist.broadcast(said, src=0, group=group)
        return int(said)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))
