"""What is done with each file of the torture run, in a process of its own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.decode.files.painted import read_numbers
from blip3v.errors import UserError
from blip3v.video import read_video

FRAMES = 8


class Case(NamedTuple):
    """decoder: its name. path: of the file. kind: of the damage; GOOD for a good file in between."""

    decoder: str
    path: Path
    kind: str


GOOD = "good"


class Verdict(NamedTuple):
    """refusal: the UserError's message, empty where frames came. numbers: painted into the frames."""

    refusal: str
    numbers: list[int]


def eight_frames(case: Case) -> Verdict:
    """Frames from all over the file, as training reads them; anything but a UserError is raised."""
    try:
        video = read_video(case.path, FRAMES, decoder=case.decoder)
    except UserError as error:
        return Verdict(str(error), [])
    return Verdict("", read_numbers(video.frames))


class Leak(NamedTuple):
    """Opens again and again: `opens` times after `warm_up` times that do not count."""

    decoder: str
    paths: Sequence[Path]
    opens: int = 1000
    warm_up: int = 100


def growth(leak: Leak) -> float:
    """MB by which this process's resident memory grows; each open reads eight frames, or is refused."""
    before = 0.0
    for number in range(leak.warm_up + leak.opens):
        if number == leak.warm_up:
            before = _resident()
        eight_frames(Case(leak.decoder, leak.paths[number % len(leak.paths)], ""))
    return _resident() - before


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
