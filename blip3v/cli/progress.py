"""How far a command of `blip3v data` is, for a person."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blip3v.data.mixture import Mixture


def read_source(source: Path, seed: int, console: Any, may_be_empty: bool = False) -> Mixture:
    """`read_mixture`, saying where it is."""
    from blip3v.data.mixture import read_mixture

    with console.status(f"reading {source}") as status:

        def say(name: str, count: int) -> None:
            status.update(f"{name}: {count:,} entries")

        return read_mixture(source, seed, progress=say, may_be_empty=may_be_empty)


@contextmanager
def bar(console: Any, words: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar, as what to call with each step's count."""
    from rich.progress import Progress

    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(words, total=total)
        yield lambda count: progress.advance(task, count)
