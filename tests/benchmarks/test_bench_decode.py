"""Decoding rows: right frames have times, wrong ones have none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.decode import bench_decode
from benchmarks.decode.bench_decode import DIRECTIONS, decode_rows
from benchmarks.decode.clips import CODECS, Clip, described, made, pictures
from benchmarks.decode.readers import READERS
from blip3v.errors import UserError

FIELDS = [
    "level", "op", "case", "dtype", "direction", "backend", "version", "error", "ok", "difference",
    "frames", "threads", "median_ms", "p20_ms", "p80_ms", "repeats", "clock", "clips_per_s",
    "frames_per_s", "first_frame_ms", "cpu_ms", "command",
]  # fmt: skip


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    return made("mpeg4", tmp_path_factory.mktemp("clips"))


def rows(clip: Clip, *peers: str, **choices: Any) -> list[dict[str, Any]]:
    return list(decode_rows("cpu", clips=[clip.path], peers=peers, repeats=2, **choices))


def test_rows_have_all_fields_and_their_numbers_agree(clip: Clip) -> None:
    measured = rows(clip, "blip3v.video", "decord", "pyav")
    assert [(row["direction"], row["frames"]) for row in measured[::3]] == [
        ("8 frames", 8),
        ("all frames", 48),
    ]
    for row in measured:
        assert [name for name in FIELDS if name not in row] == []
        assert (
            row["ok"] and row["difference"] < 1 and row["threads"] == 1 and row["case"] == "320x240_48_frames"
        )
        assert row["frames_per_s"] == pytest.approx(row["frames"] * row["clips_per_s"])
        assert row["clips_per_s"] == pytest.approx(1e3 / row["median_ms"])


@pytest.mark.parametrize("codec", CODECS)
def test_clips_hold_the_pictures_they_were_made_of(codec: str, tmp_path: Path) -> None:
    clip = made(codec, tmp_path)
    if clip.failure:
        pytest.skip(f"NOT TESTED: {clip.failure}")
    frames = READERS["pyav"](clip.path, range(clip.frames), 1)
    assert frames.shape == (48, 240, 320, 3)
    drawn = pictures(48).astype(float)
    for number in (0, 23, 24, 47):
        distances = np.abs(drawn - frames[number]).mean(axis=(1, 2, 3))
        assert distances.argmin() == number and distances[number] < 8
    assert described(clip.path).frames == 48


@pytest.mark.parametrize(
    "fault", ["the next frame", "too few", "blue is red", "a mean off by four"], ids=lambda text: text
)
def test_a_wrong_reader_is_failed_and_untimed(
    fault: str, clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(path: Path, indices: Sequence[int], threads: int) -> np.ndarray:
        if fault == "the next frame":
            return READERS["pyav"](path, [min(index + 1, 47) for index in indices], threads)
        frames = READERS["pyav"](path, indices, threads)
        if fault == "too few":
            return frames[:-1]
        return frames[..., ::-1] if fault == "blue is red" else frames.clip(4, 255) - 4

    monkeypatch.setitem(bench_decode.READERS, "decord", wrong)
    for row in rows(clip, "decord"):
        assert row["ok"] is False and row["reason"] and "median_ms" not in row, row


def test_what_is_not_installed_is_a_row_with_a_reason(clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "torchcodec", None)
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    for row in rows(clip, "torchcodec", "dali"):
        assert "ModuleNotFoundError" in row["reason"] and "median_ms" not in row and "ok" not in row


def test_readers_decode_with_equal_threads(clip: Clip) -> None:
    measured = rows(clip, "blip3v.video", "decord", "pyav", threads=2, directions=DIRECTIONS[:1])
    assert all(row["threads"] == 2 for row in measured)
    assert "one thread" in measured[0]["reason"] and all(row["ok"] for row in measured[1:])


def test_an_encoder_that_is_missing_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CODECS, "mpeg4", CODECS["mpeg4"].__class__("no_such_encoder", ".mp4", {}))
    for row in decode_rows("cpu", ["mpeg4"], peers=["pyav"], repeats=1):
        assert "no file could be written" in row["reason"] and "--op mpeg4" in row["command"]


def test_unknown_codecs_are_refused() -> None:
    with pytest.raises(UserError, match="h264, hevc, vp9, mpeg4"):
        next(decode_rows("cpu", ["mjpeg"]))
