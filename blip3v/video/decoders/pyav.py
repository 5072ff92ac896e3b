"""FFmpeg through PyAV, which carries its own.

Of a video only what the wanted frames need is decoded: from the key frame before each of them, without the
frames on the way that no other frame refers to.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from blip3v.video.decoders.container import REMEDY, open_container, reason
from blip3v.video.decoders.packet_index import Held, PacketIndex, decoded, packet_index, packets_of
from blip3v.video.decoders.protocol import DecodeError, Limits, OpenVideo, VideoInfo, WrongCount, asked_frames

SKIPS_EXACTLY = frozenset({"h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4"})
"""Codecs whose decoders leave out single frames when told so between two packets. dav1d decides when it
is opened."""

SEEKS_EXACTLY = ("mov,", "matroska,", "avi", "flv")
"""Containers with tables of their key frames. In a stream of MPEG packets, seeking ends in the middle of
a frame."""


class PyAVDecoder:
    """Reads everything that FFmpeg decodes."""

    name = "pyav"

    def available(self) -> str:
        try:
            import av  # noqa: F401
        except ImportError:
            return "PyAV is missing; run: pip install av"
        return ""

    def open(
        self, path: Path, threads: int = 1, limits: Limits | None = None, exact: bool = False
    ) -> PyAVVideo:
        """See `VideoDecoder.open`; threads: 0 lets FFmpeg take as many as there are cores."""
        return PyAVVideo(path, threads, limits or Limits(), exact)


class PyAVVideo(OpenVideo):
    """An opened file, see `OpenVideo`."""

    def __init__(self, path: Path, threads: int, limits: Limits, exact: bool) -> None:
        self._path, self._threads, self._limits = path, threads, limits
        self._container, self._stream = open_container(path, limits, threads)
        from av.video.reformatter import VideoReformatter

        self._converter = VideoReformatter()
        self._held = Held()
        try:
            opened = self._container, self._stream
            self._index: PacketIndex = packet_index(path, limits, exact, opened, self._held)
        except BaseException:
            self.close()
            raise
        self._seeks = self.info.container.startswith(SEEKS_EXACTLY)
        # The place of the packet that is read next; reading the index may have gone to the end.
        self._next = len(self._index.packets) if self._held.read else 0

    @property
    def info(self) -> VideoInfo:
        return self._index.info

    def frames_at(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        asked = asked_frames(indices, self.info)
        wanted, places = np.unique(asked, return_inverse=True)
        result = np.empty((len(wanted), self.info.height, self.info.width, 3), dtype=np.uint8)
        found = np.zeros(len(wanted), dtype=bool)
        frames = self._counted(wanted) if self._index.counted else self._found(wanted)
        for place, frame in frames:
            result[place] = self._rgb(frame)
            found[place] = True
            if found.all():
                break
        if not found.all():
            missing = wanted[np.argmin(found)]
            raise WrongCount(f"{self._path}: frame {missing} of {self.info.num_frames} does not decode")
        return result if len(wanted) == len(asked) and np.array_equal(wanted, asked) else result[places]

    def close(self) -> None:
        self._held = Held()
        self._container.close()

    def _rgb(self, frame: Any) -> np.ndarray:
        import av

        turns = self.info.rotation
        size = (self.info.width, self.info.height)
        # A stream may change its size half way through; as in FFmpeg, all frames get the size of the first.
        width, height = size[::-1] if turns % 2 else size
        try:
            rgb = self._converter.reformat(frame, width, height, format="rgb24", threads=self._threads)
        except (av.FFmpegError, OSError, ValueError) as error:
            raise DecodeError(
                f"{self._path}: its {frame.width}x{frame.height} pixels of format {frame.format.name} cannot "
                f"be converted to RGB ({reason(error)}); {REMEDY}"
            ) from error
        return np.rot90(rgb.to_ndarray(), turns)

    def _counted(self, wanted: np.ndarray) -> Iterator[tuple[int, Any]]:
        """(place in wanted, frame), decoding from the beginning and counting."""
        places = {number: place for place, number in enumerate(wanted.tolist())}
        self._reopen()
        for number, frame in enumerate(decoded(self._container, self._stream)):
            if number in places:
                yield places[number], frame

    def _found(self, wanted: np.ndarray) -> Iterator[tuple[int, Any]]:
        """(place in wanted, frame), going from key frame to key frame and finding frames by their times."""
        index = self._index
        groups = np.maximum(np.searchsorted(index.key_pts, index.pts[wanted], side="right") - 1, 0)
        for key in np.unique(groups).tolist():
            places = np.flatnonzero(groups == key)
            by_pts = dict(zip(index.pts[wanted[places]].tolist(), places.tolist(), strict=True))
            for frame in self._decode_from(key, set(by_pts), int(index.places[wanted[places]].max())):
                # Marked as corrupt: an entry point that is none. Decoding in order says what is there.
                if frame.pts in by_pts and not frame.is_corrupt:
                    yield by_pts[frame.pts], frame

    def _decode_from(self, key: int, wanted: set[int], last: int) -> Iterator[Any]:
        """Frames from a key frame on, until packet `last` of the file has been decoded.

        key: number among the key frames. wanted: pts of frames that must not be left out.
        """
        import av

        skips = self._index.info.codec in SKIPS_EXACTLY
        told = ""
        primed, self._held.frames = self._held.frames, []
        if not (primed and self._held.packets and self._index.keys[key] == 0):
            primed = []
            # An earlier question may have stopped on its way; held packets need no seeking, which flushes.
            self._stream.codec_context.flush_buffers()
        for place, packet in self._packets_from(key):
            if primed:
                yield from primed
                primed = []
                if place >= last:
                    break
                continue
            if skips:
                skip = "DEFAULT" if packet.pts in wanted else "NONREF"
                if skip != told:  # telling takes as long as decoding a small frame
                    self._stream.codec_context.skip_frame = told = skip
            # A damaged packet is passed over; whether it is missed shows in what was found.
            with contextlib.suppress(av.FFmpegError, OSError, ValueError):
                yield from packet.decode()
            if place >= last:
                break
        # Those that the decoder holds back until it knows what comes next. (Asked of the stream only now: to
        # go to a key frame may mean to open the file again.)
        context = self._stream.codec_context
        try:
            yield from context.decode(None)
        except (av.FFmpegError, OSError, ValueError):
            pass
        finally:
            context.flush_buffers()

    def _packets_from(self, key: int) -> Iterator[tuple[int, Any]]:
        """(place in the file, packet), beginning with that of a key frame.

        Where seeking is not exact, packets are read and dropped on the way there.
        """
        start = int(self._index.keys[key])
        if self._held.packets:
            yield from enumerate(itertools.islice(self._held.packets, start, None), start)
            return
        first = self._seek(key) if self._seeks and start != self._next else None
        if self._next > start:
            self._reopen()
        for packet in itertools.chain(
            () if first is None else (first,), packets_of(self._container, self._stream)
        ):
            place, self._next = self._next, self._next + 1
            if place >= start:
                yield place, packet

    def _seek(self, key: int) -> Any:
        """Go to a key frame or before it: the packet found there, and its place in `_next`.

        None if it did not work; it is not tried again in this file.
        """
        import av

        # MOV finds a key frame by the time at which it is shown, others by the time at which it is stored.
        for target in (self._index.key_pts[key], self._index.key_seeks[key]):
            try:
                self._container.seek(int(target), stream=self._stream)
                first = next(packets_of(self._container, self._stream), None)
            except (av.FFmpegError, OSError):
                first = None
            if first is not None:
                found = np.flatnonzero(self._index.packets == first.pts)
                if len(found) == 1 and found[0] <= self._index.keys[key]:
                    self._next = int(found[0])
                    return first
        self._seeks, self._next = False, len(self._index.packets)
        return None

    def _reopen(self) -> None:
        self._container.close()
        self._container, self._stream = open_container(self._path, self._limits, self._threads)
        self._next = 0
