"""Where the frames of a video lie: times and key frames of all its packets, read without decoding them.

Headers are not asked how many frames there are: they are wrong in files that were cut, joined or recorded
live. Packets are what a decoder gets, one for each frame in every container that people use; where that is
not so (times missing or given twice), all frames are decoded once and counted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from blip3v.video.decoders.container import REMEDY, check_size, is_cover, open_container, reason
from blip3v.video.decoders.protocol import DecodeError, Limits, VideoInfo

PAINT_OVER = frozenset({"gif", "apng"})
"""Codecs whose packets are all marked as key frames although each paints over the frame before."""

UNTIMED = frozenset({"h264", "hevc"})
"""Codecs that show frames in another order than they store them, which AVI has no field for: there, the times
of their packets are FFmpeg's guess."""

KEPT = 64
"""Indices kept in memory, about 30 bytes a frame."""


@dataclass(frozen=True, eq=False)
class PacketIndex:
    """The frames of a video and the packets that they come from.

    Attributes:
        info: what users see of it.
        pts: int64 [N], rising presentation times of the shown frames in units of the stream; empty where
            frames were counted.
        places: int64 [N], which packet of the file each of them is in.
        packets: int64 [P], times of all packets in the order of the file; some are decoded and not shown.
        keys: int64 [K], places of the packets that decode without others before them, by rising time.
        key_pts, key_seeks: int64 [K], their times, and the times to seek to.
        open_gops: whether frames that are shown before a key frame come after it in the file, as many
            encoders of HEVC write them, or a key frame of H.264 does not clear the decoder; frames behind it
            may need the group of pictures before.
        videos: how many video streams the file holds, covers of albums left out.
    """

    info: VideoInfo
    pts: np.ndarray = field(repr=False)
    places: np.ndarray = field(repr=False)
    packets: np.ndarray = field(repr=False)
    keys: np.ndarray = field(repr=False)
    key_pts: np.ndarray = field(repr=False)
    key_seeks: np.ndarray = field(repr=False)
    open_gops: bool
    videos: int

    @property
    def counted(self) -> bool:
        """Whether all frames were decoded to count them."""
        return len(self.pts) == 0


HELD_BYTES, HELD_PACKETS = 16 << 20, 1000
"""Packets that are held while an index is made; of larger files none."""


class Held:
    """What reading the index of a file has left behind, so that nothing is read or decoded twice.

    Attributes:
        packets: all of them, as in the file; none of a larger file, or where the index was in memory.
        read: whether the container was read to its end.
        frames: what the decoder gave for the first packet, behind which it stands; empty if flushed.
    """

    def __init__(self) -> None:
        self.packets: list[Any] = []
        self.frames: list[Any] = []
        self.read = False
        self._room = HELD_BYTES

    def add(self, packet: Any) -> None:
        self.read = True
        self._room -= packet.size
        if self._room >= 0 and len(self.packets) < HELD_PACKETS:
            self.packets.append(packet)
        else:
            self._room = -1
            self.packets.clear()


_kept: OrderedDict[tuple[Any, ...], PacketIndex] = OrderedDict()


def packet_index(
    path: Path,
    limits: Limits,
    exact: bool = False,
    opened: tuple[Any, Any] | None = None,
    held: Held | None = None,
) -> PacketIndex:
    """The index of a file; kept in memory until the file changes.

    Args:
        limits: what the file may ask for.
        exact: decode and count all frames, whatever the packets say.
        opened: what `open_container` gave for it, to spare a second opening; it is read to its end.
        held: takes what was read and decoded of `opened`.

    Raises:
        DecodeError: broken, without frames, or beyond the limits.
    """
    try:
        state = path.stat()
    except (OSError, ValueError) as error:
        raise DecodeError(f"cannot open {path} ({reason(error)}); give the path of a video file") from error
    key = (path, state.st_size, state.st_mtime_ns, limits, exact)
    index = _kept.get(key)
    if index is None:
        index = None if exact else _by_packets(path, limits, opened, held or Held())
        _kept[key] = index = index or _by_counting(path, limits)
        while len(_kept) > KEPT:
            _kept.popitem(last=False)
    return index


def forget_indices() -> None:
    """Let go of all indices that are kept; the next opening of a file is like the first one."""
    _kept.clear()


def _by_packets(path: Path, limits: Limits, opened: tuple[Any, Any] | None, held: Held) -> PacketIndex | None:
    """None where packets do not tell the frames."""
    if opened is not None:
        return _scan(*opened, path, limits, held)
    container, stream = open_container(path, limits, threads=1)
    with container:
        return _scan(container, stream, path, limits, held)


def _scan(container: Any, stream: Any, path: Path, limits: Limits, held: Held) -> PacketIndex | None:
    context = stream.codec_context
    if container.format.name == "avi" and context.name in UNTIMED and context.has_b_frames:
        return None
    is_vp8 = context.name == "vp8"
    clears = _clears_h264 if context.name == "h264" else None
    rows: list[tuple[int, int, bool, bool, int]] = []
    first, open_gops = None, False
    for packet in packets_of(container, stream):
        if packet.pts is None:
            return None
        if not rows:
            first = _first_frame(packet, context, held)
        held.add(packet)
        seek = packet.pts if packet.dts is None else min(packet.pts, packet.dts)
        shown = not packet.is_discard and not (is_vp8 and _is_invisible(packet))
        if packet.is_keyframe and clears and not clears(bytes(packet), context.extradata):
            open_gops = True
        rows.append((packet.pts, seek, packet.is_keyframe, shown, packet.duration or 0))
        _check_count(len(rows), path, limits)
    if not any(shown for _, _, _, shown, _ in rows):
        raise DecodeError(f"{path} holds no frames; {REMEDY}")
    packets, seeks, is_key, is_shown, lengths = (
        np.array(row, dtype=np.int64) for row in zip(*rows, strict=True)
    )
    places = np.flatnonzero(is_shown)
    places = places[np.argsort(packets[places], kind="stable")]
    pts = packets[places]
    if np.any(np.diff(pts) == 0):
        return None
    unit = float(stream.time_base)
    info = _info(
        container, stream, path, limits, (pts - pts[0]) * unit, float(lengths[places[-1]] * unit), first
    )
    # Whatever is marked, decoding can begin at the beginning and nowhere else for certain.
    begins = is_key.astype(bool) & (info.codec not in PAINT_OVER)
    begins[0] = True
    keys = np.flatnonzero(begins)
    keys = keys[np.argsort(packets[keys], kind="stable")]
    latest_key = np.maximum.accumulate(np.where(begins, packets, packets.min()))
    open_gops = open_gops or bool(np.any(packets < latest_key))
    return PacketIndex(
        info, pts, places, packets, keys, packets[keys], seeks[keys], open_gops, _videos(container)
    )


def packets_of(container: Any, stream: Any) -> Iterator[Any]:
    """All packets that hold something; a file that breaks off ends here, what came before is whole."""
    import av

    try:
        for packet in container.demux(stream):
            if packet.size:
                yield packet
    except (av.FFmpegError, OSError):
        return


def _is_invisible(packet: Any) -> bool:
    """A VP8 packet that only changes a reference frame: `show_frame`, bit 4 of the frame tag, is 0 (RFC
    6386)."""
    return not bytes(packet)[0] & 0x10


def _clears_h264(packet: bytes, extradata: bytes | None) -> bool:
    """Whether a packet holds a slice of an IDR picture, NAL unit type 5 (ITU-T H.264, table 7-1).

    In files with an `avcC` record (ISO/IEC 14496-15) the length of each NAL unit stands before it; in streams
    of start codes nothing is looked at.
    """
    if not extradata or extradata[0] != 1 or len(extradata) < 5:
        return True
    size, at = (extradata[4] & 3) + 1, 0
    while at + size < len(packet):
        if packet[at + size] & 31 == 5:
            return True
        at += size + int.from_bytes(packet[at : at + size], "big")
    return False


def _videos(container: Any) -> int:
    return sum(not is_cover(stream) for stream in container.streams.video)


def _first_frame(packet: Any, context: Any, held: Held) -> Any:
    """The frame of the first packet, for its true size and its rotation; None if it does not decode."""
    import av

    frames: list[Any] = []
    try:
        frames = held.frames = context.decode(packet)
        if not frames:
            frames = context.decode(None)
    except (av.FFmpegError, OSError, ValueError):
        pass
    if not held.frames:
        context.flush_buffers()
    return frames[0] if frames else None


def _by_counting(path: Path, limits: Limits) -> PacketIndex:
    container, stream = open_container(path, limits, threads=1)
    with container:
        rate = float(stream.average_rate or stream.guessed_rate or 25)
        times: list[float] = []
        first = None
        # AVI gives every frame the same length, and knows no times beside that.
        untimed = container.format.name == "avi"
        for frame in decoded(container, stream):
            first = first or frame
            clock = len(times) / rate if frame.time is None or untimed else frame.time
            times.append(max(clock, times[-1]) if times else clock)
            _check_count(len(times), path, limits)
        if first is None:
            raise DecodeError(f"{path} holds no frame that can be decoded; {REMEDY}")
        info = _info(container, stream, path, limits, np.array(times) - times[0], 1 / rate, first)
    none = np.empty(0, dtype=np.int64)
    return PacketIndex(info, none, none, none, none, none, none, False, _videos(container))


def decoded(container: Any, stream: Any) -> Iterator[Any]:
    """Frames from where the container stands to its end, or to where it breaks off.

    A damaged packet is passed over. What a container marks as not to be shown is decoded and left out.
    """
    import av

    try:
        for packet in container.demux(stream):
            try:
                yield from packet.decode()
            except (av.FFmpegError, OSError, ValueError):
                continue
    except (av.FFmpegError, OSError):
        return


def _check_count(count: int, path: Path, limits: Limits) -> None:
    if count > limits.max_frames:
        raise DecodeError(
            f"{path} holds more than {limits.max_frames:,} frames; cut it, or raise Limits.max_frames"
        )


def _info(
    container: Any, stream: Any, path: Path, limits: Limits, times: np.ndarray, last: float, first: Any
) -> VideoInfo:
    """last: seconds of the last frame, 0 where the file does not say. first: a decoded frame or None."""
    context = stream.codec_context
    width, height = (context.width, context.height) if first is None else (first.width, first.height)
    check_size(width, height, path, limits)
    if last <= 0:
        last = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    duration = float(times[-1]) + (last or 1 / float(stream.average_rate or 25))
    if duration > limits.max_seconds:
        raise DecodeError(
            f"{path} lasts {duration:,.2f} s, more than {limits.max_seconds:,.2f}; cut it, or raise "
            "Limits.max_seconds"
        )
    turns = 0 if first is None else round(first.rotation / 90) % 4
    if turns % 2:
        width, height = height, width
    return VideoInfo(path, container.format.name, context.name, width, height, turns, times, duration)
