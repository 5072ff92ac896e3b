"""A user's own files: ratios of one run, wrong readers left out, no folders in what is written."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.decode import packing, real
from benchmarks.decode.clips import made
from benchmarks.decode.engine_use import engine_use
from benchmarks.decode.turns import LEAST, in_turns
from blip3v.errors import UserError


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made("mpeg4", tmp_path_factory.mktemp("clips")).path


def test_the_ratio_is_to_the_fastest_plain_way_that_is_right(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "real.json"
    real.main((path,), (1, 2), ("blip3v pyav", "decord", "pyav", "torchcodec"), repeats=3, out=out)
    rows = json.loads(out.read_text())["rows"]
    assert [(row["backend"], row["threads"]) for row in rows[::4]] == [("blip3v pyav", 1), ("blip3v pyav", 2)]
    for ours, *others in (rows[:4], rows[4:]):
        plain = [row["median_ms"] for row in others if row["backend"] in ("decord", "pyav")]
        assert ours["ratio"] == pytest.approx(min(plain) / ours["median_ms"])
        assert ours["ratio_reopened"] == pytest.approx(min(plain) / ours["reopened_ms"])
    assert str(path.parent) not in out.read_text()
    table = real.lines(rows)
    assert len(table) == 3 and f"{rows[0]['ratio']:.2f} of {rows[0]['fastest']}" in table[1]


def test_a_wrong_reader_is_no_measure(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.decode.readers import READERS

    monkeypatch.setitem(READERS, "decord", lambda *arguments: READERS["pyav"](*arguments)[::-1])
    rows = list(real.real_rows([path], peers=("blip3v pyav", "decord", "pyav"), repeats=1, share=0.01))
    assert rows[1]["ok"] is False and rows[0]["fastest"] == "pyav" and "wrong" in real.lines(rows)[1]


def test_what_cannot_be_measured_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least one video"):
        real.main(())
    with pytest.raises(UserError, match="--peer"):
        real.main((tmp_path / "a.mp4",), peer=("vlc",))
    with pytest.raises(UserError, match="no such video"):
        real.main((tmp_path / "a.mp4",))
    with pytest.raises(UserError, match="no such video"):
        packing.main((tmp_path / "a.mp4",))


def test_packed_clips_give_the_pixels_of_their_files(path: Path, tmp_path: Path) -> None:
    from blip3v.video import frames_to_pixels, read_video

    (shard,) = packing.packed([path], tmp_path, size=96)
    stored = read_video(shard, 8)
    # 16 frames of 48 are stored: those asked for, or one beside them.
    asked = read_video(path, 8)
    assert np.abs(stored.indices - asked.indices).max() <= 2
    exact = read_video(path, 8, lambda total, wanted: stored.indices)
    pixels = [frames_to_pixels(frames, 96) for frames in (stored.frames, exact.frames)]
    assert (pixels[0] - pixels[1]).abs().mean() < 0.05


def test_packing_rows_say_how_often_the_shard_is_faster(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "packing.json"
    shutil.copy(path, tmp_path / "other.mp4")
    packing.main((path, tmp_path / "other.mp4"), repeats=3, out=out)
    rows = json.loads(out.read_text())["rows"]
    assert [row["case"] for row in rows] == ["1_clips", "1_clips", "2_clips"]
    for row in rows:
        assert row["ratio"] == pytest.approx(row["median_ms"] / row["packed_ms"])
        assert row["packed_clips_per_s"] == pytest.approx(row["clips_per_s"] * row["ratio"])
    assert rows[2]["median_ms"] == pytest.approx(rows[0]["median_ms"] + rows[1]["median_ms"])
    assert f"{rows[2]['ratio']:.1f}" in capsys.readouterr().out.splitlines()[-1]


def test_turns_go_round_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []

    def call(name: str) -> Callable[[], object]:
        return lambda: called.append(name)

    turns = in_turns({name: call(name) for name in "ab"}, 4, 60, before=call("-"))
    assert "".join(called) == "-a-b" * 4 and turns["a"].timing.repeats == 4
    called.clear()
    turns = in_turns({name: call(name) for name in "ab"}, 1000, 0, warm=True)
    assert "".join(called) == "ab" * (1 + LEAST) and turns["b"].timing.repeats == LEAST
    assert turns["a"].cpu >= 0 and turns["a"].mean > 0


def test_the_use_of_decoder_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script in the place of nvidia-smi: no GPU has been asked."""
    calls: list[Any] = []
    assert engine_use(lambda: calls.append(0), "cpu") is None and not calls
    script = tmp_path / "nvidia-smi"
    script.write_text(
        f"#!{sys.executable}\nimport sys, time\nassert '--id=1' in sys.argv\n"
        "for use in (0, 0, 40, 60):\n    print(use, flush=True)\ntime.sleep(60)\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert engine_use(lambda: calls.append(0), "cuda:1", seconds=1.0) == 0.5 and calls
    script.unlink()
    assert engine_use(lambda: calls.append(0), "cuda") is None
