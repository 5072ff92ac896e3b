"""What a run measures: loss, gradient norm, speed and time left, as JSON lines."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from blip3v.train.progress import Display, display_for_terminal

SMOOTHING = 0.98
"""Weight of the past in the smoothed loss, per step."""


class Metrics:
    """Takes every step's numbers and writes a line to the log every `log_every` steps.

    A line holds: step (steps done), samples (seen so far), loss (mean over the steps since the last line),
    smoothed_loss (exponential mean), learning_rate, grad_norm (before clipping, mean), samples_per_second
    (since the last line), seconds (of training, over all resumed parts), eta_seconds.

    Args:
        log: path of the JSON lines file, appended to; None writes none.
        display: shows the same numbers to a person; by default a progress bar on a terminal, otherwise plain
            lines.
    """

    def __init__(self, log: str | Path | None = None, display: Display | None = None) -> None:
        self.log = None if log is None else Path(log)
        self.display = display_for_terminal() if display is None else display
        self.smoothed_loss: float | None = None
        self._smoothing_weight = 0.0
        self._seconds_before, self._samples, self._samples_logged = 0.0, 0, 0
        self._losses: list[float] = []
        self._norms: list[float] = []

    def start(self, name: str, step: int, total_steps: int) -> None:
        """Begin at `step` (0, or where a checkpoint stopped); lines of the log behind it are dropped."""
        self.total_steps, self.first_step = total_steps, step
        self._started = self._logged_at = time.perf_counter()
        if self.log is not None:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            drop_lines_after(self.log, step)
        self.display.start(name, step, total_steps)

    def add(self, losses: list[float], norms: list[float], samples: int) -> None:
        """Numbers of one or more finished steps, in order."""
        for loss in losses:
            self._smoothing_weight = SMOOTHING * self._smoothing_weight + (1 - SMOOTHING)
            past = loss if self.smoothed_loss is None else self.smoothed_loss
            self.smoothed_loss = past + (loss - past) * (1 - SMOOTHING) / self._smoothing_weight
        self._losses += losses
        self._norms += norms
        self._samples += samples

    def write(self, step: int, learning_rate: float) -> None:
        """Write a line for the steps added since the last one, `step` steps being done."""
        now = time.perf_counter()
        seconds = now - self._started
        line = {
            "step": step,
            "samples": self._samples,
            "loss": sum(self._losses) / len(self._losses),
            "smoothed_loss": self.smoothed_loss,
            "learning_rate": learning_rate,
            "grad_norm": sum(self._norms) / len(self._norms),
            "samples_per_second": (self._samples - self._samples_logged) / max(now - self._logged_at, 1e-9),
            "seconds": self._seconds_before + seconds,
            "eta_seconds": seconds / max(1, step - self.first_step) * (self.total_steps - step),
        }
        self._losses, self._norms = [], []
        self._samples_logged, self._logged_at = self._samples, now
        if self.log is not None:
            with self.log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        self.display.show(line)

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {
            "smoothed_loss": self.smoothed_loss,
            "smoothing_weight": self._smoothing_weight,
            "seconds": self.seconds,
            "samples": self._samples,
            "losses": self._losses,
            "norms": self._norms,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Inverse of `state`; call before `start`."""
        self.smoothed_loss, self._smoothing_weight = state["smoothed_loss"], state["smoothing_weight"]
        self._seconds_before = state["seconds"]
        # The unlogged steps were timed by the run that is gone; speed is measured from here on.
        self._samples = self._samples_logged = state["samples"]
        self._losses, self._norms = list(state["losses"]), list(state["norms"])

    @property
    def seconds(self) -> float:
        """Training time so far, over all resumed parts."""
        return self._seconds_before + time.perf_counter() - self._started

    def finish(self) -> None:
        self.display.finish()


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
    aside = path.with_name(f".{path.name}.unfinished")
    aside.write_text("".join(kept), encoding="utf-8")
    os.replace(aside, path)
