"""Changing bytes of a container's headers, so that they lie."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

PARENTS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"udta", b"dinf"}
MOVIE_CLOCK, MEDIA_CLOCK = 1000, 512 * 25
"""Ticks per second of `mvhd`, `tkhd` and `elst` durations, and of a track of 25 frames per second, as FFmpeg
writes them."""


def atoms(
    data: bytes | bytearray, begin: int = 0, end: int | None = None
) -> Iterator[tuple[bytes, int, int]]:
    """(name, begin, end) of the content of each atom of an MP4 file, parents before their children."""
    place, end = begin, len(data) if end is None else end
    while place + 8 <= end:
        size, name = struct.unpack_from(">I4s", data, place)
        size = end - place if size == 0 else size
        if size < 8 or place + size > end:
            return
        yield bytes(name), place + 8, place + size
        if name in PARENTS:
            yield from atoms(data, place + 8, place + size)
        place += size


def atom(data: bytes | bytearray, name: bytes) -> int:
    """Where the content of the first atom of a name begins.

    Raises:
        KeyError: there is none.
    """
    for found, begin, _ in atoms(data):
        if found == name:
            return begin
    raise KeyError(name)


def put32(data: bytearray, place: int, value: int, big: bool = True) -> None:
    """A 32-bit number, big or little end first."""
    struct.pack_into(">I" if big else "<I", data, place, value & 0xFFFFFFFF)


def scale_mp4_durations(path: Path, factor: float) -> None:
    """mvhd, tkhd and mdhd (version 0) say another duration."""
    data = bytearray(path.read_bytes())
    for name, offset in ((b"mvhd", 16), (b"tkhd", 20), (b"mdhd", 16)):
        place = atom(data, name) + offset
        put32(data, place, int(struct.unpack_from(">I", data, place)[0] * factor))
    path.write_bytes(data)


def skip_in_edit_list(path: Path, frames: int, rate: int) -> None:
    """The only edit begins so many frames later."""
    data = bytearray(path.read_bytes())
    entry = atom(data, b"elst") + 8
    duration, begin = struct.unpack_from(">Ii", data, entry)
    put32(data, entry, duration - frames * MOVIE_CLOCK // rate)
    put32(data, entry + 4, begin + frames * MEDIA_CLOCK // rate)
    path.write_bytes(data)


def set_avi_frames(path: Path, frames: int) -> None:
    """dwTotalFrames of the main header and dwLength of the first stream's."""
    data = bytearray(path.read_bytes())
    put32(data, data.index(b"avih") + 8 + 16, frames, big=False)
    put32(data, data.index(b"strh") + 8 + 32, frames, big=False)
    path.write_bytes(data)


def set_mkv_duration(path: Path, milliseconds: float) -> None:
    """The Duration element, a float64 behind its name 44 89 and its size 88."""
    data = bytearray(path.read_bytes())
    struct.pack_into(">d", data, data.index(b"\x44\x89\x88") + 3, milliseconds)
    path.write_bytes(data)
