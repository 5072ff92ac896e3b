"""Steps of the real trainer on one batch that lies ready, each with its time."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from blip3v.profiling.presets import TEXT_TOKENS
from blip3v.profiling.synthetic import ReadyData, synthetic_batch
from blip3v.testing.timing import Timing
from blip3v.train.loop import Trainer
from blip3v.train.metrics import Metrics
from blip3v.train.parallel import SingleDevice
from blip3v.train.progress import Silent
from blip3v.train.recipe import Recipe

WARMUP = {"cuda": 3, "cpu": 1}
"""Steps that do not count: the first allocates the optimizer's state."""

CPU_REPEATS = 3
"""Steps counted on a CPU at most: each takes about a second."""


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


def run_steps(model: nn.Module, preset: str, batch: int, repeats: int, checkpointing: bool) -> Steps:
    """Some steps to warm up, then `repeats` that are timed.

    Raises:
        UserError: the loss is not finite.
        OutOfMemoryError: the step does not fit on the GPU.
    """
    device = next(model.parameters()).device
    warmup = WARMUP[device.type]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        repeats = min(repeats, CPU_REPEATS)
    try:
        clock, data = _train(model, preset, batch, warmup + repeats, checkpointing)
    finally:
        model.zero_grad(set_to_none=True)
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else None
    return Steps(clock.timing(warmup - 1), data.seconds / (warmup + repeats), peak)


def _train(
    model: nn.Module, preset: str, batch: int, steps: int, checkpointing: bool
) -> tuple[Clock, ReadyData]:
    device = next(model.parameters()).device
    config: Any = model.config
    data = ReadyData(
        synthetic_batch(config, TEXT_TOKENS[preset], batch), batch * steps, device.type == "cuda"
    )
    recipe = Recipe(
        "benchmark",
        num_frames=config.num_frames,
        video_tokens=config.video_tokens,
        batch_size=batch,
        max_steps=steps,
        warmup_steps=0,
        # Reading a number makes a GPU's step wait; nobody asks for numbers here.
        log_every=steps,
        checkpoint_every=0,
        gradient_checkpointing=checkpointing,
    )
    clock = Clock(device)
    trainer = Trainer(
        model,
        recipe,
        data,
        data.collate,
        parallel=SingleDevice(device),
        metrics=Metrics(display=Silent()),
        on_step=lambda step, loss: clock.mark(),
    )
    trainer.run()
    return clock, data
