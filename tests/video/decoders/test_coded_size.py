from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

av = pytest.importorskip("av")

from benchmarks.decode.files.writing import Look, write  # noqa: E402
from blip3v.video.decoders.coded_size import changes_size  # noqa: E402

FAST = {"deadline": "realtime", "cpu-used": "8", "g": "4"}
SMALL, LARGE = (96, 64), (128, 80)
LOOKS = {
    "vp8.webm": Look("libvpx", FAST),
    "vp9.webm": Look("libvpx-vp9", FAST),
    "vp9_444.webm": Look("libvpx-vp9", FAST, pix_fmt="yuv444p"),
    "mjpeg.mkv": Look("mjpeg", pix_fmt="yuvj420p"),
    "h264.mkv": Look(options={"preset": "ultrafast", "g": "4"}),
    "h264.ts": Look(options={"preset": "ultrafast", "g": "4"}),
    "hevc.mp4": Look("libx265", {"preset": "ultrafast", "x265-params": "log-level=none:keyint=4:pools=1"}),
    "hevc.ts": Look("libx265", {"preset": "ultrafast", "x265-params": "log-level=none:keyint=4:pools=1"}),
}


def _packets(path: Path, change: Callable[[bytes], bytes] | None = None) -> Iterator[Any]:
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            if packet.size and change is None:
                yield packet
            elif packet.size:
                changed = av.Packet(change(bytes(packet)))
                changed.is_keyframe = packet.is_keyframe
                yield changed


def _changes(path: Path, size: tuple[int, int], packets: Iterator[Any] | None = None) -> bool:
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        name, extradata = context.name, context.extradata
    codec = {"libdav1d": "av1"}.get(name, name)
    return changes_size(_packets(path) if packets is None else packets, codec, extradata, size)


@pytest.mark.parametrize("name", LOOKS)
def test_one_size_is_told_from_two(name: str, tmp_path: Path) -> None:
    look = LOOKS[name]
    small = write(tmp_path / f"small_{name}", look, range(9)).path
    assert not _changes(small, SMALL)
    if name in ("h264.mkv", "hevc.mp4"):
        return  # what holds the size is not in their packets, see test_a_header_that_is_replaced
    larger = Look(look.encoder, look.options, look.pix_fmt, LARGE)
    large = write(tmp_path / f"large_{name}", larger, range(9)).path

    def joined() -> Iterator[Any]:
        yield from _packets(small)
        yield from _packets(large)

    assert _changes(small, SMALL, joined())
    assert _changes(large, LARGE, (packet for path in (large, small) for packet in _packets(path)))


@pytest.mark.parametrize("name", ["vp8.webm", "vp9.webm", "vp9_444.webm", "mjpeg.mkv"])
def test_another_size_than_the_first_picture_had(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, LOOKS[name], range(3)).path
    assert _changes(path, (64, 96))


def test_ten_bit() -> None:
    path = Path(__file__).parents[3] / "benchmarks" / "decode" / "files" / "vp9_10bit.webm"
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert context.pix_fmt == "yuv420p10le"
        size = (context.width, context.height)
    assert not _changes(path, size)
    assert _changes(path, (size[0] + 2, size[1]))


def test_frames_in_a_superframe_are_all_looked_at(tmp_path: Path) -> None:
    small = write(tmp_path / "small.webm", Look("libvpx-vp9", FAST), [0]).path
    large = write(tmp_path / "large.webm", Look("libvpx-vp9", FAST, size=LARGE), [0]).path
    frames = [bytes(next(_packets(path))) for path in (small, large)]
    for second, expected in ((frames[0], False), (frames[1], True)):
        index = (
            b"\xd9" + b"".join(len(frame).to_bytes(4, "little") for frame in (frames[0], second)) + b"\xd9"
        )
        assert _changes(small, SMALL, iter([av.Packet(frames[0] + second + index)])) is expected


@pytest.mark.parametrize("name", ["vp8.webm", "vp9.webm", "mjpeg.mkv"])
def test_in_doubt_it_changes(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, LOOKS[name], range(3)).path
    # The start code, the sync code, the frame header.
    damaged = {"vp8.webm": 3, "vp9.webm": 1, "mjpeg.mkv": None}[name]

    def damage(data: bytes) -> bytes:
        if damaged is None:
            return data.replace(b"\xff\xc0", b"\xff\xfe")
        return data[:damaged] + bytes([data[damaged] ^ 1]) + data[damaged + 1 :]

    assert _changes(path, SMALL, _packets(path, damage))
    assert _changes(path, SMALL, _packets(path, lambda data: data[:1]))


def test_a_header_that_is_replaced(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", LOOKS["h264.mkv"], range(5)).path
    with av.open(str(path)) as container:
        extradata = container.streams.video[0].codec_context.extradata
    assert extradata[0] == 1
    count = int.from_bytes(extradata[6:8], "big")
    own = extradata[8 : 8 + count]
    other = own[:-1] + bytes([own[-1] ^ 1])
    for parameters, expected in ((own, False), (other, True)):
        packet = av.Packet(len(parameters).to_bytes(4, "big") + parameters)
        packet.is_keyframe, packet.time_base = True, Fraction(1, 25)
        assert _changes(path, SMALL, iter([packet])) is expected
