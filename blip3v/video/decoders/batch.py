"""Frames of many files at once, by any decoder."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from blip3v.video.decoders import decoder_named
from blip3v.video.decoders.dali import read_batch as read_batch_with_dali
from blip3v.video.decoders.protocol import DecodeError, Limits, VideoDecoder


def read_batch(
    requests: Sequence[tuple[Path, Sequence[int] | np.ndarray]],
    decoder: str = "auto",
    threads: int = 4,
    limits: Limits | None = None,
) -> list[np.ndarray | DecodeError]:
    """Frames of many files; what is wrong with one costs the others nothing.

    A file that crashes its decoder ends the process all the same: for files that nobody vouches for there is
    `blip3v.data.isolated.run_isolated`.

    Args:
        requests: files, and the numbers of the frames wanted of each, int [T]; T may differ.
        decoder: as in `blip3v.video.read_video`. DALI decodes all files in one run, and leaves what it
            does not decode to PyAV; the others decode `threads` files beside each other.

    Returns:
        For each request uint8 [T, H, W, 3], RGB, upright, or what is wrong with the file.

    Raises:
        IndexError: a frame that a file does not have.
        UserError: no such decoder, or it cannot be used here.
    """
    chosen, allowed = decoder_named(decoder), limits or Limits()
    if chosen.name == "dali":
        plain = [(path, np.asarray(indices, dtype=np.int64)) for path, indices in requests]
        return read_batch_with_dali(plain, limits=allowed, threads=threads)
    # Threads, not processes: FFmpeg works without Python's lock, and frames are large to hand over.
    with ThreadPoolExecutor(max(1, threads)) as pool:
        return list(pool.map(lambda request: _frames(chosen, request[0], request[1], allowed), requests))


def _frames(
    decoder: VideoDecoder, path: Path, indices: Sequence[int] | np.ndarray, limits: Limits
) -> np.ndarray | DecodeError:
    try:
        with decoder.open(path, limits=limits) as video:
            return video.frames_at(indices)
    except DecodeError as error:
        return error
