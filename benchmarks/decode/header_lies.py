"""Files whose headers say more than they hold: sizes of 2^63, frames of 65535x65535, endless tables."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.decode.damage import Damaged
from benchmarks.decode.files.headers import atom, put32
from benchmarks.decode.files.plain import H264, VP8
from benchmarks.decode.files.writing import write

KIND = "headers that lie"
Change = Callable[[bytearray], bytes]
MOST = 0xFFFFFFFF


def lying_files(good: dict[str, Path], folder: Path) -> Iterator[Damaged]:
    """good: of `good_files`."""
    sources = good | {
        "vp8.webm": write(folder / "whole_vp8.webm", VP8).path,
        "h264.h264": write(folder / "whole.h264", H264).path,
    }
    for name, (source, change) in LIES.items():
        target = folder / f"{name}{Path(source).suffix}"
        target.write_bytes(change(bytearray(sources[source].read_bytes())))
        yield Damaged(target, KIND)


def _in_atom(name: bytes, values: dict[int, int]) -> Change:
    """32-bit values at offsets of an atom's content."""

    def change(data: bytearray) -> bytes:
        begin = atom(data, name)
        for offset, value in values.items():
            put32(data, begin + offset, value)
        return bytes(data)

    return change


def _behind(mark: bytes, values: dict[int, bytes], last: bool = False) -> Change:
    """Bytes at offsets from where a mark first stands, or last."""

    def change(data: bytearray) -> bytes:
        begin = data.rindex(mark) if last else data.index(mark)
        for offset, value in values.items():
            data[begin + offset : begin + offset + len(value)] = value
        return bytes(data)

    return change


def _long_atom(data: bytearray) -> bytes:
    """`mdat` with its size in 64 bits, 2^63 - 1."""
    begin = atom(data, b"mdat") - 8
    put32(data, begin, 1)
    return bytes(data[: begin + 8]) + struct.pack(">Q", (1 << 63) - 1) + bytes(data[begin + 8 :])


def _nested(data: bytearray) -> bytes:
    """`moov` in `moov` in `moov`, 20,000 deep."""
    return bytes(data[:32]) + b"".join(struct.pack(">I4s", 8 * k, b"moov") for k in range(20000, 0, -1))


def _nested_lists(data: bytearray) -> bytes:
    """Lists of an AVI in one another, 20,000 deep."""
    lists = b"".join(b"LIST" + struct.pack("<I", 12 * k) + b"hdrl" for k in range(20000, 0, -1))
    return b"RIFF" + struct.pack("<I", len(lists) + 4) + b"AVI " + lists


def _gif_size(data: bytearray) -> bytes:
    """The screen and the first picture."""
    struct.pack_into("<HH", data, 6, 65535, 65535)
    place = data.index(b"\x2c\0\0\0\0")
    struct.pack_into("<HH", data, place + 5, 65535, 65535)
    return bytes(data)


def _avi_size(data: bytearray) -> bytes:
    for mark, offset in ((b"avih", 8 + 32), (b"strf", 8 + 4)):
        place = data.index(mark) + offset
        put32(data, place, 65535, big=False)
        put32(data, place + 4, 65535, big=False)
    return bytes(data)


def sequence_parameters(width: int, height: int) -> bytes:
    """An H.264 sequence parameter set (ITU-T H.264, 7.3.2.1.1) of the baseline profile.

    width, height: in pixels, multiples of 16.
    """

    def golomb(value: int) -> str:
        code = f"{value + 1:b}"
        return "0" * (len(code) - 1) + code

    fields = [0, 0, 2, 1]  # its number, length of frame_num, order of frames as coded, one reference frame
    bits = "".join(map(golomb, fields)) + "0" + golomb(width // 16 - 1) + golomb(height // 16 - 1) + "11001"
    bits += "0" * (-len(bits) % 8)
    content = bytes([0x67, 66, 0, 51]) + int(bits, 2).to_bytes(len(bits) // 8, "big")
    # Two zero bytes and a small one would be a start code.
    return re.sub(rb"\x00\x00([\x00-\x03])", b"\x00\x00\x03\\1", content)


def _huge_h264(data: bytearray) -> bytes:
    units = re.split(rb"\x00\x00\x00?\x01", bytes(data))[1:]
    huge = sequence_parameters(16384, 16384)
    return b"".join(b"\0\0\0\1" + (huge if unit[:1] and unit[0] & 31 == 7 else unit) for unit in units)


LIES: dict[str, tuple[str, Change]] = {
    "mp4_mdat_2_to_63": ("h264.mp4", _long_atom),
    "mp4_mdat_4_GiB": ("h264.mp4", lambda data: bytes(data[:40]) + b"\xff" * 4 + bytes(data[44:])),
    "mp4_moov_too_long": ("h264.mp4", _in_atom(b"moov", {-8: 0x7FFFFFFF})),
    "mp4_moov_of_1_byte": ("h264.mp4", _in_atom(b"moov", {-8: 9})),
    "mp4_nested": ("h264.mp4", _nested),
    "mp4_tkhd_65535": ("h264.mp4", _in_atom(b"tkhd", {76: 65535 << 16, 80: 65535 << 16})),
    "mp4_stsd_65535": ("h264.mp4", _behind(b"avc1\0\0\0\0\0\0", {28: b"\xff\xff\xff\xff"})),
    "mp4_stsd_many": ("h264.mp4", _in_atom(b"stsd", {4: MOST})),
    "mp4_stsz_2_to_31": ("h264.mp4", _in_atom(b"stsz", {8: 0x7FFFFFFF})),
    "mp4_stsz_all_2_GiB": ("h264.mp4", _in_atom(b"stsz", {4: 0x7FFFFFFF})),
    "mp4_stsz_same_size_2_to_31": ("h264.mp4", _in_atom(b"stsz", {4: 1, 8: 0x7FFFFFFF})),
    "mp4_stts_2_to_31": ("h264.mp4", _in_atom(b"stts", {4: 0x7FFFFFFF})),
    "mp4_stts_frames_2_to_31": ("h264.mp4", _in_atom(b"stts", {8: 0x7FFFFFFF})),
    "mp4_stts_length_0": ("h264.mp4", _in_atom(b"stts", {12: 0})),
    "mp4_stts_length_2_to_32": ("h264.mp4", _in_atom(b"stts", {12: MOST})),
    "mp4_ctts_2_to_31": ("h264.mp4", _in_atom(b"ctts", {4: 0x7FFFFFFF})),
    "mp4_ctts_far": ("h264.mp4", _in_atom(b"ctts", {12: 0x7FFFFFFF})),
    "mp4_stco_behind_the_end": ("h264.mp4", _in_atom(b"stco", {8: 0x7FFFFFFF})),
    "mp4_stco_into_the_header": ("h264.mp4", _in_atom(b"stco", {8: 0})),
    "mp4_stsc_2_to_31": ("h264.mp4", _in_atom(b"stsc", {4: 0x7FFFFFFF})),
    "mp4_stsc_none_per_chunk": ("h264.mp4", _in_atom(b"stsc", {12: 0})),
    "mp4_stss_nonsense": ("h264.mp4", _in_atom(b"stss", {8: MOST, 12: 0})),
    "mp4_clock_0": ("h264.mp4", _in_atom(b"mdhd", {12: 0})),
    "mp4_clock_1": ("h264.mp4", _in_atom(b"mdhd", {12: 1})),
    "mp4_elst_2_to_31": ("h264.mp4", _in_atom(b"elst", {4: 0x7FFFFFFF})),
    "mp4_elst_far": ("h264.mp4", _in_atom(b"elst", {12: 0x7FFFFFFF})),
    "h264_16384x16384": ("h264.h264", _huge_h264),
    "vp8_16383x16383": ("vp8.webm", _behind(b"\x9d\x01\x2a", {3: b"\xff\x3f\xff\x3f"})),
    "mpeg2_4095x4095": ("mpeg2.mpg", _behind(b"\0\0\1\xb3", {4: b"\xff\xff\xff"})),
    "mpeg2_rate_0": ("mpeg2.mpg", _behind(b"\0\0\1\xb3", {7: b"\x10"})),
    "mjpeg_65535x65535": ("mjpeg.avi", _behind(b"\xff\xc0\0\x11", {5: b"\xff\xff\xff\xff"})),
    "mkv_segment_2_to_56": ("hevc.mkv", _behind(b"\x18\x53\x80\x67", {4: b"\x01" + b"\xff" * 6 + b"\xfe"})),
    "mkv_cluster_2_to_56": ("hevc.mkv", _behind(b"\x1f\x43\xb6\x75", {4: b"\x01" + b"\xff" * 6 + b"\xfe"})),
    # The first mention is in the table of contents.
    "mkv_tracks_too_long": ("hevc.mkv", _behind(b"\x16\x54\xae\x6b", {4: b"\x01" + b"\xff" * 7}, last=True)),
    "mkv_width_2_to_32": ("hevc.mkv", _behind(b"\xb0\x81\x60", {1: b"\x84\xff\xff\xff\xff"})),
    "webm_clock_0": ("vp9.webm", _behind(b"\x2a\xd7\xb1\x83", {4: b"\0\0\0"})),
    "avi_65535x65535": ("mjpeg.avi", _avi_size),
    "avi_list_4_GiB": ("mjpeg.avi", _behind(b"LIST", {4: b"\xff\xff\xff\xff"})),
    "avi_first_frame_2_GiB": ("mjpeg.avi", _behind(b"00dc", {4: b"\xff\xff\xff\x7f"})),
    "avi_index_2_GiB": ("mjpeg.avi", _behind(b"idx1", {4: b"\xff\xff\xff\x7f"})),
    "avi_scale_0": ("mjpeg.avi", _behind(b"strh", {8 + 20: bytes(4)})),
    "avi_rate_0": ("mjpeg.avi", _behind(b"strh", {8 + 24: bytes(4)})),
    "avi_nested": ("mjpeg.avi", _nested_lists),
    "gif_65535x65535": ("gif.gif", _gif_size),
    "gif_0x0": ("gif.gif", lambda data: bytes(data[:6]) + bytes(4) + bytes(data[10:])),
}
