"""Steps of the real trainer on one batch that lies ready, each with its time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.train.setups import SETUPS, forced
from blip3v.models.modeling import Blip3VideoForConditionalGeneration
from blip3v.profiling.synthetic import ReadyData
from blip3v.testing.timing import Timing
from blip3v.train.loop import Trainer
from blip3v.train.metrics import Metrics, StepNumbers
from blip3v.train.optimizer import build_adamw
from blip3v.train.parallel import SingleDevice
from blip3v.train.progress import Silent
from blip3v.train.recipe import Recipe

WARMUP = {"cuda": 4, "cpu": 1}
"""Steps that do not count: the first compiles, records graphs and allocates the optimizer's state."""

CPU_REPEATS = 3
"""Steps counted on a CPU at most: each takes about a second."""

ENOUGH, LEAST = 12.0, 5
"""Seconds of counted steps after which a row has enough of them, if it has the least number."""

RATE = 1e-8
"""A learning rate that leaves the model as it was checked, whatever is timed on it in turn."""


@dataclass(frozen=True)
class Steps:
    """timing: of a step. stall: seconds a step waits for its batch. peak_memory: bytes, on a GPU."""

    timing: Timing
    stall: float
    peak_memory: int | None


class Clock:
    """Marks between steps: events on a GPU, whose queue must not be waited for, else a monotonic clock."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self.marks: list[Any] = []

    def mark(self) -> None:
        if self.cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.marks.append(event)
        else:
            self.marks.append(time.perf_counter())

    def timing(self, skipped: int) -> Timing:
        """Of the intervals between marks, but for the first `skipped`."""
        if self.cuda:
            torch.cuda.synchronize()
        pairs = list(zip(self.marks, self.marks[1:]))[skipped:]
        if self.cuda:
            return Timing.of([a.elapsed_time(b) / 1e3 for a, b in pairs], "CUDA events between steps")
        return Timing.of([b - a for a, b in pairs], "time.perf_counter")


class Stalls(Metrics):
    """Keeps how long each step waited for its batch."""

    def __init__(self) -> None:
        super().__init__(display=Silent())
        self.seconds_each: list[float] = []

    def add(self, numbers: StepNumbers) -> None:
        self.seconds_each.append(numbers.stall)
        super().add(numbers)


def run_steps(
    model: Blip3VideoForConditionalGeneration,
    name: str,
    batch: dict[str, Any],
    samples: int,
    repeats: int,
    checkpointing: str,
) -> Steps:
    """Some steps of setup `name` to warm up, then at most `repeats` that are timed.

    Args:
        batch: of `samples` samples, on the host.
        checkpointing: which activations are computed again.

    Raises:
        UserError: the loss is not finite.
        OutOfMemoryError: the step does not fit on the GPU.
    """
    device = model.device
    warmup = WARMUP[device.type]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        repeats = min(repeats, CPU_REPEATS)
    recipe = SETUPS[name].recipe(
        model.config,
        device,
        batch_size=samples,
        max_steps=warmup + repeats,
        learning_rate=RATE,
        warmup_steps=0,
        # Reading a number makes a GPU's step wait; nobody asks for numbers here.
        log_every=warmup + repeats,
        checkpoint_every=0,
        activation_checkpointing=checkpointing,
    )
    clock, stalls = Clock(device), Stalls()

    def after(step: int, loss: Tensor) -> None:
        clock.mark()
        if step == warmup:
            counted.append(time.perf_counter())
        elif step >= warmup + LEAST and time.perf_counter() - counted[0] > ENOUGH:
            trainer.total_steps = step  # ends the run after this step, its numbers read and checked

    counted: list[float] = []
    trainer = trainer_of(model, recipe, batch, after, metrics=stalls)
    try:
        with forced(model, name):
            trainer.run()
    finally:
        model.zero_grad(set_to_none=True)
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else None
    return Steps(clock.timing(warmup - 1), median(stalls.seconds_each[warmup:]), peak)


def trainer_of(
    model: Blip3VideoForConditionalGeneration,
    recipe: Recipe,
    batch: dict[str, Any],
    on_step: Callable[[int, Tensor], None],
    metrics: Metrics | None = None,
    build_optimizer: Callable[..., torch.optim.Optimizer] = build_adamw,
) -> Trainer:
    """The trainer of `blip3v train`, on one device and the same batch in each step."""
    steps = recipe.max_steps or 1
    data = ReadyData(batch, recipe.batch_size * steps, model.device.type == "cuda")
    return Trainer(
        model,
        recipe,
        data,
        data.collate,
        parallel=SingleDevice(model.device),
        build_optimizer=build_optimizer,
        metrics=Metrics(display=Silent()) if metrics is None else metrics,
        on_step=on_step,
    )
