"""A video that is read once, from the first frame to the last, however long: file, camera, pipe or address.

The decoders of `blip3v.video.decoders` look for the end of a video before they give the first frame, and a
camera has no end.
"""

from __future__ import annotations

import io
import os
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from blip3v.errors import UserError
from blip3v.video.decoders.container import LOCKED, reason, why_closed

STDIN = "-"
LIVE_SCHEMES = frozenset({"rtsp", "rtsps", "rtmp", "rtmps", "rtp", "srt", "udp"})
BROKEN_IN_A_ROW = 100
"""Packets that may fail to decode one after another; a receiver that joins late loses many."""
SLACK = 1e-3
"""Seconds by which a frame may come before it is due: Matroska rounds times to milliseconds."""


@dataclass(frozen=True)
class TimedFrame:
    """One frame of a stream.

    Attributes:
        time: seconds since the first frame of the stream; never goes back.
        image: uint8 [H, W, 3], RGB, upright.
    """

    time: float
    image: np.ndarray


class VideoStream:
    """An opened source, whose frames can be read once. Memory does not grow with its length.

    Args:
        source: path of a video file or of a named pipe, a camera such as /dev/video0, `-` for standard input,
            or an address that FFmpeg understands (rtsp://, http://, ...).
        patience: seconds to wait for an address or a camera before giving up.

    Attributes:
        live: whether frames come whether or not anybody reads them (cameras, and addresses such as rtsp://).

    Raises:
        UserError: no such source, or nothing in it that FFmpeg takes for a video.
    """

    def __init__(self, source: str | os.PathLike[str], patience: float = 10.0) -> None:
        try:
            import av
        except ImportError as error:
            raise UserError("reading a stream needs PyAV; run: pip install av") from error
        self._av = av
        self.name = os.fspath(source)
        scheme, _, rest = self.name.partition("://")
        is_address = bool(rest)
        is_camera = not is_address and Path(self.name).is_char_device()
        self.live = is_camera or (is_address and scheme.lower() in LIVE_SCHEMES)
        if self.name != STDIN and not is_address:
            _check_path(Path(self.name))
        self._stdin = _StandardInput() if self.name == STDIN else None
        options: dict[str, Any] = {"timeout": patience} if is_address or is_camera else {"options": LOCKED}
        if is_camera:
            options["format"] = "v4l2"
        if scheme.lower().startswith("rtsp"):
            # Over UDP a lost packet leaves grey smears for seconds.
            options["options"] = {"rtsp_transport": "tcp"}
        local = f"file:{self.name}" if options.get("options") is LOCKED else self.name
        try:
            self._container = av.open(self._stdin or local, **options)
        except (av.FFmpegError, OSError, ValueError) as error:
            raise UserError(
                f"cannot open {self._title} as a video ({why_closed(error)}); {self._advice()}"
            ) from error
        if not self._container.streams.video:
            self.close()
            raise UserError(f"{self._title} has no pictures in it, only sound or data; choose another source")

    def frames(self, fps: float | None = None) -> Generator[TimedFrame, None, None]:
        """Frames in order of time; the source is closed behind the last one, or with the iterator.

        Args:
            fps: frames per second of video to give, the first one at or after each k / fps; a source with
                fewer gives each of its frames once. None gives all frames.

        Raises:
            UserError: fps not above 0; no frame at all, or the source breaks off.
        """
        if fps is not None and not fps > 0:
            raise UserError(f"fps must be above 0, got {fps}")
        return self._sample(fps)

    def close(self) -> None:
        """Lets go of the file, the camera or the connection; may be called twice."""
        self._container.close()

    def _sample(self, fps: float | None) -> Generator[TimedFrame, None, None]:
        due, given = 0.0, False
        # One for all frames: `frame.to_ndarray` sets up another one, with threads, for each.
        converter = self._av.video.reformatter.VideoReformatter()
        try:
            for time, frame in self._timed():
                if time < due - SLACK:
                    continue
                image = converter.reformat(frame, format="rgb24", threads=1).to_ndarray()
                yield TimedFrame(time, np.rot90(image, round(frame.rotation / 90) % 4))
                given = True
                if fps is not None:
                    due = (int((time + SLACK) * fps) + 1) / fps
        finally:
            self.close()
        if not given:
            raise UserError(f"{self._title} holds no frames; {self._advice()}")

    def _timed(self) -> Iterator[tuple[float, Any]]:
        """(seconds since the first frame, frame); a clock that is missing or starts anew is continued."""
        stream = self._container.streams.video[0]
        period = 1 / float(stream.average_rate or stream.guessed_rate or 25)
        origin: float | None = None
        last = -period
        for frame in self._decoded(stream):
            clock = frame.time
            if origin is None and clock is not None:
                origin = clock - (last + period)
            time = last + period if clock is None or origin is None else clock - origin
            if time < last:
                time = last + period
                origin = clock - time
            last = time
            yield time, frame

    def _decoded(self, stream: Any) -> Iterator[Any]:
        broken, decoded = 0, 0
        try:
            for packet in self._container.demux(stream):
                try:
                    frames = packet.decode()
                except self._av.error.InvalidDataError:
                    broken += 1
                    if broken > BROKEN_IN_A_ROW:
                        raise
                    continue
                broken, decoded = 0, decoded + len(frames)
                yield from frames
        except (self._av.FFmpegError, OSError) as error:
            where = f"breaks off behind {decoded} frames" if decoded else "cannot be read as a video"
            raise UserError(f"{self._title} {where} ({reason(error)}); {self._advice()}") from error
        if self._stdin is not None and self._stdin.interrupted:
            raise KeyboardInterrupt

    @property
    def _title(self) -> str:
        return "standard input" if self._stdin is not None else self.name

    def _advice(self) -> str:
        if self._stdin is not None:
            return "pipe a format that is readable from its start (Matroska, MPEG-TS, fragmented MP4)"
        if self.live:
            return "check that it is connected and that no other program uses it"
        return "check that it plays, or convert it to H.264 with ffmpeg"


class _StandardInput(io.FileIO):
    """File descriptor 0, unbuffered, so that a frame arrives when it is written.

    PyAV loses a Ctrl-C that comes while it waits in `read`; here it becomes the end of the stream and a mark.
    """

    def __init__(self) -> None:
        super().__init__(0, "rb", closefd=False)
        self.interrupted = False

    def read(self, size: int | None = -1, /) -> Any:
        # FFmpeg asks again behind the end, and would wait again.
        if not self.interrupted:
            try:
                return super().read(-1 if size is None else size)
            except KeyboardInterrupt:
                self.interrupted = True
        return b""


def _check_path(path: Path) -> None:
    if path.is_dir():
        raise UserError(f"{path} is a folder; a stream is a file, a camera, an address or `-`")
    if not path.exists():
        kind = "camera" if path.parts[:2] == ("/", "dev") else "video"
        raise UserError(f"no such {kind}: {path}; give a file, a camera (/dev/video0), an address or `-`")
