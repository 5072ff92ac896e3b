"""The index against what a full decode by PyAV shows, and against packets read here."""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from benchmarks.decode.files.plain import H264, HEVC_OPEN, X265
from benchmarks.decode.files.writing import COUNT, RATE, Look, write
from benchmarks.decode.formats import ROWS
from blip3v.video.decoders import packet_index as module
from blip3v.video.decoders.packet_index import PacketIndex, _clears_h264, packet_index
from blip3v.video.decoders.protocol import DecodeError, Limits
from blip3v.video.decoders.pyav import PyAVDecoder

LIMITS = Limits()


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> OrderedDict[Any, PacketIndex]:
    kept: OrderedDict[Any, PacketIndex] = OrderedDict()
    monkeypatch.setattr(module, "_kept", kept)
    return kept


def _packets(path: Path) -> list[Any]:
    with av.open(str(path)) as container:
        return [packet for packet in container.demux(video=0) if packet.size]


def _shown(path: Path) -> tuple[list[int], list[float], list[int]]:
    """pts and seconds of all frames as they are decoded, and the pts of those that are key frames."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return (
        [frame.pts for frame in frames],
        [frame.time for frame in frames],
        [frame.pts for frame in frames if frame.key_frame],
    )


BY_PACKETS = (
    "h264.mp4", "h264.mkv", "h264_uneven.mp4", "h264_late_start.mkv", "h264_one_frame.mp4",
    "h264_keyframes.avi", "hevc_open_gop.mp4", "vp8_hidden_frames.webm", "vp9_hidden_frames.webm",
    "mpeg2.ts", "edit_list.mp4", "uneven.gif",
)  # fmt: skip


@pytest.mark.parametrize("row", BY_PACKETS)
def test_frames_of_the_index_are_those_of_a_full_decode(row: str, tmp_path: Path) -> None:
    path = ROWS[row](tmp_path / row).path
    index, packets = packet_index(path, LIMITS), _packets(path)
    pts, seconds, keys = _shown(path)
    assert not index.counted and index.videos == 1
    assert index.pts.tolist() == pts
    np.testing.assert_allclose(index.info.times, np.array(seconds) - seconds[0], atol=1e-9)
    assert index.packets.tolist() == [packet.pts for packet in packets]
    # Each frame is in the packet of its time that is shown, not in a hidden one beside it.
    assert index.packets[index.places].tolist() == pts and len(set(index.places.tolist())) == len(pts)
    assert index.key_pts.tolist() == index.packets[index.keys].tolist() == sorted(index.key_pts.tolist())
    if row.endswith(".gif"):
        assert index.keys.tolist() == [0]  # each picture paints over the one before
    else:
        assert set(keys) <= set(index.key_pts.tolist())
        assert len(index.keys) == sum(packet.is_keyframe for packet in packets)
    assert index.keys.min() == 0 and np.all(index.key_seeks <= index.key_pts)


def test_pictures_that_paint_over_each_other_have_one_beginning(tmp_path: Path) -> None:
    path = write(tmp_path / "a.apng", Look("apng", pix_fmt="rgb24")).path
    assert sum(packet.is_keyframe for packet in _packets(path)) > 20  # as FFmpeg marks them
    index = packet_index(path, LIMITS)
    assert index.keys.tolist() == [0] and index.pts.tolist() == _shown(path)[0]


def test_vp8_packets_that_are_not_shown(tmp_path: Path) -> None:
    path = ROWS["vp8_hidden_frames.webm"](tmp_path / "hidden.webm").path
    index, (pts, _, _) = packet_index(path, LIMITS), _shown(path)
    assert len(index.packets) == COUNT + 3 and index.info.num_frames == len(pts) == COUNT
    assert index.pts.tolist() == pts
    assert sorted({*range(COUNT + 3)} - {*index.places.tolist()}) == [8, 17, 26]
    assert not index.counted and not index.open_gops
    with av.open(str(path)) as container:
        expected = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    with PyAVDecoder().open(path) as video:
        for asked in ([29, 3], [5], [21, 22, 4], range(COUNT)):
            assert np.array_equal(video.frames_at(asked), expected[list(asked)])


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("h264.mp4", False),
        ("h264.mkv", False),
        ("h264.ts", False),
        ("h264_open_gop.mp4", True),
        ("h264_open_gop.mkv", True),
        ("hevc_open_gop.mp4", True),
        ("h264_intra.mp4", False),
        ("vp9_hidden_frames.webm", False),
        ("mjpeg.mov", False),
    ],
)
def test_open_groups_of_pictures(row: str, expected: bool, tmp_path: Path) -> None:
    index = packet_index(ROWS[row](tmp_path / row).path, LIMITS)
    assert index.open_gops is expected and (len(index.keys) > 1)


@pytest.mark.parametrize(("closed", "expected"), [("", True), (":open-gop=0", False)])
def test_x265_opens_its_groups_unless_told(closed: str, expected: bool, tmp_path: Path) -> None:
    look = Look("libx265", {"preset": "ultrafast", "x265-params": f"{X265}:keyint=10{closed}"})
    index = packet_index(write(tmp_path / "a.mp4", look).path, LIMITS)
    assert index.open_gops is expected and len(index.keys) > 1


def test_h264_whose_key_frames_clear_nothing(tmp_path: Path) -> None:
    """Without B-frames nothing is out of order: only the type of the slices says it."""
    path = tmp_path / "a.mp4"
    for refresh, expected in (("0", False), ("1", True)):
        params = f"intra-refresh={refresh}:keyint=8:bframes=0"
        write(path, Look(options={"preset": "veryfast", "x264-params": params}))
        index = packet_index(path, LIMITS)
        assert np.all(np.diff(index.packets) > 0) and len(index.keys) > 1
        assert index.open_gops is expected


IDR, SLICE, SEI = 0x65, 0x41, 0x06


def _avcc(size: int) -> bytes:
    """The beginning of an avcC record: version, profile, level, 6 bits set, length of lengths less one."""
    return bytes([1, 66, 0, 30, 0xFC | size - 1, 0xE1])


def _units(size: int, *units: bytes) -> bytes:
    return b"".join(len(unit).to_bytes(size, "big") + unit for unit in units)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_slices_behind_other_units(size: int) -> None:
    sei = bytes([SEI]) + bytes([IDR]) * 9  # looks like the slice wherever it is read from the wrong place
    for slice_, expected in ((IDR, True), (SLICE, False)):
        first = bytes([slice_]) + bytes(20)
        assert _clears_h264(_units(size, first), _avcc(size)) is expected
        assert _clears_h264(_units(size, sei, first), _avcc(size)) is expected
        assert (
            _clears_h264(_units(size, bytes([0x67, 1]), bytes([0x68]), sei, first, first), _avcc(size))
            is expected
        )
    assert not _clears_h264(_units(size, sei), _avcc(size))
    # The reference bits above the type do not count.
    assert _clears_h264(_units(size, b"\x25\0"), _avcc(size))


@pytest.mark.parametrize("size", [1, 2, 4])
def test_packets_that_break_off(size: int) -> None:
    packet = _units(size, bytes([SEI]) + bytes(5), bytes([IDR]) + bytes(5))
    for length in range(len(packet) + 1):
        assert _clears_h264(packet[:length], _avcc(size)) is (length > 6 + 2 * size), length
    assert not _clears_h264(b"\xff" * 40, _avcc(size))
    assert not _clears_h264(bytes(40), _avcc(size))  # units of no length do not stop it


@pytest.mark.parametrize("extradata", [None, b"", b"\0\0\0\1\x67\x42", b"\1\x42\0\x1e"])
def test_without_a_record_of_lengths_nothing_is_looked_at(extradata: bytes | None) -> None:
    assert _clears_h264(_units(4, bytes([SLICE, 0, 0])), extradata)


def test_h264_with_b_frames_in_avi_is_counted(tmp_path: Path) -> None:
    rate = 12
    path = write(tmp_path / "a.avi", H264, rate=rate).path
    index = packet_index(path, LIMITS)
    assert index.counted and index.info.num_frames == COUNT and len(index.packets) == 0
    np.testing.assert_allclose(index.info.times, np.arange(COUNT) / rate, atol=1e-9)
    assert index.info.duration == pytest.approx(COUNT / rate)
    without = packet_index(write(tmp_path / "b.avi", Look(options={"bf": "0"})).path, LIMITS)
    assert not without.counted


@pytest.mark.parametrize(
    "row", ["h264.mp4", "h264_uneven.mkv", "hevc.ts", "vp8_hidden_frames.webm", "uneven.gif"]
)
def test_counting_gives_what_the_packets_gave(row: str, tmp_path: Path) -> None:
    path = ROWS[row](tmp_path / row).path
    read, counted = packet_index(path, LIMITS), packet_index(path, LIMITS, exact=True)
    assert counted.counted and not read.counted
    np.testing.assert_allclose(counted.info.times, read.info.times, atol=1e-9)
    assert counted.info.fps == pytest.approx(read.info.fps, rel=0.2)
    for name in ("container", "codec", "width", "height", "rotation", "num_frames"):
        assert getattr(counted.info, name) == getattr(read.info, name), name


def test_streams_of_video_are_counted_without_covers(tmp_path: Path) -> None:
    for row, videos in (("two_videos.mp4", 2), ("two_videos.mkv", 2), ("cover_art.mp4", 1)):
        assert packet_index(ROWS[row](tmp_path / row).path, LIMITS).videos == videos, row


def test_an_index_is_kept_until_the_file_changes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", H264).path
    first = packet_index(path, LIMITS)
    assert packet_index(path, LIMITS) is first
    assert packet_index(path, LIMITS, exact=True) is not first
    assert packet_index(path, Limits(max_frames=1000)) is not first
    state = path.stat()
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    later = packet_index(path, LIMITS)
    assert later is not first and later.info.num_frames == COUNT
    write(path, H264, numbers=range(7))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    assert packet_index(path, LIMITS).info.num_frames == 7
    path.unlink()
    with pytest.raises(DecodeError, match=r"cannot open .*a\.mp4 \(No such file"):
        packet_index(path, LIMITS)


def test_only_the_last_ones_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nothing_kept: OrderedDict[Any, PacketIndex]
) -> None:
    monkeypatch.setattr(module, "KEPT", 3)
    paths = [write(tmp_path / f"{k}.avi", Look("mjpeg", pix_fmt="yuvj420p"), range(2)).path for k in range(5)]
    found = [packet_index(path, LIMITS) for path in paths]
    assert len(nothing_kept) == 3
    assert packet_index(paths[4], LIMITS) is found[4]
    assert packet_index(paths[0], LIMITS) is not found[0]


def test_a_refusal_is_not_kept(tmp_path: Path, nothing_kept: OrderedDict[Any, PacketIndex]) -> None:
    path = write(tmp_path / "a.mp4", H264).path
    for _ in range(2):
        with pytest.raises(DecodeError, match="more than 29 frames; cut it, or raise Limits"):
            packet_index(path, Limits(max_frames=29))
    assert not nothing_kept
    assert packet_index(path, Limits(max_frames=30)).info.num_frames == 30


@pytest.mark.parametrize("exact", [False, True])
def test_limits_of_frames_and_seconds(exact: bool, tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", H264).path
    with pytest.raises(DecodeError, match=r"a\.mp4 holds more than 12 frames"):
        packet_index(path, Limits(max_frames=12), exact)
    with pytest.raises(
        DecodeError, match=r"a\.mp4 lasts 1\.20 s, more than 1\.19; cut it, or raise Limits\.max_sec"
    ):
        packet_index(path, Limits(max_seconds=COUNT / RATE - 0.01), exact)
    assert packet_index(path, Limits(max_frames=30, max_seconds=COUNT / RATE), exact).info.num_frames == COUNT


def test_an_opened_file_is_read_rather_than_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.mkv", H264).path
    opened = module.open_container(path, LIMITS, 1)
    monkeypatch.setattr(module, "open_container", None)
    with opened[0]:
        assert packet_index(path, LIMITS, opened=opened).info.num_frames == COUNT
        assert next((packet for packet in opened[0].demux(opened[1]) if packet.size), None) is None
        opened[0].seek(0, stream=opened[1])
        assert next(opened[0].decode(opened[1])).pts == 0  # its decoder begins anew


@pytest.mark.parametrize("row", ["h264.mkv", "vp9.webm", "mpeg2.ts", "mjpeg.avi"])
def test_a_file_that_breaks_off(row: str, tmp_path: Path) -> None:
    path = ROWS[row](tmp_path / row).path
    whole = path.read_bytes()
    before = packet_index(path, LIMITS).info
    path.write_bytes(whole[: len(whole) * 6 // 10])
    read, counted = packet_index(path, LIMITS), packet_index(path, LIMITS, exact=True)
    decodes = 0
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            try:
                decodes += len(packet.decode())
            except av.FFmpegError:
                continue
    assert 5 < counted.info.num_frames == decodes < COUNT
    # The packet in which it breaks off may be counted as a frame.
    assert abs(read.info.num_frames - decodes) <= 2
    np.testing.assert_allclose(counted.info.times, before.times[:decodes], atol=1e-3)


def test_files_of_which_nothing_is_left(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", HEVC_OPEN).path
    packets = _packets(path)
    data = bytearray(path.read_bytes())
    for packet in packets:
        data[packet.pos + 8 : packet.pos + packet.size] = bytes(max(packet.size - 8, 0))
    path.write_bytes(data)
    with pytest.raises(DecodeError, match=r"a\.mkv holds no frame that can be decoded; check that it plays"):
        packet_index(path, LIMITS, exact=True)
