"""decord against PyAV's frame numbers, and each kind of file that it is not trusted with."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.decode.files.painted import paint, read_numbers
from benchmarks.decode.files.plain import H264
from benchmarks.decode.files.writing import COUNT, SIZE, write
from benchmarks.decode.formats import ROWS
from blip3v.video.decoders.decord import DecordDecoder
from blip3v.video.decoders.protocol import DecodeError, Limits, UnsupportedVideo
from blip3v.video.decoders.pyav import PyAVDecoder

DECODER = DecordDecoder()


@pytest.fixture(autouse=True)
def installed() -> None:
    if why := DECODER.available():
        pytest.skip(f"NOT TESTED: {why}")


READ = (
    "h264.mp4",
    "h264.mkv",
    "h264.avi",
    "h264_uneven.mkv",
    "vp9.webm",
    "hevc_open_gop.mp4",
    "h264_open_gop.mkv",
)


@pytest.mark.parametrize("row", READ)
def test_the_same_frames_as_pyav(row: str, tmp_path: Path) -> None:
    made = ROWS[row](tmp_path / row)
    random = np.random.default_rng(3)
    with DECODER.open(made.path) as video, PyAVDecoder().open(made.path) as other:
        assert np.array_equal(video.info.times, other.info.times)
        for size in (1, 2, 8, 30, 1, 5):
            asked = random.integers(COUNT, size=size)
            frames, expected = video.frames_at(asked), other.frames_at(asked)
            assert frames.dtype == np.uint8 and frames.shape == expected.shape
            assert read_numbers(frames) == read_numbers(expected) == asked.tolist()


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_turned_videos_come_upright(degrees: int, tmp_path: Path) -> None:
    made = ROWS[f"h264_turned_{degrees}.mp4"](tmp_path / "a.mp4")
    with DECODER.open(made.path) as video:
        assert video.info.rotation == degrees // 90
        frames = video.frames_at([7, 21])
    assert frames.shape == (2, *SIZE[::-1], 3)
    for frame, number in zip(frames, (7, 21)):
        assert np.abs(frame.astype(float) - paint(number, *SIZE)).mean() < 25


WRONG = "decord gives wrong frames of {path}, "
REFUSED = {
    "mpeg2.ts": f"{WRONG}a stream of MPEG packets",
    "mpeg2.mpg": f"{WRONG}a stream of MPEG packets",
    "h264_keyframes.avi": f"{WRONG}h264 in AVI",
    "h264_b_frames.avi": f"{WRONG}h264 in AVI",
    "two_videos.mkv": f"{WRONG}which holds several videos",
    "edit_list.mp4": "decord counts 30 frames in {path}, which shows 25",
    "av1.mp4": "decord does not open {path}",
}


@pytest.mark.parametrize("row", REFUSED)
def test_what_it_is_not_asked_for(row: str, tmp_path: Path) -> None:
    path = ROWS[row](tmp_path / row).path
    message = f"{REFUSED[row].format(path=path)}; read it with the decoder pyav"
    with pytest.raises(UnsupportedVideo, match=f"^{re.escape(message)}$"):
        DECODER.open(path)


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff\xfe.mp4")
    write(tmp_path / "a.mp4", H264).path.rename(path)
    with pytest.raises(UnsupportedVideo) as caught:
        DECODER.open(path)
    assert str(caught.value) == (
        f"decord does not open {path!r}, whose name is not UTF-8; rename it, or read it with the decoder pyav"
    )
    str(caught.value).encode("utf-8")  # a log can be written with it


@pytest.mark.parametrize("name", ["file:other.mp4", "concat:other.mp4", "subfile,,start,0,end,0,,:other.mp4"])
def test_a_name_leads_to_no_other_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("other.mp4"), H264, range(100, 100 + COUNT))
    write(Path("own.mp4"), H264).path.rename(name)
    with DECODER.open(Path(name)) as video:
        assert read_numbers(video.frames_at([0, 9])) == [0, 9]


@pytest.mark.parametrize("row", ["h264.mp4", "hevc_open_gop.mp4"])
def test_indices(row: str, tmp_path: Path) -> None:
    with DECODER.open(ROWS[row](tmp_path / row).path) as video:
        for wrong in ([30], [-1], [0, 30]):
            with pytest.raises(IndexError, match="has frames 0 to 29, asked for"):
                video.frames_at(wrong)
        assert video.frames_at([]).shape == (0, 64, 96, 3)


def test_limits_and_broken_files_are_refused_as_by_pyav(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", H264).path
    with pytest.raises(DecodeError, match="more than 10 pixels"):
        DECODER.open(path, limits=Limits(max_pixels=10))
    (tmp_path / "text.mp4").write_text("no video\n" * 100)
    with pytest.raises(DecodeError, match=r"cannot open .*text\.mp4 as a video"):
        DECODER.open(tmp_path / "text.mp4")


class Spy:
    """A reader that says what it is asked for."""

    def __init__(self, reader: Any) -> None:
        self.reader, self.calls = reader, list[str]()

    def __getattr__(self, name: str) -> Any:
        self.calls.append(name)
        return getattr(self.reader, name)


@pytest.mark.parametrize(("row", "in_order"), [("h264.mp4", False), ("hevc_open_gop.mp4", True)])
def test_only_open_groups_are_read_in_order(
    row: str, in_order: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with DECODER.open(ROWS[row](tmp_path / row).path) as video:
        spy = Spy(video._reader)
        monkeypatch.setattr(video, "_reader", spy)
        assert read_numbers(video.frames_at([11, 4])) == [11, 4]
        assert spy.calls == (["seek"] + ["next"] * 12 if in_order else ["get_batch"])


def test_a_reader_that_breaks_off_is_an_error_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def get_batch(self, asked: np.ndarray) -> None:
            raise RuntimeError("[00:00:00] video_reader.cc:651: Error decoding\nStack trace")

    with DECODER.open(write(tmp_path / "a.mp4", H264).path) as video:
        monkeypatch.setattr(video, "_reader", Broken())
        with pytest.raises(
            DecodeError, match=r"a\.mp4 breaks off while decoding; check that it plays"
        ) as caught:
            video.frames_at([1])
        assert "\n" not in str(caught.value)


def test_frames_of_another_size_are_not_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Turned:
        """Gives height and width the other way round."""

        def get_batch(self, asked: np.ndarray) -> Any:
            return self

        def asnumpy(self) -> np.ndarray:
            return np.zeros((1, 96, 64, 3), dtype=np.uint8)

    path = write(tmp_path / "a.mp4", H264).path
    with DECODER.open(path) as video:
        monkeypatch.setattr(video, "_reader", Turned())
        with pytest.raises(UnsupportedVideo) as caught:
            video.frames_at([1])
    assert str(caught.value) == (
        f"decord gives frames [1, 96, 64, 3] of {path}, expected [1, 64, 96, 3]; read it with the decoder "
        "pyav"
    )


def test_closing_lets_go_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", H264).path

    def held() -> int:
        links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
        return sum(os.path.exists(link) and os.path.realpath(link) == str(path) for link in links)

    video = DECODER.open(path)
    video.frames_at([3])
    assert held() == 1
    video.close()
    video.close()
    assert held() == 0
