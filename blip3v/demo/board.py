"""Progress of everything that runs: bars on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


class Board:
    """One line per task, `report` as in `blip3v.demo.workers`; `seconds` has the time of every finished part.

    Args:
        parts: how many parts there will be.
        quiet: seconds between two plain lines of one task where standard error is no terminal.
    """

    def __init__(self, parts: int, quiet: float = 15.0) -> None:
        self._parts = parts
        self.console = Console(stderr=True, highlight=False)
        self.seconds: dict[str, float] = {}
        self._quiet = quiet
        self._bars: Progress | None = None
        self._tasks: dict[str, int] = {}
        self._printed: dict[str, float] = {}

    def say(self, text: str) -> None:
        """A line for the person who watches."""
        self.console.print(text, markup=False, soft_wrap=True)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Show the tasks reported within, and keep the time they took."""
        started = time.monotonic()
        self._tasks, self._printed = {}, {}
        self.console.print(f"[bold]{len(self.seconds) + 1}/{self._parts} {name}[/bold]")
        if sys.stderr.isatty():
            self._bars = Progress(
                TextColumn("  {task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%"),
                TimeElapsedColumn(),
                TextColumn("{task.fields[words]}"),
                console=self.console,
            )
            self._bars.start()
        try:
            yield
        finally:
            if self._bars is not None:
                self._bars.stop()
                self._bars = None
            self.seconds[name] = time.monotonic() - started

    def report(self, task: str, done: float, total: float, words: str = "") -> None:
        """`done` of `total` in a task, and a few words such as its loss."""
        if self._bars is not None:
            if task not in self._tasks:
                self._tasks[task] = self._bars.add_task(task, total=total, words="")
            self._bars.update(self._tasks[task], completed=done, total=total, words=words)  # type: ignore[arg-type]
            return
        now = time.monotonic()
        if done < total and now - self._printed.get(task, -float("inf")) < self._quiet:
            return
        self._printed[task] = now
        self.say(f"  {task}: {done:g}/{total:g}  {words}".rstrip())
