"""Whether all pictures of a stream have one size, read from its packets without decoding them.

A stream may change its size half way through: two recordings joined, a sender on a slow line, a damaged byte.
A decoder that took memory for the size at the beginning then gives pictures with rubbish in them, or writes
past that memory.

Sources: RFC 6386 section 9.1 (VP8), the VP9 Bitstream & Decoding Process Specification section 6.2 and annex
B, ITU-T T.81 annex B (JPEG), ITU-T H.264 section 7.3.1 and H.265 section 7.3.1 (NAL units), ISO/IEC 14496-15
(their lengths in mp4 and mkv).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

Size = tuple[int, int]

STILL_CHECKED = frozenset({"vp8", "vp9", "mjpeg", "h264", "hevc"})
"""Codecs whose packets are understood here."""

JPEG_SIZE = re.compile(rb"\xff[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf].{3}(..)(..)", re.DOTALL)
START_CODE = re.compile(rb"\x00\x00\x01")
VP9_SYNC = 0x498342
VP9_RGB = 7


def changes_size(packets: Iterator[Any], codec: str, extradata: bytes | None, size: Size) -> bool:
    """Whether a packet holds, or may hold, pictures of another size; in doubt it does.

    Args:
        packets: PyAV's, all of the stream.
        codec: one of STILL_CHECKED.
        extradata: of the stream's codec.
        size: width and height of the first picture, as coded.
    """
    known = extradata or b""
    for packet in packets:
        if packet.has_sidedata("new_extradata"):
            return True
        if codec in ("h264", "hevc"):
            if not packet.is_keyframe:
                continue  # parameters may change there only
            for parameters in _parameter_sets(bytes(packet), codec, known):
                if known and parameters not in known:
                    return True
                known = known or parameters
            continue
        sizes = _sizes(bytes(packet), codec)
        if sizes is None or any(found != size for found in sizes):
            return True
    return False


def _sizes(data: bytes, codec: str) -> list[Size] | None:
    """The sizes that a packet states; None where it cannot be understood."""
    try:
        if codec == "vp8":
            return _vp8_sizes(data)
        if codec == "vp9":
            return [size for frame in _vp9_frames(data) for size in _vp9_sizes(frame)]
        # The size may also be that of a thumbnail: then it is refused in vain, and another decoder reads it.
        found = [
            (int.from_bytes(width, "big"), int.from_bytes(height, "big"))
            for height, width in JPEG_SIZE.findall(data)
        ]
        return found or None
    except (IndexError, ValueError):
        return None


def _vp8_sizes(data: bytes) -> list[Size]:
    if data[0] & 1:
        return []  # refers to others, and has their size
    if data[3:6] != b"\x9d\x01\x2a":
        raise ValueError("no start code")
    width, height = (int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (6, 8))
    return [(width, height)]


def _vp9_frames(data: bytes) -> list[bytes]:
    """The frames of a superframe: shown ones and hidden ones in one packet."""
    marker = data[-1]
    count, length = (marker & 7) + 1, ((marker >> 3) & 3) + 1
    index = len(data) - 2 - count * length
    if marker & 0xE0 != 0xC0 or index < 0 or data[index] != marker:
        return [data]
    frames, begin = [], 0
    for number in range(count):
        at = index + 1 + number * length
        size = int.from_bytes(data[at : at + length], "little")
        if begin + size > index:
            raise ValueError("longer than its packet")
        if size:
            frames.append(data[begin : begin + size])
        begin += size
    return frames


class _Bits:
    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def take(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise IndexError("data ends")
        return (self._value >> self._left) & ((1 << count) - 1)


def _vp9_sizes(frame: bytes) -> list[Size]:
    """Of the uncompressed header; empty where the size is that of an earlier frame."""
    bits = _Bits(frame[:32])
    if bits.take(2) != 2:
        raise ValueError("no frame marker")
    profile = bits.take(1) + 2 * bits.take(1)
    if profile == 3:
        bits.take(1)
    if bits.take(1):
        return []  # shows an earlier frame
    is_inter, is_shown, resilient = bits.take(1), bits.take(1), bits.take(1)
    if not is_inter:
        _vp9_colour(bits, profile)
        return [_vp9_size(bits)]
    intra_only = 0 if is_shown else bits.take(1)
    if not resilient:
        bits.take(2)
    if intra_only:
        if profile:
            _vp9_colour(bits, profile)
        elif bits.take(24) != VP9_SYNC:
            raise ValueError("no sync code")
        bits.take(8)
        return [_vp9_size(bits)]
    bits.take(8 + 3 * 4)
    return [] if any(bits.take(1) for _ in range(3)) else [_vp9_size(bits)]


def _vp9_colour(bits: _Bits, profile: int) -> None:
    if bits.take(24) != VP9_SYNC:
        raise ValueError("no sync code")
    if profile >= 2:
        bits.take(1)
    is_rgb = bits.take(3) == VP9_RGB
    if not is_rgb:
        bits.take(1)
    if profile in (1, 3):
        bits.take(1 if is_rgb else 3)


def _vp9_size(bits: _Bits) -> Size:
    return bits.take(16) + 1, bits.take(16) + 1


def _parameter_sets(data: bytes, codec: str, extradata: bytes) -> Iterator[bytes]:
    """The sequence parameter sets in a packet; they hold the size."""
    at = 4 if codec == "h264" else 21
    if extradata[:1] == b"\x01" and len(extradata) > at:
        units = _units_by_length(data, (extradata[at] & 3) + 1)
    else:
        begins = [found.end() for found in START_CODE.finditer(data)]
        ends = [begin - 3 for begin in begins[1:]] + [len(data)]
        units = (data[begin:end] for begin, end in zip(begins, ends, strict=True))
    for unit in units:
        if not unit:
            continue
        kind = unit[0] & 0x1F if codec == "h264" else (unit[0] >> 1) & 0x3F
        if kind == (7 if codec == "h264" else 33):
            yield unit.rstrip(b"\x00")


def _units_by_length(data: bytes, length: int) -> Iterator[bytes]:
    at = 0
    while at + length <= len(data):
        size = int.from_bytes(data[at : at + length], "big")
        yield data[at + length : at + length + size]
        at += length + size
