"""decord, which brings an FFmpeg of its own.

decord 0.6.0 counts and seeks by itself, so its answers are checked against the index of the packets. A file
of which it counts other frames is refused. Where frames are stored behind a key frame that is shown after
them (open groups of pictures, usual in HEVC) it is made to read in order, because there its seeking gives
frames that lie later than those asked for. Kinds of files of which it gave wrong frames whatever was done are
refused (docs/video.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from blip3v.video.decoders.container import REMEDY
from blip3v.video.decoders.packet_index import UNTIMED, PacketIndex, packet_index
from blip3v.video.decoders.protocol import (
    DecodeError,
    Limits,
    OpenVideo,
    UnsupportedVideo,
    VideoInfo,
    asked_frames,
)

STREAMS = ("mpeg", "mpegts")
"""Containers without a table of frames, where decord loses or repeats some."""


class DecordDecoder:
    """decord on the CPU."""

    name = "decord"

    def available(self) -> str:
        try:
            import decord  # noqa: F401
        except (ImportError, OSError):
            return "decord is missing; run: pip install decord"
        return ""

    def open(
        self, path: Path, threads: int = 1, limits: Limits | None = None, exact: bool = False
    ) -> DecordVideo:
        """See `VideoDecoder.open`; decord's threads of many processes have been seen to hang: 1 is safe."""
        return DecordVideo(path, threads, limits or Limits(), exact)


def _trouble(index: PacketIndex) -> str:
    """Why decord is not asked; empty where it is."""
    if index.info.container in STREAMS:
        return "a stream of MPEG packets"
    if index.info.container == "avi" and index.info.codec in UNTIMED and len(index.keys) != 1:
        return f"{index.info.codec} in AVI"
    return "which holds several videos" if index.videos > 1 else ""


class DecordVideo(OpenVideo):
    """An opened file, see `OpenVideo`."""

    def __init__(self, path: Path, threads: int, limits: Limits, exact: bool) -> None:
        try:
            import decord
        except (ImportError, OSError) as error:
            raise DecodeError("decord is missing; run: pip install decord") from error
        # First, because it refuses what is no video; decord opens whatever its FFmpeg takes for one.
        self._index = packet_index(path, limits, exact)
        if trouble := _trouble(self._index):
            raise UnsupportedVideo(
                f"decord gives wrong frames of {path}, {trouble}; read it with the decoder pyav"
            )
        try:
            # Absolute, or FFmpeg takes `concat:other.mp4` for something else than the name of a file.
            name = str(path.absolute()).encode("utf-8").decode("utf-8")
        except UnicodeError as error:
            raise UnsupportedVideo(
                f"decord does not open {path!r}, whose name is not UTF-8; rename it, or read it with the "
                "decoder pyav"
            ) from error
        # FFmpeg's own lines on stderr would repeat, less clearly, what the errors say.
        decord.logging.set_level(decord.logging.QUIET)
        self._errors = (RuntimeError, decord.DECORDError)
        self._path = path
        try:
            self._reader = decord.VideoReader(name, ctx=decord.cpu(0), num_threads=threads)
            counted = len(self._reader)
        except self._errors as error:
            raise UnsupportedVideo(f"decord does not open {path}; read it with the decoder pyav") from error
        if counted != self.info.num_frames:
            raise UnsupportedVideo(
                f"decord counts {counted} frames in {path}, which shows {self.info.num_frames}; read it with "
                "the decoder pyav"
            )

    @property
    def info(self) -> VideoInfo:
        return self._index.info

    def frames_at(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        asked = asked_frames(indices, self.info)
        if not len(asked):
            return np.empty((0, self.info.height, self.info.width, 3), dtype=np.uint8)
        try:
            frames = (
                self._in_order(asked) if self._index.open_gops else self._reader.get_batch(asked).asnumpy()
            )
        except (*self._errors, IndexError, StopIteration) as error:
            raise DecodeError(f"{self._path} breaks off while decoding; {REMEDY}") from error
        shape = (len(asked), self.info.height, self.info.width, 3)
        if frames.shape != shape:
            raise UnsupportedVideo(
                f"decord gives frames {list(frames.shape)} of {self._path}, expected {list(shape)}; read it "
                "with the decoder pyav"
            )
        return frames

    def _in_order(self, asked: np.ndarray) -> np.ndarray:
        """Every frame up to the last one asked for."""
        found: dict[int, np.ndarray] = {}
        self._reader.seek(0)
        wanted = set(asked.tolist())
        for number in range(int(asked.max()) + 1):
            frame = self._reader.next()
            if number in wanted:
                found[number] = frame.asnumpy()
        return np.stack([found[number] for number in asked.tolist()])

    def close(self) -> None:
        # decord has no way to close a file but to drop its reader.
        self.__dict__.pop("_reader", None)
