"""Frames at indices against a plain decode, bit by bit, and how little is decoded for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from benchmarks.decode.files.plain import H264, HEVC, X265
from benchmarks.decode.files.writing import COUNT, Look, write
from benchmarks.decode.formats import ROWS
from blip3v.errors import UserError
from blip3v.video import read_video
from blip3v.video.decoders import container, packet_index
from blip3v.video.decoders import pyav as module
from blip3v.video.decoders.protocol import DecodeError, WrongCount
from blip3v.video.decoders.pyav import PyAVDecoder, PyAVVideo


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file is as one that is too large to hold its packets."""
    monkeypatch.setattr(packet_index, "HELD_PACKETS", 0)


def in_order(path: Path, turns: int = 0) -> np.ndarray:
    """uint8 [N, H, W, 3]: all frames by PyAV used plainly, in the size of the first, turned `turns` times."""
    converter, frames, size = av.video.reformatter.VideoReformatter(), [], (0, 0)
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            size = size if frames else (frame.width, frame.height)
            frames.append(np.rot90(converter.reformat(frame, *size, format="rgb24").to_ndarray(), turns))
    return np.stack(frames)


def _questions(count: int, sets: int, seed: int) -> Iterator[list[int]]:
    """Unsorted, repeated, one, many, all."""
    random = np.random.default_rng(seed)
    yield list(range(count))
    for _ in range(sets):
        yield random.integers(count, size=random.choice([1, 1, 2, 3, 8])).tolist()
    yield list(range(count))[::-1]


TURNS = {"h264_turned_90.mp4": 1, "h264_turned_180.mp4": 2, "h264_turned_270.mp4": 3, "h264_turned_90.mkv": 1}

LAYERS = Look(
    "libx265", {"preset": "fast", "x265-params": f"{X265}:temporal-layers=3:keyint=20:bframes=7:b-adapt=0"}
)
"""B-frames in layers, of which a decoder that leaves out what nothing refers to must keep some."""

INTERLACED = Look(options={"preset": "veryfast", "x264-params": "tff=1:keyint=10:bframes=3:open-gop=1"})
MORE = {"layers.mp4": LAYERS, "interlaced.mp4": INTERLACED, "painted.apng": Look("apng", pix_fmt="rgb24")}

EXACT = (
    "h264.mp4", "h264.mkv", "h264.ts", "h264.flv", "h264_b_frames.avi", "h264_open_gop.mp4",
    "h264_open_gop.mkv", "h264_open_gop.ts", "h264_fragmented.mp4", "h264_negative_dts.mp4",
    "h264_uneven.mp4", "hevc_open_gop.mp4", "hevc.mkv", *TURNS, "two_sizes.ts", "vp8.webm",
    "vp9_hidden_frames.webm", "av1.mp4", "mpeg2.mpg", "mpeg4_b_frames.mp4", "wmv2.wmv",
    "edit_list.mp4", "uneven.gif", *MORE,
)  # fmt: skip


@pytest.mark.parametrize("row", EXACT)
@pytest.mark.parametrize("held", [1000, 20, 0])
def test_no_order_of_questions_changes_a_bit(
    row: str, held: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packet_index, "HELD_PACKETS", held)
    monkeypatch.setattr(container, "THREADED", 0)
    path = write(tmp_path / row, MORE[row], range(60)).path if row in MORE else ROWS[row](tmp_path / row).path
    expected = in_order(path, TURNS.get(row, 0))
    for threads in (1, 2):
        with PyAVDecoder().open(path, threads) as video:
            assert video.info.num_frames == len(expected) and video.info.rotation == TURNS.get(row, 0)
            for asked in _questions(len(expected), 25, seed=threads):
                frames = video.frames_at(asked)
                assert frames.dtype == np.uint8 and np.array_equal(frames, expected[asked]), (threads, asked)


def test_a_stream_of_gradual_refreshes_is_right_when_read_again(tmp_path: Path) -> None:
    """Key frames that are none: decoding cannot begin there, and read_video counts instead."""
    look = Look(options={"preset": "veryfast", "x264-params": "intra-refresh=1:keyint=10:bframes=0"})
    path = write(tmp_path / "a.mp4", look, range(60)).path
    expected = in_order(path)
    with PyAVDecoder().open(path) as video:
        for asked in _questions(60, 20, seed=1):
            try:
                assert np.array_equal(video.frames_at(asked), expected[asked]), asked
            except WrongCount:
                continue
    video_read = read_video(path, 8)
    assert video_read.total_frames == 60 and np.array_equal(video_read.frames, expected[video_read.indices])


@pytest.mark.parametrize("row", ["h264.mp4", "h264.ts", "h264_b_frames.avi"])
def test_indices_that_the_video_has_not(row: str, tmp_path: Path) -> None:
    with PyAVDecoder().open(ROWS[row](tmp_path / row).path) as video:
        for wrong in ([30], [-1], [0, 29, 30]):
            with pytest.raises(IndexError, match="has frames 0 to 29, asked for"):
                video.frames_at(wrong)
        assert video.frames_at([]).shape == (0, 64, 96, 3)
        assert video.frames_at(np.array([29, 29])).shape == (2, 64, 96, 3)


def test_what_is_given_belongs_to_the_caller(tmp_path: Path) -> None:
    with PyAVDecoder().open(write(tmp_path / "a.mp4", H264).path) as video:
        first = video.frames_at([3, 4])
        kept = first.copy()
        first[:] = 0
        assert np.array_equal(video.frames_at([3, 4]), kept)
        repeated = video.frames_at([5, 5])
        repeated[0] = 0
        assert repeated[1].any()


@pytest.mark.parametrize("row", ["h264.mp4", "h264.ts"])
def test_closing_twice(row: str, tmp_path: Path) -> None:
    video = PyAVDecoder().open(ROWS[row](tmp_path / row).path)
    video.frames_at([20, 3])
    video.close()
    video.close()
    with PyAVDecoder().open(video.info.path) as again:
        again.close()


def _destroyed(path: Path, places: list[int]) -> Path:
    """The file with the content of packets, in the order of the file, overwritten."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        data = bytearray(path.read_bytes())
        for place in places:
            begin, size = packets[place].pos, packets[place].size
            data[begin : begin + size] = b"\xff" * size
    target = path.with_name("destroyed.mp4")
    target.write_bytes(data)
    return target


def test_a_destroyed_packet_is_missed_and_read_video_counts_anew(tmp_path: Path) -> None:
    """Of a frame that no other one refers to: all others are as they were."""
    whole = write(tmp_path / "whole.mp4", H264).path
    expected = in_order(whole)
    with av.open(str(whole)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        # NAL units of H.264 that nothing refers to: nal_ref_idc is 0 (ITU-T H.264, 7.4.1).
        place = next(k for k in range(12, COUNT) if bytes(packets[k])[4] & 0x60 == 0)
        frame = round(float(packets[place].pts * packets[place].time_base) * 25)
    path = _destroyed(whole, [place])
    left = [k for k in range(COUNT) if k != frame]
    with PyAVDecoder().open(path) as video:
        assert video.info.num_frames == COUNT
        assert np.array_equal(video.frames_at(left), expected[left])
        with pytest.raises(WrongCount, match=rf"destroyed\.mp4: frame {frame} of 30 does not decode"):
            video.frames_at([0, frame, 29])
        assert np.array_equal(video.frames_at([frame + 1, 0]), expected[[frame + 1, 0]])
    with PyAVDecoder().open(path, exact=True) as video:
        assert video.info.num_frames == COUNT - 1
        assert np.array_equal(video.frames_at(range(COUNT - 1)), expected[left])
    sampled = read_video(path, COUNT)
    assert sampled.total_frames == COUNT - 1
    assert np.array_equal(sampled.frames, expected[left][sampled.indices])


def test_a_destroyed_beginning(tmp_path: Path) -> None:
    """What follows the next key frame is whole; a quarter is lost, so read_video says so."""
    whole = write(tmp_path / "whole.mp4", H264).path
    expected = in_order(whole)
    path = _destroyed(whole, [0])
    with PyAVDecoder().open(path) as video:
        assert (video.info.width, video.info.height, video.info.num_frames) == (96, 64, COUNT)
        asked = [29, 8, 20, 9]
        assert np.array_equal(video.frames_at(asked), expected[asked])
        with pytest.raises(WrongCount, match="frame 0 of 30"):
            video.frames_at([0, 20])
    with pytest.raises(
        DecodeError, match=r"destroyed\.mp4 is damaged: 2[0-9] of 30 frames decode; get it again"
    ):
        read_video(path, 8)


def test_a_frame_that_the_decoder_calls_corrupt_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FFmpeg marks what it guessed. No file was found where it does so behind a key frame: a copy says it."""

    class Marked:
        is_corrupt = True

        def __init__(self, frame: Any) -> None:
            self.pts = frame.pts

    decode = PyAVVideo._decode_from

    def marking(video: PyAVVideo, *args: Any) -> Iterator[Any]:
        for frame in decode(video, *args):
            yield Marked(frame) if frame.pts == video._index.pts[5] else frame

    monkeypatch.setattr(PyAVVideo, "_decode_from", marking)
    path = write(tmp_path / "clip.mp4", H264).path
    with PyAVDecoder().open(path) as video:
        assert len(video.frames_at([4, 6])) == 2
        with pytest.raises(WrongCount, match="frame 5 of 30 does not decode"):
            video.frames_at([4, 5, 6])


def test_a_file_that_vanishes_while_it_is_read(tmp_path: Path, large: None) -> None:
    path = ROWS["h264.ts"](tmp_path / "a.ts").path
    with PyAVDecoder().open(path) as video:
        path.unlink()
        with pytest.raises(UserError, match=r"cannot open .*a\.ts"):
            video.frames_at([3])


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch, large: None) -> dict[str, int]:
    """How many packets are read from the file, how many go to the decoder, what comes out, and openings."""
    counts = {"read": 0, "decoded": 0, "frames": 0, "opened": 0}

    def counting(name: str, plain: Any) -> Any:
        def count(*arguments: Any) -> Iterator[Any]:
            for item in plain(*arguments):
                counts[name] += 1
                yield item

        return count

    def opening(*arguments: Any) -> Any:
        counts["opened"] += 1
        return plainly(*arguments)

    plainly = module.open_container
    monkeypatch.setattr(module, "open_container", opening)
    monkeypatch.setattr(module, "packets_of", counting("read", module.packets_of))
    monkeypatch.setattr(PyAVVideo, "_packets_from", counting("decoded", PyAVVideo._packets_from))
    monkeypatch.setattr(PyAVVideo, "_decode_from", counting("frames", PyAVVideo._decode_from))
    return counts


LONG, EVERY = 480, 12
FAST = {
    "preset": "ultrafast",
    "g": str(EVERY),
    "bf": "2",
    "sc_threshold": "0",
    "x264-params": "b-pyramid=none",
}


@pytest.mark.parametrize(
    ("name", "look"),
    [
        ("a.mp4", Look(options=FAST, bits=12)),
        ("a.mkv", Look(options=FAST, bits=12)),
        (
            "b.mp4",
            Look(
                "libx265",
                HEVC.options | {"x265-params": f"{X265}:keyint={EVERY}:b-adapt=0:bframes=3"},
                bits=12,
            ),
        ),
    ],
    ids=["h264 mp4", "h264 mkv", "hevc mp4"],
)
def test_of_a_long_clip_little_is_read_and_less_is_decoded(
    name: str, look: Look, tmp_path: Path, work: dict[str, int]
) -> None:
    """Eight frames of 480 with 40 key frames, each of the eight eight behind one."""
    path = write(tmp_path / name, look, range(LONG)).path
    asked = [EVERY * group + 8 for group in range(2, 40, 5)]
    with PyAVDecoder().open(path) as video:
        work.update(read=0, decoded=0, frames=0, opened=0)
        frames = video.frames_at(asked)
    assert work["opened"] == 0
    # 9 to each frame, and what stands before it in the file because it is shown later.
    assert 8 * 8 <= work["decoded"] <= 8 * 14
    assert work["read"] <= 1.3 * work["decoded"] < 0.5 * LONG
    # Of three or four frames two or three are referred to by no other.
    assert work["frames"] <= 0.7 * work["decoded"]
    assert np.array_equal(frames, in_order(path)[asked])


def test_without_leaving_frames_out_all_of_them_would_come(
    tmp_path: Path, work: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the share above is what skipping saves."""
    path = write(tmp_path / "a.mp4", Look(options=FAST, bits=12), range(LONG)).path
    asked = [EVERY * group + 10 for group in range(0, 40, 5)]
    counts = {}
    for codecs in (module.SKIPS_EXACTLY, frozenset[str]()):
        monkeypatch.setattr(module, "SKIPS_EXACTLY", codecs)
        with PyAVDecoder().open(path) as video:
            work["frames"] = work["decoded"] = 0
            video.frames_at(asked)
            counts[bool(codecs)] = dict(work)
    assert counts[True]["decoded"] == counts[False]["decoded"]
    assert counts[True]["frames"] < 0.75 * counts[False]["frames"]


def test_frames_one_after_the_other_are_read_once(tmp_path: Path, work: dict[str, int]) -> None:
    path = write(tmp_path / "a.mp4", H264).path
    with PyAVDecoder().open(path) as video:
        work["read"] = 0
        video.frames_at(range(COUNT))
        assert work["read"] <= COUNT + 2


def test_where_seeking_is_not_exact_packets_are_read_in_order(tmp_path: Path, work: dict[str, int]) -> None:
    path = ROWS["h264.ts"](tmp_path / "a.ts").path
    expected = in_order(path)
    with PyAVDecoder().open(path) as video:
        work.update(read=0, decoded=0, opened=0)
        assert np.array_equal(video.frames_at([4, 12, 27]), expected[[4, 12, 27]])
        assert work["opened"] == 1 and work["read"] <= COUNT
        work.update(read=0, decoded=0, opened=0)
        assert np.array_equal(video.frames_at([2]), expected[[2]])  # behind it: from the beginning
        assert work["opened"] == 1 and work["read"] <= 6
        work.update(read=0, decoded=0, opened=0)
        assert np.array_equal(video.frames_at([17, 26]), expected[[17, 26]])  # before it: goes on
        assert work["opened"] == 0 and work["read"] <= COUNT - 3
        assert work["decoded"] < work["read"]  # passed over on the way to the key frame


def test_of_a_small_file_nothing_is_read_or_decoded_twice(
    tmp_path: Path, work: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    look = Look(options=H264.options | {"bf": "0", "g": "30"})
    path = write(tmp_path / "a.mp4", look).path
    expected = in_order(path)
    monkeypatch.setattr(packet_index, "HELD_PACKETS", 30)
    packet_index.forget_indices()
    with PyAVDecoder().open(path) as video:
        work.update(read=0, opened=0, decoded=0)
        assert len(video._held.frames) == 1  # of the first packet, and the decoder goes on behind it
        assert np.array_equal(video.frames_at([29]), expected[[29]])
        assert not video._held.frames and (work["read"], work["opened"]) == (0, 0)
        assert np.array_equal(video.frames_at([0, 7]), expected[[0, 7]])
    monkeypatch.setattr(packet_index, "HELD_PACKETS", 29)
    packet_index.forget_indices()
    with PyAVDecoder().open(path) as video:
        work["read"] = 0
        assert np.array_equal(video.frames_at([29]), expected[[29]]) and work["read"] > 0
        assert not video._held.packets


def test_only_so_many_bytes_are_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.mp4", H264).path
    with av.open(str(path)) as container:
        size = sum(packet.size for packet in container.demux(video=0))
    for room, held in ((size, COUNT), (size - 1, 0)):
        monkeypatch.setattr(packet_index, "HELD_BYTES", room)
        packet_index.forget_indices()
        with PyAVDecoder().open(path) as video:
            assert len(video._held.packets) == held
    assert not video._held.packets  # closed


def test_seeking_that_fails_is_given_up(
    tmp_path: Path, work: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table of key frames that leads behind the frame: the file is read in order from then on."""
    path = write(tmp_path / "a.mp4", H264).path
    expected = in_order(path)
    with PyAVDecoder().open(path) as video:
        monkeypatch.setattr(video, "_container", _Astray(video._container, int(video._index.key_pts[-1])))
        work.update(read=0, opened=0)
        for asked in ([12], [3, 27], [20], [29, 0]):
            assert np.array_equal(video.frames_at(asked), expected[asked])
        assert not video._seeks and work["opened"] >= 1


class _Astray:
    """A container in which all seeking leads to one place."""

    def __init__(self, container: Any, place: int) -> None:
        self._container, self._place = container, place

    def seek(self, target: int, stream: Any) -> None:
        self._container.seek(self._place, stream=stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)
