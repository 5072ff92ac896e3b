"""Looking at a data set before a run: how long its texts are, and whether its videos decode."""

from __future__ import annotations

import heapq
import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

import numpy as np

from blip3v.data.records import Record
from blip3v.errors import UserError
from blip3v.video.decode import read_image, read_video

CRASHED = "the process that decoded it died; leave it out, or convert it to H.264 with ffmpeg"


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
        error: what is wrong with it, None where nothing is.
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
) -> list[Decoded]:
    """Decode the media of `count` random records, each once, in processes of their own.

    A video may be so broken that it takes its decoder down with it; the others are decoded all the same.

    Args:
        on_done: told of each, as it is done.
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
    for result in _decode_all(list(wanted.values()), workers, num_frames):
        results.append(result)
        if on_done is not None:
            on_done(result)
    return results


def decode_one(record: Record, num_frames: int) -> Decoded:
    """Read the frames of one record as training would."""
    begin, error = time.perf_counter(), None
    try:
        if record.image is not None:
            read_image(record.image)
        elif record.video is not None:
            read_video(record.video, num_frames, span=record.span)
    except UserError as reason:
        error = str(reason)
    except Exception as reason:  # whatever a decoder raises is a broken video here
        error = f"{type(reason).__name__}: {reason}"
    return Decoded(str(record.media), time.perf_counter() - begin, error)


def _decode_all(records: Sequence[Record], workers: int, num_frames: int) -> Iterator[Decoded]:
    doubtful: list[Record] = []
    with _pool(workers) as pool:
        running: dict[Future[Decoded], Record] = {
            pool.submit(decode_one, record, num_frames): record for record in records
        }
        for future in as_completed(running):
            try:
                yield future.result()
            except BrokenProcessPool:
                doubtful.append(running[future])
    # One death ends a whole pool and does not say whose it was: the rest one by one, each with its own.
    for record in doubtful:
        with _pool(1) as pool:
            try:
                yield pool.submit(decode_one, record, num_frames).result()
            except BrokenProcessPool:
                yield Decoded(str(record.media), 0.0, CRASHED)


def _pool(workers: int) -> ProcessPoolExecutor:
    # A fork of this process could inherit a lock that a thread of it holds; the server has no threads.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["blip3v.data.check"])
    return ProcessPoolExecutor(workers, mp_context=context)
