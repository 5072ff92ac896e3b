"""What every decoder gives: the same frames for the same indices, whichever library decodes them.

Frame k of a video is the k-th picture that a full decode shows, in the order in which pictures are shown,
turned upright by the rotation that the file states. It is not what a header claims, nor what `time * fps`
would give.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

import numpy as np

from blip3v.errors import UserError

if TYPE_CHECKING:
    from typing import Self  # Python 3.11


@dataclass(frozen=True)
class Limits:
    """What a video may ask of the machine; a file that asks for more is refused before it is decoded.

    Attributes:
        max_pixels: width times height of one frame; the default admits 8K.
        max_seconds: length; the default admits a long film.
        max_frames: pictures in the file.
    """

    max_pixels: int = 8192 * 4352
    max_seconds: float = 6 * 3600.0
    max_frames: int = 2_000_000


class DecodeError(UserError):
    """A file that cannot be decoded; the message names it, says what is wrong and what to do."""


class UnsupportedVideo(DecodeError):
    """A file that is whole, but that this decoder does not read; another one may."""


@dataclass(frozen=True)
class VideoInfo:
    """What is known of a video before a frame is decoded.

    Attributes:
        path: the file.
        container: FFmpeg's name of the format, such as "mov,mp4,m4a,3gp,3g2,mj2".
        codec: FFmpeg's name, such as "h264".
        width, height: of a frame as it is shown, in pixels.
        rotation: quarter turns counterclockwise that bring a coded frame upright: 0, 1, 2 or 3.
        times: float64 [N], seconds at which each frame appears, beginning with 0, never falling.
        duration: seconds at which the last frame ends.
    """

    path: Path
    container: str
    codec: str
    width: int
    height: int
    rotation: int
    times: np.ndarray = field(repr=False)
    duration: float

    @property
    def num_frames(self) -> int:
        return len(self.times)

    @property
    def fps(self) -> float:
        """Frames per second, on average."""
        return self.num_frames / self.duration

    def indices_at(self, times: Sequence[float] | np.ndarray) -> np.ndarray:
        """int64, the frames on the screen at `times`, in seconds.

        Raises:
            UserError: a time before the beginning or behind the end.
        """
        asked = np.asarray(times, dtype=np.float64)
        if asked.size and not (asked.min() >= 0 and asked.max() <= self.duration):
            raise UserError(
                f"times from {asked.min():g} to {asked.max():g} s asked of {self.path}, which lasts "
                f"{self.duration:g} s; ask for times inside it"
            )
        # A hair later: times are sums of fractions that binary numbers do not hold.
        return np.maximum(np.searchsorted(self.times, asked + 1e-9, side="right") - 1, 0)


class OpenVideo(Protocol):
    """An opened file; a context manager that closes it."""

    @property
    def info(self) -> VideoInfo: ...

    def frames_at(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """uint8 [T, H, W, 3], RGB, upright: the frames at `indices`, which may come in any order and repeat.

        Raises:
            IndexError: an index outside 0..N-1.
            WrongCount: the file holds other frames than `info` says; open it again with `exact`.
            DecodeError: the file breaks.
        """
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def asked_frames(indices: Sequence[int] | np.ndarray, info: VideoInfo) -> np.ndarray:
    """int64 [T]: `indices`, all of which the video has.

    Raises:
        IndexError: one that it has not.
        TypeError: no whole numbers.
    """
    asked = np.asarray(indices)
    if asked.size and asked.dtype.kind not in "iu":
        raise TypeError(
            f"numbers of frames must be whole, got {asked.dtype}; round them, or ask `indices_at`"
        )
    asked = asked.astype(np.int64)
    if asked.size and not (asked.min() >= 0 and asked.max() < info.num_frames):
        raise IndexError(f"{info.path} has frames 0 to {info.num_frames - 1}, asked for {asked}")
    return asked


class WrongCount(DecodeError):
    """Decoding showed that `info.times` is not what the file holds (damage, or a container that lies)."""


class VideoDecoder(Protocol):
    """A library that decodes files; many of them at once: `blip3v.video.decoders.batch`.

    Attributes:
        name: as in `read_video(decoder=name)`.
    """

    name: str

    def available(self) -> str:
        """Empty where it can be used; otherwise why not and what to install."""
        ...

    def open(self, path: Path, threads: int = 1, limits: Limits = ..., exact: bool = False) -> OpenVideo:
        """Open a file.

        Args:
            threads: of the decoder for this file.
            exact: count frames by decoding all of them rather than by reading the container's packets.

        Raises:
            UnsupportedVideo: whole, but not for this decoder.
            DecodeError: broken, no video, or beyond the limits.
        """
        ...
