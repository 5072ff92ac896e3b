"""Folders that are either complete or absent."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

_ASIDE = ".unfinished-"


def write_aside(target: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a hidden folder beside `target`, flush it to the disk and rename it to `target`.

    An earlier `target` is replaced. What killed attempts left under hidden names is removed.
    """
    aside = begin_aside(target)
    write(aside)
    finish_aside(target)


def begin_aside(target: Path) -> Path:
    """An empty hidden folder in which `target` is made; what killed attempts left is removed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for leftover in target.parent.glob(f"{_ASIDE}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    aside = aside_of(target)
    aside.mkdir()
    return aside


def finish_aside(target: Path) -> None:
    """Flush the hidden folder of `target` and rename it to `target`, replacing an earlier one."""
    aside = aside_of(target)
    for path in [*sorted(aside.rglob("*")), aside]:
        flush(path)
    if target.exists():
        remove(target)
    aside.rename(target)
    flush(target.parent)


def aside_of(target: Path) -> Path:
    """The hidden folder in which `target` is made."""
    return target.with_name(_ASIDE + target.name)


def remove(folder: Path) -> None:
    """Delete a folder, hiding it first: killed half-way, this leaves no half folder under a good name."""
    doomed = folder.with_name(f"{_ASIDE}old-{folder.name}")
    folder.rename(doomed)
    # What cannot be deleted is hidden, and tried again before the next folder is made.
    shutil.rmtree(doomed, ignore_errors=True)


def flush(path: Path) -> None:
    """Have the disk hold a file's contents, or a folder's list of names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
