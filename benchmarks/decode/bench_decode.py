"""Decoding of video files by what a user could take: `blip3v bench decode`.

Files are opened, decoded and converted to RGB in main memory, with as many threads for everybody. Two
directions: the 8 frames, evenly spread, that the model looks at, and all frames in order. Files are read once
before they are timed, so they come from the page cache.

Beside the common fields a row holds: frames (decoded into RGB), threads, clips_per_s, frames_per_s,
first_frame_ms (opening and the first frame alone, median), cpu_ms (of all threads of the process, for a
clip), difference (mean absolute difference to PyAV's pixels, of 255). Correct are as many frames as were
asked for, which differ from PyAV's by no more than MOST: decoders agree bit by bit, but conversions from
YUV round and interpolate colours in their own ways.

decord 0.6.0 fails here on hevc with open groups of pictures, which libx265 writes unasked: behind the second
key frame it gives frames that lie three later than those asked for. In order, it is right.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.decode.clips import CODECS, Clip, described, made
from benchmarks.decode.readers import READERS, Read, version_of
from benchmarks.measure import reason
from blip3v.errors import UserError
from blip3v.testing.timing import Timing
from blip3v.video import uniform_indices

MOST = 3.0
"""Mean absolute difference of pixels, of 255."""

SAMPLED = 8
FIRST_REPEATS = 5
DIRECTIONS = ("8 frames", "all frames")


def decode_rows(
    device: str = "cpu",
    codecs: Sequence[str] = (),
    clips: Sequence[Path] = (),
    peers: Sequence[str] = (),
    directions: Sequence[str] = (),
    repeats: int = 20,
    threads: int = 1,
) -> Iterator[dict[str, Any]]:
    """The rows, codec by codec, as they are measured; empty choices mean all of them.

    device: all readers decode on the CPU; it is only named in the command. clips: files to read instead of
    those that are made here, each under its own name.

    Raises:
        UserError: no such codec, or a clip that cannot be read.
    """
    unknown = [codec for codec in codecs if codec not in CODECS]
    if unknown:
        raise UserError(f"no codec {unknown[0]!r}: choose from {', '.join(CODECS)}")
    with tempfile.TemporaryDirectory(prefix="blip3v-decode-") as folder:
        found = map(described, clips) if clips else (made(name, Path(folder)) for name in codecs or CODECS)
        for clip in found:
            for direction in directions or DIRECTIONS:
                for row in _rows(clip, direction, peers or tuple(READERS), repeats, threads):
                    source = "" if clips else f" --op {clip.name}"
                    yield row | {
                        "command": f"blip3v bench decode --device {device}{source} "
                        f"--peer '{row['backend']}' --direction '{direction}' --repeats {repeats}"
                    }


def _rows(
    clip: Clip, direction: str, peers: Sequence[str], repeats: int, threads: int
) -> Iterator[dict[str, Any]]:
    every = np.arange(clip.frames)
    indices = (every if direction == "all frames" else uniform_indices(clip.frames, SAMPLED)).tolist()
    expected: np.ndarray | str = clip.failure
    if not clip.failure:
        try:
            expected = READERS["pyav"](clip.path, indices, threads)
        except Exception as error:  # without PyAV's frames nobody can be compared
            expected = f"PyAV gives nothing to compare with, {reason(error)}"
    for peer in peers:
        yield {
            "level": "decode",
            "op": clip.name,
            "case": f"{clip.width}x{clip.height}_{clip.frames}_frames",
            "dtype": "uint8",
            "direction": direction,
            "backend": peer,
            "version": version_of(peer),
            "frames": len(indices),
            "threads": threads,
            **measure(READERS[peer], clip.path, indices, expected, threads, repeats),
        }


def measure(
    read: Read, path: Path, indices: Sequence[int], expected: np.ndarray | str, threads: int, repeats: int
) -> dict[str, Any]:
    """The measured part of a row; or, where there is no time, the reason.

    expected: PyAV's frames; or why there is no file.
    """
    if isinstance(expected, str):
        return {"reason": expected}
    try:
        frames = read(path, indices, threads)
    except Exception as error:  # not installed, or it cannot decode this
        return {"reason": reason(error)}
    if frames.shape != expected.shape:
        return {"ok": False, "reason": f"frames {list(frames.shape)}, expected {list(expected.shape)}"}
    exact = expected.astype(np.float64)
    difference = float(np.abs(frames - exact).mean())
    row: dict[str, Any] = {
        "error": float(np.linalg.norm(frames - exact) / np.linalg.norm(exact)),
        "difference": difference,
        "ok": difference <= MOST,
    }
    if not row["ok"]:
        return row | {"reason": f"pixels differ from PyAV's by {difference:.1f} of 255, more than {MOST}"}
    clip, cpu = _time(lambda: read(path, indices, threads), repeats)
    first, _ = _time(lambda: read(path, [0], threads), min(repeats, FIRST_REPEATS))
    return row | {
        "median_ms": clip.median * 1e3,
        "p20_ms": clip.p20 * 1e3,
        "p80_ms": clip.p80 * 1e3,
        "repeats": clip.repeats,
        "clock": clip.clock,
        "clips_per_s": 1 / clip.median,
        "frames_per_s": len(indices) / clip.median,
        "first_frame_ms": first.median * 1e3,
        "cpu_ms": cpu * 1e3,
    }


def _time(call: Callable[[], object], repeats: int) -> tuple[Timing, float]:
    """Times of a call, and the mean of the processor's seconds in it."""
    seconds, processor = [], time.process_time()
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return Timing.of(seconds, "time.perf_counter"), (time.process_time() - processor) / repeats
