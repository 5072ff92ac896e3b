"""One clip as the bytes that go into its shard; this is what the worker processes do."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from blip3v.data.pack.plan import ClipJob, Settings
from blip3v.video.decode import read_image, read_video
from blip3v.video.transforms import square_frames

AT_ONCE = 16
"""Frames that are decoded before they are made small: 16 of 8K take 1.7 GB."""


@dataclass(frozen=True)
class Encoded:
    """A clip as it is stored.

    Attributes:
        fields: of its JSON, see `blip3v.video.packed`.
        images: the files of its frames.
    """

    fields: dict[str, Any]
    images: list[bytes]


def encode_clip(job: ClipJob) -> Encoded:
    """Decode the frames that are to be stored, make them small, and compress them.

    Raises:
        UserError: the video or image cannot be read.
    """
    if job.is_image:
        image = read_image(job.path)
        images = encode_frames(image[None], job.settings)
        none = np.zeros(1, dtype=np.int64)
        return Encoded(fields_of(job, image.shape, None, 1, range(1), none, None), images)
    reading = _Reading(job, AT_ONCE)
    # A video whose end is damaged may seem whole until the frames there are asked for, and have fewer after
    # that. Then all frames are read at once, which gives one number.
    if not reading.done:
        reading = _Reading(job, None)
    return Encoded(reading.fields, reading.images)


class _Reading:
    """All frames of a clip, `at_once` in one go.

    Attributes:
        done: whether the video had the same number of frames each time.
    """

    def __init__(self, job: ClipJob, at_once: int | None) -> None:
        self.fields: dict[str, Any] = {}
        self.images: list[bytes] = []
        self.done = False
        wanted = np.arange(1)
        begin, totals = 0, set()
        times: list[float] = []
        while begin < len(wanted):
            asked: list[tuple[int, np.ndarray]] = []

            def piece(total: int, _: int, begin: int = begin, asked: Any = asked) -> np.ndarray:
                stored = job.stored(total)
                asked.append((total, stored))
                # Of a video that has shrunk some frame, as there must be one.
                part = stored[begin:] if at_once is None else stored[begin : begin + at_once]
                return part if len(part) else stored[-1:]

            video = read_video(job.path, job.settings.frames, piece, job.span, decoder=job.settings.decoder)
            total, wanted = asked[-1]
            totals.add(total)
            if len(totals) > 1:
                return
            if begin == 0:
                first = int(video.indices[0] - wanted[0])
                shown, shape = range(first, first + total), video.frames.shape[1:]
                self.fields = fields_of(
                    job, shape, video.fps, video.total_frames, shown, first + wanted, None
                )
            self.images += encode_frames(video.frames, job.settings)
            if video.times is not None:
                times += video.times.tolist()
                self.fields["times"] = _rounded(times)
            begin += len(video.frames)
        self.done = True


def fields_of(
    job: ClipJob,
    shape: tuple[int, ...],
    fps: float | None,
    total_frames: int,
    shown: range,
    indices: np.ndarray,
    times: np.ndarray | None,
) -> dict[str, Any]:
    """The JSON of a clip; `shape` is [H, W, 3] of the video's own frames."""
    return {
        "source": job.source,
        "span": job.span,
        "fps": fps,
        "total_frames": total_frames,
        "shown": [shown.start, shown.stop],
        "indices": indices.tolist(),
        "times": None if times is None else _rounded(times.tolist()),
        "width": shape[1],
        "height": shape[0],
        "size": job.settings.size,
    }


def _rounded(times: list[float]) -> list[float]:
    return [round(time, 6) for time in times]


def encode_frames(frames: np.ndarray, settings: Settings) -> list[bytes]:
    """uint8 [T, H, W, 3] -> an image file for each."""
    if settings.size:
        frames = square_frames(frames, settings.size)
    files = []
    for frame in frames:
        file = io.BytesIO()
        if settings.format == "png":
            # More effort makes them a few per cent smaller, and takes three times as long.
            Image.fromarray(frame).save(file, "PNG", compress_level=1)
        else:
            Image.fromarray(frame).save(file, "JPEG", quality=settings.quality)
        files.append(file.getvalue())
    return files
