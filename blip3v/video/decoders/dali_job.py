"""What DALI is to decode of a file, and which files it is not given."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from blip3v.video.decoders.coded_size import changes_size
from blip3v.video.decoders.colours import from_bt601
from blip3v.video.decoders.container import open_container
from blip3v.video.decoders.packet_index import packet_index, packets_of
from blip3v.video.decoders.protocol import Limits, UnsupportedVideo, VideoInfo, asked_frames

CODECS = {
    "cpu": frozenset({"vp8", "vp9", "mjpeg"}),
    "gpu": frozenset({"vp8", "vp9", "mjpeg", "h264", "hevc"}),
}
"""What is given to DALI. AV1 is not: Hopper's engines do not decode it. Nor MPEG-4, whose packets nobody
checks."""

MAX_BYTES = 1 << 30
"""Of a file: DALI holds all of it in memory."""


@dataclass(frozen=True, eq=False)
class Job:
    """A file and the frames that are wanted of it.

    Attributes:
        info: of the file.
        data: uint8, all of its bytes.
        indices: int32 [T].
        colours: float64 [3, 3], from the RGB that DALI gives to the file's true RGB; None where they are the
            same.
    """

    info: VideoInfo
    data: np.ndarray = field(repr=False)
    indices: np.ndarray = field(repr=False)
    colours: np.ndarray | None = field(repr=False)

    @property
    def path(self) -> Path:
        return self.info.path

    @property
    def coded_size(self) -> tuple[int, int]:
        """Height and width before the frame is turned."""
        height, width = self.info.height, self.info.width
        return (width, height) if self.info.rotation % 2 else (height, width)

    def square(self) -> tuple[np.ndarray, np.ndarray]:
        """Where a square around the coded frame begins, and its sides: int32 [2] each, vertical and
        horizontal.

        The odd pixel of padding is to be right or below once the frame is upright.
        """
        turns = self.info.rotation
        height, width = self.coded_size
        side = max(width, height)
        top, left = side - height, side - width
        top = (top + 1) // 2 if turns in (2, 3) else top // 2
        left = (left + 1) // 2 if turns in (1, 2) else left // 2
        return np.array([-top, -left], dtype=np.int32), np.array([side, side], dtype=np.int32)


def job_for(
    path: Path, indices: Sequence[int] | np.ndarray, device: str, limits: Limits, exact: bool = False
) -> Job:
    """What a pipeline needs of a file.

    Raises:
        IndexError: an index outside the file's frames.
        UnsupportedVideo: DALI does not decode it, or could count its frames differently.
        DecodeError: broken, no video, or beyond the limits.
    """
    index = packet_index(path, limits, exact)
    info = index.info
    if info.codec not in CODECS[device]:
        raise NotForDali(
            f"DALI does not decode {info.codec} on a {device} ({path}); read it with the decoder pyav",
            info.codec,
        )
    state = path.stat()
    if index.counted:
        why = "its packets do not tell its frames"
    elif device == "gpu" and len(index.packets) != info.num_frames:
        why = "some of its packets show nothing"
    elif state.st_size > MAX_BYTES:
        why = f"it is larger than {MAX_BYTES >> 30} GiB"
    else:
        why, matrix = _stream_facts(path, state.st_size, state.st_mtime_ns, limits)
        if not why:
            data, none = np.fromfile(path, dtype=np.uint8), np.empty(0, dtype=np.int32)
            return with_indices(Job(info, data, none, from_bt601(matrix)), indices)
    raise UnsupportedVideo(f"DALI is not given {path}: {why}; read it with the decoder pyav")


def with_indices(job: Job, indices: Sequence[int] | np.ndarray) -> Job:
    """Raises IndexError for an index outside the file's frames."""
    return replace(job, indices=asked_frames(indices, job.info).astype(np.int32))


class NotForDali(UnsupportedVideo):
    """The file's codec is not one of `CODECS`."""

    def __init__(self, message: str, codec: str) -> None:
        super().__init__(message)
        self.codec = codec


@functools.lru_cache(maxsize=64)
def _stream_facts(path: Path, size: int, changed: int, limits: Limits) -> tuple[str, int]:
    """Why DALI is not to decode a file, or "", and the number of its colour matrix (ITU-T H.273, table 4)."""
    info = packet_index(path, limits).info
    coded = (info.height, info.width) if info.rotation % 2 else (info.width, info.height)
    container, stream = open_container(path, limits, threads=1)
    with container:
        context = stream.codec_context
        matrix = int(context.colorspace)
        if len(container.streams.video) > 1:
            return "it holds several videos, and DALI does not say which it takes", matrix
        if changes_size(packets_of(container, stream), info.codec, context.extradata, coded):
            return "its pictures are of several sizes, or damaged", matrix
    return "", matrix
