"""Looking at a data set before a run: how long its texts are, and whether its videos decode."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from blip3v.data.isolated import Outcome, run_isolated
from blip3v.data.records import Record
from blip3v.video.decode import read_still, read_video


@dataclass(frozen=True)
class TextLengths:
    """Characters of all questions and answers of a record, over a data set.

    Attributes:
        mean: average.
        longest: (characters, source, id) of the longest ones, longest first.
    """

    mean: float
    longest: list[tuple[int, str, str]]


@dataclass(frozen=True)
class Decoded:
    """One video that was tried.

    Attributes:
        media: path of the video or image.
        seconds: for opening it and reading the frames.
        error: what is wrong with it, on one line with its path; None where nothing is.
    """

    media: str
    seconds: float
    error: str | None


def text_lengths(records: Iterable[Record], count: int = 3) -> TextLengths:
    """How long the texts are, and which are the `count` longest: what does not fit is cut off in training."""
    total = number = 0
    longest: list[tuple[int, str, str]] = []
    for record in records:
        number += 1
        size = sum(len(question) + len(answer) for question, answer in record.turns)
        total += size
        heapq.heappush(longest, (size, record.source or "", record.id))
        if len(longest) > count:
            heapq.heappop(longest)
    return TextLengths(total / max(1, number), sorted(longest, reverse=True))


def decode_some(
    records: Sequence[Record],
    count: int,
    workers: int = 2,
    num_frames: int = 8,
    seed: int = 0,
    on_done: Callable[[Decoded], None] | None = None,
    timeout: float = 60.0,
    memory: int | None = 4 << 30,
) -> list[Decoded]:
    """Decode the media of `count` random records, each once, in processes of their own.

    A video may be so broken that it takes its decoder down with it, hangs it, or asks for all memory; the
    others are decoded all the same.

    Args:
        on_done: told of each, in their order.
        timeout: seconds that one may take.
        memory: bytes that decoding one may take; None for no limit.
    """
    chosen = np.random.default_rng(seed).permutation(len(records))
    wanted: dict[str, Record] = {}
    for index in chosen:
        record = records[int(index)]
        if record.media is not None:
            wanted.setdefault(f"{record.media} {record.span}", record)
        if len(wanted) == count:
            break
    results = []
    for outcome in run_isolated(
        partial(decode_one, num_frames=num_frames), wanted.values(), workers, timeout, memory
    ):
        results.append(_decoded(outcome))
        if on_done is not None:
            on_done(results[-1])
    return results


def decode_one(record: Record, num_frames: int) -> None:
    """Read the frames of one record as training would; what is wrong with them is raised."""
    if record.image is not None:
        read_still(Path(record.image))
    elif record.video is not None:
        read_video(record.video, num_frames, span=record.span)


def _decoded(outcome: Outcome[Record, None]) -> Decoded:
    media, error = str(outcome.item.media), outcome.error
    if error and media not in error:  # no sentence of ours, which names the file and a remedy
        error = f"{media}: {error}; leave it out, or convert it to H.264 with ffmpeg"
    return Decoded(media, outcome.seconds, error or None)
