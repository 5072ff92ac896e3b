"""Short video files of known content in the codecs that people have, written with PyAV."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from blip3v.video import read_video

WIDTH, HEIGHT, RATE, SECONDS = 320, 240, 24, 2


@dataclass(frozen=True)
class Codec:
    """encoder: FFmpeg's. suffix: of a container that holds it. options: of the encoder, for little time."""

    encoder: str
    suffix: str
    options: dict[str, str]


CODECS = {
    "h264": Codec("libx264", ".mp4", {"preset": "veryfast"}),
    "hevc": Codec("libx265", ".mp4", {"preset": "ultrafast", "x265-params": "log-level=none"}),
    "vp9": Codec("libvpx-vp9", ".webm", {"deadline": "realtime", "cpu-used": "8"}),
    "mpeg4": Codec("mpeg4", ".mp4", {"qmin": "2", "qmax": "4"}),
}


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


def made(codec: str, folder: Path) -> Clip:
    """A clip of one of CODECS, if this build of PyAV has the encoder."""
    path = folder / f"{codec}{CODECS[codec].suffix}"
    try:
        write_clip(codec, path)
    except (av.FFmpegError, ValueError, OSError) as error:
        return Clip(codec, path, WIDTH, HEIGHT, RATE * SECONDS, f"no file could be written: {error}")
    return Clip(codec, path, WIDTH, HEIGHT, RATE * SECONDS)


def pictures(count: int) -> np.ndarray:
    """uint8 [count,HEIGHT,WIDTH,3]: coloured waves that move, and texture that stays; the same every time."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    texture = np.random.default_rng(0).normal(0, 6, (HEIGHT, WIDTH, 1))
    frames = []
    for number in range(count):
        phases = (x / 23 + number / 5, y / 17 - number / 7, (x + y) / 31 + number / 11)
        waves = np.stack([np.sin(phase) for phase in phases], axis=-1)
        frames.append(np.clip(127 + 90 * waves + texture, 0, 255).astype(np.uint8))
    return np.stack(frames)


def write_clip(codec: str, path: Path) -> None:
    """SECONDS of video, a key frame each second.

    Raises:
        FFmpegError, ValueError: this build of PyAV has no such encoder.
    """
    chosen = CODECS[codec]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(chosen.encoder, rate=RATE, options=chosen.options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.gop_size = RATE
        for picture in pictures(RATE * SECONDS):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
