"""Whether a decoder gives the right frames of a file whose content is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import av
import numpy as np

from benchmarks.decode.files.painted import read_numbers
from benchmarks.decode.files.writing import Made
from blip3v.video.decoders.protocol import DecodeError, OpenVideo, VideoDecoder, WrongCount

OK, REFUSED, WRONG = "ok", "refused", "wrong"

MOST = 3.0
"""Mean absolute difference of pixels from PyAV's frames decoded in order, of 255."""

TOLERANCE = 1e-3
"""Seconds by which a time may be off."""

COMPARED = 2000
"""Files with more frames are checked by their numbers only: decoding all of them takes a minute."""


@dataclass(frozen=True)
class Cell:
    """What one decoder made of one file.

    Attributes:
        outcome: OK; REFUSED with a DecodeError that names the file; or WRONG, in silence or with another
            error.
        note: what is wrong, or the message.
        difference: mean absolute difference of pixels, of 255; None where nothing was compared.
    """

    outcome: str
    note: str = ""
    difference: float | None = None


def check(decoder: VideoDecoder, made: Made, reference: np.ndarray | None) -> Cell:
    """Frames in order, out of order and repeated; their number, their times, their size and their pixels.

    reference: `in_order`'s frames, or None to compare no pixels.
    """
    try:
        with decoder.open(made.path) as video:
            return _compare(video, made, reference)
    except WrongCount:
        try:
            with decoder.open(made.path, exact=True) as video:
                return _compare(video, made, reference)
        except DecodeError as error:
            return _refusal(error, made)
    except DecodeError as error:
        return _refusal(error, made)
    except Exception as error:  # a table has a cell for every file
        return Cell(WRONG, f"{type(error).__name__}: {error}")


def _refusal(error: DecodeError, made: Made) -> Cell:
    named = made.path.name in str(error)
    return Cell(REFUSED if named else WRONG, str(error) if named else f"does not name the file: {error}")


def _compare(video: OpenVideo, made: Made, reference: np.ndarray | None) -> Cell:
    info, count = video.info, len(made.numbers)
    if info.num_frames != count:
        return Cell(WRONG, f"{info.num_frames} frames, holds {count}")
    late = float(np.abs(info.times - made.times).max())
    if late > TOLERANCE:
        return Cell(WRONG, f"times are up to {late:.3f} s off")
    step = float(np.median(np.diff(made.times))) if count > 1 else 0.04
    if not made.times[-1] < info.duration <= made.times[-1] + 3 * step + 0.1:
        return Cell(WRONG, f"lasts {info.duration:.3f} s, the last frame comes at {made.times[-1]:.3f} s")
    if (info.width, info.height) != made.size:
        return Cell(WRONG, f"{info.width}x{info.height}, is {made.size[0]}x{made.size[1]}")
    worst = 0.0
    for indices in _questions(count):
        frames = video.frames_at(indices)
        if frames.dtype != np.uint8 or frames.shape != (len(indices), made.size[1], made.size[0], 3):
            return Cell(WRONG, f"frames are {frames.dtype} {list(frames.shape)}")
        numbers = read_numbers(frames, made.bits)
        expected = [made.numbers[index] for index in indices]
        if numbers != expected:
            return Cell(WRONG, f"asked for {expected}, got {numbers}")
        if reference is not None:
            difference = np.abs(frames.astype(np.int16) - reference[indices]).mean(axis=(1, 2, 3))
            worst = max(worst, float(difference.max()))
    if worst > MOST:
        return Cell(WRONG, f"pixels differ by {worst:.1f} of 255", worst)
    return Cell(OK, "", None if reference is None else worst)


def _questions(count: int) -> list[list[int]]:
    """Indices to ask an opened file for: spread, one alone, backwards, at random and repeated, the last."""
    random = np.random.default_rng(count)
    return [
        np.linspace(0, count - 1, min(8, count)).astype(int).tolist(),
        [int(random.integers(count))],
        list(range(count))[:: -max(count // 6, 1)],
        [*random.integers(count, size=6).tolist(), 0, count - 1, 0],
        list(range(max(count - 2, 0), count)),
    ]


def in_order(made: Made) -> np.ndarray | None:
    """uint8 [N, H, W, 3]: all frames, decoded in order by PyAV used plainly, turned upright.

    Of several streams the one that carries the numbers. None for long files and for those without frames.
    """
    if not 0 < len(made.numbers) <= COMPARED:
        return None
    with av.open(str(made.path)) as container:
        count = len(container.streams.video)
    for place in range(count):
        with av.open(str(made.path)) as container:
            frames = [_upright(frame, made) for frame in container.decode(video=place)]
        if read_numbers(frames, made.bits) == made.numbers:
            return np.stack(frames)
    raise ValueError(f"{made.path} does not hold the frames it was made of")


def _upright(frame: Any, made: Made) -> np.ndarray:
    # All frames in the size of the first: a stream may change it.
    size = made.size if frame.rotation % 180 == 0 else made.size[::-1]
    rgb = frame.reformat(*size, format="rgb24").to_ndarray()
    return np.rot90(rgb, round(frame.rotation / 90))
