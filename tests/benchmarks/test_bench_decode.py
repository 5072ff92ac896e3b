"""Decoding rows: right frames have times, wrong ones have none."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.decode import clips as module
from benchmarks.decode.bench_decode import DIRECTIONS, decode_rows
from benchmarks.decode.clips import CODECS, LENGTHS, Clip, Length, described, made, waves
from benchmarks.decode.readers import INDEXED, ON_GPU, PACKED, READERS, SPARSE, reader_named
from blip3v.errors import UserError

FIELDS = [
    "level", "op", "case", "dtype", "direction", "backend", "version", "error", "ok", "difference",
    "frames", "threads", "median_ms", "p20_ms", "p80_ms", "repeats", "clock", "clips_per_s",
    "frames_per_s", "first_frame_ms", "cpu_ms", "cpu_use", "decoder_use", "command",
]  # fmt: skip
SHORT = LENGTHS["short"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    return made("mpeg4", tmp_path_factory.mktemp("clips"))


def rows(clip: Clip, *peers: str, **choices: Any) -> list[dict[str, Any]]:
    return list(decode_rows("cpu", clips=[clip.path], peers=peers, repeats=2, share=0.1, **choices))


def test_rows_have_all_fields_and_their_numbers_agree(clip: Clip) -> None:
    measured = rows(clip, "blip3v pyav", "decord", "pyav")
    assert [(row["direction"], row["frames"]) for row in measured[::3]] == [
        ("8 frames", 8),
        ("all frames", SHORT.frames),
    ]
    for row in measured:
        assert [name for name in FIELDS if name not in row] == []
        assert row["ok"] and row["difference"] < 1 and row["threads"] == 1
        assert row["case"] == f"{SHORT.width}x{SHORT.height}_{SHORT.frames}_frames"
        assert row["frames_per_s"] == pytest.approx(row["frames"] * row["clips_per_s"])
        assert row["clips_per_s"] == pytest.approx(1e3 / row["median_ms"])
        assert row["cpu_ms"] > 0 and 0.1 < row["cpu_use"] < 16 and row["decoder_use"] is None
        assert ("reopened_ms" in row) == (row["backend"] in INDEXED)
        assert str(clip.path.parent) not in row["command"]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("codec", CODECS)
def test_clips_hold_the_pictures_they_were_made_of(
    codec: str, length: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = LENGTHS[length]
    if length == "long":  # three seconds of it, to be quick
        size = Length(3, size.width, size.height, size.group)
        monkeypatch.setitem(module.LENGTHS, length, size)
    clip = made(codec, tmp_path, length)
    if clip.failure:
        pytest.skip(f"NOT TESTED: {clip.failure}")
    frames = READERS["pyav"](clip.path, range(clip.frames), 1)
    assert frames.shape == (size.frames, size.height, size.width, 3)
    drawn = np.stack([waves(number, size.width, size.height) for number in range(size.frames)]).astype(float)
    # A GIF has 256 colours, in four steps of blue.
    most = 20 if codec == "gif" else 9
    for number in (0, 23, 24, size.frames - 1):
        distances = np.abs(drawn - frames[number]).mean(axis=(1, 2, 3))
        assert distances.argmin() == number and distances[number] < most, distances[number]
    assert described(clip.path).frames == size.frames


@pytest.mark.parametrize(
    "fault",
    ["the next frame", "the next frame once", "too few", "blue is red", "a mean off by four"],
    ids=lambda text: text,
)
def test_a_wrong_reader_is_failed_and_untimed(
    fault: str, clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = READERS["pyav"]

    def wrong(path: Path, indices: Sequence[int], threads: int) -> np.ndarray:
        last = SHORT.frames - 1
        if fault == "the next frame":
            return right(path, [min(index + 1, last) for index in indices], threads)
        if fault == "the next frame once":
            return right(path, [*indices[:-2], indices[-1], indices[-1]], threads)
        frames = right(path, indices, threads)
        if fault == "too few":
            return frames[:-1]
        return frames[..., ::-1] if fault == "blue is red" else frames.clip(4, 255) - 4

    monkeypatch.setitem(READERS, "decord", wrong)
    for row in rows(clip, "decord"):
        assert row["ok"] is False and row["reason"] and "median_ms" not in row, row


def test_what_is_not_installed_is_a_row_with_a_reason(clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    for row in rows(clip, "torchcodec"):
        assert "ModuleNotFoundError" in row["reason"] and "median_ms" not in row and "ok" not in row


@pytest.mark.parametrize("codec", ["h264", "vp9", "mpeg2"])
def test_every_reader_is_right_or_says_why_not(codec: str, tmp_path: Path) -> None:
    clip = made(codec, tmp_path)
    measured = {row["backend"]: row for row in rows(clip, directions=DIRECTIONS[:1])}
    assert list(measured) == list(READERS)
    for name in ("blip3v pyav", PACKED, "pyav"):
        assert measured[name]["ok"] and measured[name]["clips_per_s"] > 0, measured[name]
    for name, row in measured.items():
        assert row.get("ok") is True or row["reason"], name
        assert row.get("ok") is not False or name in ("decord", "pyav seeking", "torchcodec"), row
    if importlib.util.find_spec("nvidia.dali") is not None and codec == "vp9":
        assert measured["dali"]["ok"] and measured["blip3v dali"]["ok"]


def test_readers_decode_with_equal_threads(clip: Clip) -> None:
    measured = rows(clip, "blip3v pyav", "decord", "pyav", threads=2, directions=DIRECTIONS[:1])
    assert all(row["threads"] == 2 and row["ok"] and row["case"].endswith("_2_threads") for row in measured)


def test_readers_of_a_few_frames_are_not_asked_for_all(clip: Clip) -> None:
    measured = rows(clip, directions=DIRECTIONS[1:])
    assert not {row["backend"] for row in measured} & set(SPARSE)
    assert rows(clip, PACKED, directions=DIRECTIONS[1:])[0]["reason"] == "it reads a few frames only"


def test_a_gpu_changes_dali_alone() -> None:
    for name in READERS:
        assert reader_named(name, "cpu") is READERS[name]
        assert reader_named(name, "cuda:1") is (ON_GPU[name] if "dali" in name else READERS[name])


def test_an_encoder_that_is_missing_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CODECS, "mpeg4", CODECS["mpeg4"].__class__("no_such_encoder", ".mp4", {}))
    measured = list(decode_rows("cpu", ["mpeg4"], peers=["pyav"], repeats=1))
    assert len(measured) == 3  # both directions of the short clip, one of the long
    for row in measured:
        assert "no file could be written" in row["reason"] and "--op mpeg4" in row["command"]


def test_unknown_codecs_are_refused() -> None:
    with pytest.raises(UserError, match="h264, hevc, vp9, mpeg4"):
        next(decode_rows("cpu", ["theora"]))
