"""The lines of `Metrics` for TensorBoard, where that package is installed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from blip3v.train.progress import Display, Silent

NAMES = {
    "loss": "loss/mean",
    "smoothed_loss": "loss/smoothed",
    "learning_rate": "optimizer/learning_rate",
    "grad_norm": "optimizer/grad_norm",
    "samples_per_second": "speed/samples_per_second",
    "tokens_per_second": "speed/tokens_per_second",
    "mfu": "speed/mfu",
    "stall_share": "speed/stall_share",
    "memory_bytes": "memory/bytes",
    "samples": "progress/samples",
    "label_tokens": "progress/label_tokens",
    "skipped": "progress/skipped",
}
"""Key of a line -> name of a curve; what stands before the slash is a section of the page."""


def tensorboard_sinks(folder: Path) -> list[Display]:
    """A sink that writes to `folder`; without the package, one that says so on standard error."""
    return [TensorBoard(folder) if importlib.util.find_spec("tensorboard") else Absent()]


class Absent(Silent):
    """Says, in the one process that would have written, that there will be no curves."""

    def start(self, name: str, step: int, total_steps: int) -> None:
        print(
            "no TensorBoard curves (the log has the same numbers); for curves: pip install 'blip3v[train]'",
            file=sys.stderr,
        )


class TensorBoard:
    """Writes each number of a line as a curve over steps; one file per start of the run.

    A resumed run declares the steps behind its checkpoint void, so a curve never turns back on itself.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def start(self, name: str, step: int, total_steps: int) -> None:
        # It imports much and opens a file: only in the process that writes.
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(self.folder), purge_step=step + 1)

    def show(self, line: dict[str, Any]) -> None:
        for key, name in NAMES.items():
            if line.get(key) is not None:
                self._writer.add_scalar(name, line[key], line["step"])
        # Lines are rare; what a killed run has shown is then on disk.
        self._writer.flush()

    def finish(self) -> None:
        self._writer.close()
