"""What a run measures, as JSON lines: loss, speed, MFU, waiting for data, memory, time left."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from blip3v.files import written_aside
from blip3v.models.cost.data_sheet import peak_flops
from blip3v.train.parallel import Parallel
from blip3v.train.progress import Display, display_for_terminal

SMOOTHING = 0.98
"""Weight of the past in the smoothed loss, per step."""


@dataclass(frozen=True)
class StepNumbers:
    """A finished step. The first four are of all processes together, the others of this one alone.

    Attributes:
        loss: mean over the step's labels.
        grad_norm: before clipping.
        samples: in the step.
        label_tokens: labels that counted.
        tokens: computed, padding included.
        flops: needed, see `blip3v.models.cost.step_flops`.
        stall: seconds waited for batches.
        skipped: samples left out because they are broken.
    """

    loss: float
    grad_norm: float
    samples: int
    label_tokens: int = 0
    tokens: int = 0
    flops: int = 0
    stall: float = 0.0
    skipped: int = 0


class Metrics:
    """Takes every step's numbers and writes a line to the log every `log_every` steps.

    A line holds, for the steps since the line before: loss (mean), grad_norm (before clipping, mean),
    samples_per_second, tokens_per_second (computed, of all processes), mfu (model FLOPs utilisation, formula
    in `blip3v.models.cost.MFU_FORMULA`; null where no data sheet is known, so on a CPU, or no FLOPs are
    counted), stall_share (time waited for data / time, mean over the processes); and as of now: step (steps
    done), samples, label_tokens and skipped (so far), smoothed_loss (exponential mean), learning_rate,
    memory_bytes (most so far: tensors on the first process's GPU, or the first process as a whole), seconds
    (of training, over all resumed parts), eta_seconds.

    Every process makes the same calls; the first one alone writes and shows.

    Args:
        log: path of the JSON lines file, appended to; None writes none.
        display: shows the same numbers to a person; by default a progress bar on a terminal, otherwise plain
            lines.
        sinks: get the same lines, for example TensorBoard.
    """

    def __init__(
        self, log: str | Path | None = None, display: Display | None = None, sinks: Sequence[Display] = ()
    ) -> None:
        self.log = None if log is None else Path(log)
        self.displays = [display_for_terminal() if display is None else display, *sinks]
        self.smoothed_loss: float | None = None
        self.parallel: Parallel | None = None
        self._smoothing_weight = 0.0
        self._seconds_before = 0.0
        self._samples, self._samples_logged, self._label_tokens, self._skipped = 0, 0, 0, 0
        # Of this process and not summed yet.
        self._tokens, self._flops, self._stall, self._skipped_here = 0, 0, 0.0, 0
        self._losses: list[float] = []
        self._norms: list[float] = []

    def start(self, name: str, step: int, total_steps: int, parallel: Parallel | None = None) -> None:
        """Begin at `step` (0, or where a checkpoint stopped); lines of the log behind it are dropped.

        Args:
            parallel: the processes of the run; None is one process.
        """
        self.total_steps, self.first_step, self.parallel = total_steps, step, parallel
        self._started = self._logged_at = time.perf_counter()
        if not self._writes:
            return
        if self.log is not None:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            drop_lines_after(self.log, step)
        for display in self.displays:
            display.start(name, step, total_steps)

    def add(self, numbers: StepNumbers) -> None:
        """Numbers of the next finished step."""
        loss = numbers.loss
        self._smoothing_weight = SMOOTHING * self._smoothing_weight + (1 - SMOOTHING)
        past = loss if self.smoothed_loss is None else self.smoothed_loss
        self.smoothed_loss = past + (loss - past) * (1 - SMOOTHING) / self._smoothing_weight
        self._losses.append(loss)
        self._norms.append(numbers.grad_norm)
        self._samples += numbers.samples
        self._label_tokens += numbers.label_tokens
        self._tokens += numbers.tokens
        self._flops += numbers.flops
        self._stall += numbers.stall
        self._skipped_here += numbers.skipped

    def write(self, step: int, learning_rate: float) -> None:
        """Write a line for the steps added since the last one, `step` steps being done."""
        now = time.perf_counter()
        seconds, since = now - self._started, max(now - self._logged_at, 1e-9)
        line = {
            "step": step,
            "samples": self._samples,
            "loss": sum(self._losses) / len(self._losses),
            "smoothed_loss": self.smoothed_loss,
            "learning_rate": learning_rate,
            "grad_norm": sum(self._norms) / len(self._norms),
            "samples_per_second": (self._samples - self._samples_logged) / since,
            **self._speed(since),
            "label_tokens": self._label_tokens,
            "skipped": self._skipped_so_far(),
            "memory_bytes": peak_memory(self.parallel.device if self.parallel else None),
            "seconds": self._seconds_before + seconds,
            "eta_seconds": seconds / max(1, step - self.first_step) * (self.total_steps - step),
        }
        self._losses, self._norms = [], []
        self._samples_logged, self._logged_at = self._samples, now
        if not self._writes:
            return
        if self.log is not None:
            with self.log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        for display in self.displays:
            display.show(line)

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint, equal on every process."""
        return {
            "smoothed_loss": self.smoothed_loss,
            "smoothing_weight": self._smoothing_weight,
            "seconds": self.seconds,
            "samples": self._samples,
            "label_tokens": self._label_tokens,
            "skipped": self._skipped_so_far(),
            "losses": self._losses,
            "norms": self._norms,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Inverse of `state`; call before `start`."""
        self.smoothed_loss, self._smoothing_weight = state["smoothed_loss"], state["smoothing_weight"]
        self._seconds_before = state["seconds"]
        # The unlogged steps were timed by the run that is gone; speed is measured from here on.
        self._samples = self._samples_logged = state["samples"]
        self._label_tokens, self._skipped = state["label_tokens"], state["skipped"]
        self._losses, self._norms = list(state["losses"]), list(state["norms"])

    @property
    def seconds(self) -> float:
        """Training time so far, over all resumed parts."""
        return self._seconds_before + time.perf_counter() - self._started

    def finish(self) -> None:
        if self._writes:
            for display in self.displays:
                display.finish()

    @property
    def _writes(self) -> bool:
        return self.parallel is None or self.parallel.rank == 0

    def _total(self, value: int) -> int:
        return value if self.parallel is None else self.parallel.total(value)

    def _speed(self, since: float) -> dict[str, float | None]:
        """What is summed over the processes only when a line is due: once in many steps it costs nothing."""
        processes = 1 if self.parallel is None else self.parallel.world_size
        # Whole numbers travel, of a size that 64 bits hold for any run.
        tokens, megaflops = self._total(self._tokens), self._total(round(self._flops / 1e6))
        waited = self._total(round(self._stall * 1e6)) / 1e6
        self._tokens, self._flops, self._stall = 0, 0, 0.0
        peak = device_peak(self.parallel.device) if self.parallel is not None else None
        return {
            "tokens_per_second": tokens / since,
            "mfu": megaflops * 1e6 / (since * processes * peak) if peak and megaflops else None,
            "stall_share": min(1.0, waited / processes / since),
        }

    def _skipped_so_far(self) -> int:
        self._skipped += self._total(self._skipped_here)
        self._skipped_here = 0
        return self._skipped


def device_peak(device: torch.device) -> float | None:
    """Dense bfloat16 FLOP/s of the data sheet; None for a CPU or a GPU without an entry."""
    return peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


def peak_memory(device: torch.device | None) -> int:
    """Most bytes so far: of tensors on a GPU, else of the whole process."""
    if device is not None and device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a log; a last line that a killed run left half-written is skipped."""
    lines = []
    for text in Path(path).read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def drop_lines_after(path: Path, step: int) -> None:
    """Keep the lines of a log up to `step`: a resumed run writes the later ones again."""
    if not path.exists():
        return
    kept = [json.dumps(line) + "\n" for line in read_log(path) if line["step"] <= step]
    with written_aside(path) as aside:
        aside.write_text("".join(kept), encoding="utf-8")
