"""Opening a video file with PyAV so that it can do nothing but be a video.

FFmpeg understands many more things than videos, and goes by content, not by name: a text file called clip.mp4
may be a playlist that makes it read other files or call addresses. Here it may open the one file it was
given, and only as one of CONTAINERS.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any

from blip3v.video.decoders.protocol import DecodeError, Limits

CONTAINERS = (
    "mov", "matroska", "webm", "avi", "gif", "apng", "mpeg", "mpegvideo", "mpegts", "flv", "asf", "ogg",
    "mxf", "nut", "ivf", "obu", "h264", "hevc", "m4v", "mjpeg", "dv", "rm", "wtv", "h263",
)  # fmt: skip
"""FFmpeg's names of the formats that hold a video and nothing that leads elsewhere."""

LOCKED = {"protocol_whitelist": "file", "format_whitelist": ",".join(CONTAINERS)}
"""FFmpeg's options for what came from a stranger."""

THREADED = 500_000
"""Pixels of a frame from which several threads are used. Two of them were 1.4 times as fast as one on 960x540
and 1.5 times on 1080p, no faster on 640x360, and half as fast on 176x144 (`benchmarks.decode.real`)."""

REMEDY = "check that it plays, or convert it to H.264 with ffmpeg"


def open_container(path: Path, limits: Limits, threads: int) -> tuple[Any, Any]:
    """PyAV's container and its best video stream, whose decoder is set up and has not decoded anything.

    Args:
        threads: of the decoder, for frames of THREADED pixels or more; smaller ones get one.

    Raises:
        DecodeError: no regular file, no video, too large, or PyAV is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise DecodeError("reading video files needs PyAV; run: pip install av") from error
    check_regular(path)
    # FFmpeg checks it wherever it reads a size, also when it looks into a file that it opens, and half way
    # through. It counts rows as memory holds them, so it gets some more; the size itself is checked here.
    most = {"max_pixels": str(2 * limits.max_pixels + (1 << 20))}
    try:
        # With its protocol named, no part of a file's name is taken for another one.
        container = av.open(f"file:{path}", options=LOCKED | most, metadata_errors="replace")
    except (av.FFmpegError, OSError, ValueError, UnicodeError) as error:
        raise DecodeError(f"cannot open {path} as a video ({why_closed(error)}); {REMEDY}") from error
    try:
        stream = best_stream(container, path)
        for other in container.streams:
            # Sound is not read from the disk; older PyAVs cannot be told.
            if other is not stream and hasattr(other, "discard"):
                other.discard = type(other.discard)["all"]
        context = stream.codec_context
        context.thread_count = threads if context.width * context.height >= THREADED else 1
        context.thread_type = "AUTO"
        context.options = most
        check_size(context.width, context.height, path, limits)
    except BaseException:
        container.close()
        raise
    return container, stream


def check_regular(path: Path) -> None:
    """A pipe or a device would make its reader wait for ever.

    Raises:
        DecodeError: no regular file, or none that may be read.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise DecodeError(f"cannot open {path} ({reason(error)}); give the path of a video file") from error
    if not stat.S_ISREG(mode):
        raise DecodeError(f"{path} is no regular file; `blip3v stream` reads pipes and cameras")
    if not os.access(path, os.R_OK):
        raise DecodeError(f"{path} may not be read; change its permissions")


def check_size(width: int, height: int, path: Path, limits: Limits) -> None:
    """Raises DecodeError for a frame beyond the limit."""
    if width * height > limits.max_pixels:
        raise DecodeError(
            f"{path} claims frames of {width}x{height}, more than {limits.max_pixels:,} pixels; leave it "
            "out, or raise Limits.max_pixels"
        )


def best_stream(container: Any, path: Path) -> Any:
    """FFmpeg's choice among the videos of a file; the cover of an album is not one.

    Raises:
        DecodeError: there is none, or none that this build of FFmpeg decodes.
    """
    import av

    videos = [stream for stream in container.streams.video if not is_cover(stream)]
    if not videos:
        raise DecodeError(f"{path} holds no video, only sound or data; leave it out")
    best = container.streams.best("video")
    if best is None or is_cover(best):
        best = videos[0]
    if best.codec_context is None:
        raise DecodeError(f"{path} holds a video in a codec that FFmpeg does not decode here; {REMEDY}")
    assert isinstance(best, av.video.stream.VideoStream)
    return best


def is_cover(stream: Any) -> bool:
    """Whether a stream is the still image of an album's cover or a thumbnail."""
    from av.stream import Disposition

    return bool(stream.disposition & (Disposition.attached_pic | Disposition.timed_thumbnails))


def why_closed(error: BaseException) -> str:
    """Why a file does not open: FFmpeg calls a format that LOCKED leaves out an invalid argument."""
    return "not a format of videos" if getattr(error, "errno", 0) == errno.EINVAL else reason(error)


def reason(error: BaseException) -> str:
    """What FFmpeg or the system says, without the path that it appends."""
    return (str(getattr(error, "strerror", None) or error) or type(error).__name__).splitlines()[0]
