"""Writing a painted video with PyAV: any encoder, container, size, clock, rotation and sound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from benchmarks.decode.files.painted import paint

RATE = 25
COUNT = 30
SIZE = (96, 64)


@dataclass(frozen=True)
class Made:
    """A file and what a reader must find in it.

    Attributes:
        path: the file, or the folder of frames.
        numbers: painted into frame 0, 1, ... as they are shown.
        times: float64 [N], seconds at which each appears, counted from the first.
        size: (width, height) as shown.
        bits: of the painted numbers.
    """

    path: Path
    numbers: list[int]
    times: np.ndarray = field(repr=False)
    size: tuple[int, int] = SIZE
    bits: int = 8


@dataclass(frozen=True)
class Look:
    """How pictures are coded.

    Attributes:
        encoder: FFmpeg's name.
        options: of the encoder.
        pix_fmt: pixel format of the stream.
        size: (width, height) as shown, before `rotation` is undone.
        rotation: degrees counterclockwise by which a reader must turn the coded picture.
        bt709, full_range: colour matrix and range, tagged and used; None leaves both as swscale has them.
        bits: of the painted numbers.
    """

    encoder: str = "libx264"
    options: dict[str, str] = field(default_factory=dict)
    pix_fmt: str = "yuv420p"
    size: tuple[int, int] = SIZE
    rotation: int = 0
    bt709: bool = False
    full_range: bool = False
    bits: int = 8

    def picture(self, number: int) -> av.VideoFrame:
        """The painted frame as it is coded: turned back by the rotation, in the pixel format."""
        upright = paint(number, *self.size, self.bits)
        coded = np.ascontiguousarray(np.rot90(upright, -(self.rotation // 90)))
        frame = av.VideoFrame.from_ndarray(coded, format="rgb24")
        chosen: dict[str, Any] = {}
        if self.bt709:
            chosen["dst_colorspace"] = Colorspace.ITU709
        if self.full_range:
            chosen["dst_color_range"] = ColorRange.JPEG
        return frame.reformat(format=self.pix_fmt, **chosen)


def write(
    path: Path,
    look: Look | None = None,
    numbers: Sequence[int] | None = None,
    rate: int | Fraction = RATE,
    seconds: Sequence[float] | None = None,
    start: float = 0.0,
    sound: bool = False,
    container_options: dict[str, str] | None = None,
    format: str | None = None,
) -> Made:
    """A file whose k-th frame carries numbers[k].

    Args:
        seconds: when each frame appears; without it, `rate` frames per second.
        start: added to all times; a container may or may not keep it.
        sound: a second of silence beside the pictures (AAC; Opus or Vorbis where the container wants it).

    Raises:
        FFmpegError, ValueError: this build of PyAV has no such encoder, or the container does not take it.
    """
    look = look or Look()
    numbers = list(range(COUNT) if numbers is None else numbers)
    with av.open(str(path), "w", format=format, options=container_options or {}) as container:
        stream = add_video(container, look, rate)
        audio = add_silence(container) if sound else None
        send(container, stream, look, numbers, rate, seconds, start)
        if audio is not None:
            silence(container, audio)
    times = (
        np.arange(len(numbers)) / float(rate) if seconds is None else np.asarray(seconds, dtype=np.float64)
    )
    return Made(path, numbers, times - times[0] if len(times) else times, look.size, look.bits)


def add_video(container: Any, look: Look, rate: int | Fraction = RATE) -> Any:
    """A stream of the look's codec, size, colours and rotation."""
    stream = container.add_stream(look.encoder, rate=rate, options=look.options)
    width, height = look.size if look.rotation % 180 == 0 else look.size[::-1]
    stream.width, stream.height, stream.pix_fmt = width, height, look.pix_fmt
    context = stream.codec_context
    if look.bt709:
        context.colorspace, context.color_primaries, context.color_trc = 1, 1, 1
    if look.full_range:
        context.color_range = 2
    if look.rotation:
        stream.set_display_rotation(look.rotation)
    return stream


def send(
    container: Any,
    stream: Any,
    look: Look,
    numbers: Sequence[int],
    rate: int | Fraction = RATE,
    seconds: Sequence[float] | None = None,
    start: float = 0.0,
) -> None:
    """Encode and write the pictures; `seconds` and `start` as in `write`."""
    if seconds is not None or start:
        # Milliseconds rather than frames, or the encoder would round the times to its frame rate.
        stream.codec_context.time_base = Fraction(1, 1000)
    for place, number in enumerate(numbers):
        frame = look.picture(number)
        if seconds is not None or start:
            at = start + (place / rate if seconds is None else seconds[place])
            frame.pts, frame.time_base = round(float(at) * 1000), Fraction(1, 1000)
        else:
            frame.pts, frame.time_base = place, 1 / Fraction(rate)
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def add_silence(container: Any) -> Any:
    """An audio stream of a codec that the container takes."""
    codec = {"webm": "libopus", "mpeg": "mp2", "ogg": "libopus"}.get(container.format.name, "aac")
    return container.add_stream(codec, rate=48000, layout="stereo")


def silence(container: Any, stream: Any) -> None:
    """A second of it."""
    size = stream.codec_context.frame_size or 1024
    for place in range(48000 // size):
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 2 * size), dtype=np.int16), format="s16", layout="stereo"
        )
        frame.sample_rate, frame.pts, frame.time_base = 48000, place * size, Fraction(1, 48000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode())
