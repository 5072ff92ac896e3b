"""Video files of known content in the codecs that people have, short and long, written with PyAV."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from benchmarks.decode.files.plain import VPX
from benchmarks.decode.files.writing import Look, write
from blip3v.video import read_video

RATE = 24


@dataclass(frozen=True)
class Codec:
    """encoder: FFmpeg's. suffix: of a container that holds it. options: of the encoder, for little time."""

    encoder: str
    suffix: str
    options: dict[str, str]
    pix_fmt: str = "yuv420p"


FINE = {"qmin": "2", "qmax": "4"}
CODECS = {
    "h264": Codec("libx264", ".mp4", {"preset": "veryfast"}),
    "hevc": Codec("libx265", ".mp4", {"preset": "ultrafast", "x265-params": "log-level=none"}),
    "vp9": Codec("libvpx-vp9", ".webm", VPX),
    "mpeg4": Codec("mpeg4", ".mp4", FINE),
    "av1": Codec("libsvtav1", ".mp4", {"preset": "10", "crf": "20"}),
    "mpeg2": Codec("mpeg2video", ".mpg", FINE),
    "mjpeg": Codec("mjpeg", ".avi", FINE, "yuvj420p"),
    "vp8": Codec("libvpx", ".webm", VPX | {"b": "2M", "crf": "10"}),
    "gif": Codec("gif", ".gif", {}, "rgb8"),
}


@dataclass(frozen=True)
class Length:
    """seconds: of the clip. group: frames from one key frame to the next."""

    seconds: int
    width: int
    height: int
    group: int

    @property
    def frames(self) -> int:
        return RATE * self.seconds


LENGTHS = {"short": Length(2, 320, 240, RATE), "long": Length(60, 160, 120, 2 * RATE)}
"""A minute is small, so that writing it takes a second."""


@dataclass(frozen=True)
class Clip:
    """A file and what is known of it; `failure` says why there is none."""

    name: str
    path: Path
    width: int
    height: int
    frames: int
    failure: str = ""


def described(path: Path) -> Clip:
    """A user's file.

    Raises:
        UserError: it is no video.
    """
    video = read_video(path, 1)
    height, width = video.frames.shape[1:3]
    return Clip(path.stem, path, width, height, video.total_frames)


def made(codec: str, folder: Path, length: str = "short") -> Clip:
    """A clip of one of CODECS and LENGTHS, if this build of PyAV has the encoder."""
    chosen, size = CODECS[codec], LENGTHS[length]
    path = folder / f"{codec}_{length}{chosen.suffix}"
    look = Waves(
        chosen.encoder, chosen.options | {"g": str(size.group)}, chosen.pix_fmt, (size.width, size.height)
    )
    failure = ""
    try:
        write(path, look, range(size.frames), RATE)
    except (av.FFmpegError, ValueError, OSError) as error:
        failure = f"no file could be written: {error}"
    return Clip(codec, path, size.width, size.height, size.frames, failure)


class Waves(Look):
    """Pictures like a camera's: they cost a decoder more than those that show their number."""

    def picture(self, number: int) -> av.VideoFrame:
        frame = av.VideoFrame.from_ndarray(waves(number, *self.size), format="rgb24")
        return frame.reformat(format=self.pix_fmt)


def waves(number: int, width: int, height: int) -> np.ndarray:
    """uint8 [height, width, 3]: coloured waves that move, and texture that stays; the same every time."""
    y, x = np.mgrid[0:height, 0:width]
    texture = np.random.default_rng(0).normal(0, 6, (height, width, 1))
    phases = (x / 23 + number / 5, y / 17 - number / 7, (x + y) / 31 + number / 11)
    shown = np.stack([np.sin(phase) for phase in phases], axis=-1)
    return np.clip(127 + 90 * shown + texture, 0, 255).astype(np.uint8)
