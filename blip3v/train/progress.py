"""A run's progress for a person: a bar on a terminal, otherwise a plain line now and then."""

from __future__ import annotations

import sys
import time
from typing import Any, Protocol, TextIO


class Display(Protocol):
    """Shows the lines of `Metrics`, or passes them on."""

    def start(self, name: str, step: int, total_steps: int) -> None: ...

    def show(self, line: dict[str, Any]) -> None: ...

    def finish(self) -> None: ...


def summary(line: dict[str, Any]) -> str:
    """A log line in words; what a line does not know is left out."""
    parts = [f"loss {line['smoothed_loss']:.3f}", f"{line['samples_per_second']:.1f} samples/s"]
    if line.get("tokens_per_second"):
        parts.append(f"{line['tokens_per_second']:.0f} tokens/s")
    if line.get("mfu") is not None:
        parts.append(f"MFU {line['mfu']:.1%}")
    if line.get("stall_share") is not None:
        parts.append(f"waiting for data {line['stall_share']:.0%}")
    if line.get("memory_bytes"):
        parts.append(f"{line['memory_bytes'] / 2**30:.1f} GiB")
    if line.get("skipped"):
        parts.append(f"skipped {line['skipped']}")
    parts += [f"lr {line['learning_rate']:.1e}", f"ETA {clock(line['eta_seconds'])}"]
    return "  ".join(parts)


def clock(seconds: float) -> str:
    """Seconds as 4:05 or 1:04:05."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def display_for_terminal() -> Display:
    """A bar where standard error is a terminal, plain lines where it is a file or a pipe."""
    return ProgressBar() if sys.stderr.isatty() else PlainLines()


class Silent:
    """Shows nothing."""

    def start(self, name: str, step: int, total_steps: int) -> None:
        pass

    def show(self, line: dict[str, Any]) -> None:
        pass

    def finish(self) -> None:
        pass


class PlainLines:
    """The first and the last line, and between them one at most every `seconds` seconds."""

    def __init__(self, seconds: float = 10.0, file: TextIO | None = None) -> None:
        self.seconds, self.file = seconds, file

    def start(self, name: str, step: int, total_steps: int) -> None:
        self.name, self.total_steps = name, total_steps
        self._printed_at = -float("inf")

    def show(self, line: dict[str, Any]) -> None:
        now = time.monotonic()
        if now - self._printed_at < self.seconds and line["step"] < self.total_steps:
            return
        self._printed_at = now
        text = f"{self.name}: step {line['step']}/{self.total_steps}  {summary(line)}"
        print(text, file=self.file or sys.stderr, flush=True)

    def finish(self) -> None:
        pass


class ProgressBar:
    """One line of the terminal, drawn by rich."""

    def start(self, name: str, step: int, total_steps: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[summary]}"),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task(name, total=total_steps, completed=step, summary="")
        self._bar.start()

    def show(self, line: dict[str, Any]) -> None:
        self._bar.update(self._task, completed=line["step"], summary=summary(line))

    def finish(self) -> None:
        self._bar.stop()
