"""Files that are either whole or not there under their name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes the place of `path` once it is complete and on the disk.

    Its name keeps the suffixes, which tools look at, and is another one in each process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield aside
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def leftovers(folder: Path, suffix: str) -> list[Path]:
    """What processes that were killed in `written_aside` left of files whose names end with `suffix`."""
    return list(folder.glob(f".[0-9]*.*{suffix}"))
