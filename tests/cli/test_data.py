"""`blip3v data`: from published files to a report, to records, to plain tars."""

from __future__ import annotations

import csv
import json
import tarfile
from pathlib import Path

import av
import numpy as np
import pytest

from blip3v.cli.data import ACTIONS, data
from blip3v.data.mixture import read_mixture
from blip3v.errors import UserError


def video(path: Path, codec: str = "libx264", pixels: str = "yuv420p") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        for number in range(10):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 * number, np.uint8), format="rgb24")
            container.mux(stream.encode(frame.reformat(format=pixels)))
        container.mux(stream.encode())


@pytest.fixture
def mixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """MSVD-QA with a video that is missing and one that is broken, and TGIF-QA in two forms."""
    monkeypatch.setenv("COLUMNS", "160")
    video(tmp_path / "msvd" / "vid1.avi", "mpeg4")
    (tmp_path / "msvd" / "vid2.avi").write_bytes(b"broken")
    video(tmp_path / "gifs" / "x.gif", "gif", "rgb8")
    entries = [{"answer": "cat", "id": n, "question": "what?", "video_id": n} for n in (1, 2, 3)]
    (tmp_path / "train_qa.json").write_text(json.dumps(entries))
    with (tmp_path / "Train_action_question.csv").open("w", newline="") as file:
        columns = ["gif_name", "question", "a1", "a2", "a3", "a4", "a5", "answer", "vid_id", "key"]
        rows = [columns, ["x", "what ?", "a", "b", "c", "d", "e", "1", "ID", "0"]]
        csv.writer(file, delimiter="\t").writerows(rows)
    path = tmp_path / "mix.toml"
    path.write_text(
        '[[source]]\nformat = "msvd"\nannotations = "train_qa.json"\nmedia = "msvd"\n'
        '[[source]]\nformat = "tgif"\nannotations = "Train_action_question.csv"\nmedia = "gifs"\n'
        'forms = ["open", "multiple_choice"]\nweight = 2\n'
    )
    return path


def test_check(mixture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data(["check", str(mixture), "--json", str(tmp_path / "out.json")])
    text = capsys.readouterr().out
    for words in ("kept as multiple_choice", "skipped: missing video", "vid3.avi", "action 2", "6 records"):
        assert words in text
    fields = json.loads((tmp_path / "out.json").read_text())
    assert (fields["kept"], fields["skipped"], fields["records"], fields["decoded"]) == (4, 1, 6, 0)
    assert fields["digest"] == read_mixture(mixture, seed=42).records.fingerprint


def test_check_decodes_and_names_the_broken_video(
    mixture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit:
        data(["check", str(mixture), "--decode", "10", "--json", str(tmp_path / "out.json")])
    assert exit.value.code == 1
    text = capsys.readouterr().out
    assert "decoded 2 of 3 videos" in text and "vid2.avi" in text
    (broken,) = json.loads((tmp_path / "out.json").read_text())["broken"]
    assert broken["media"].endswith("vid2.avi")


@pytest.mark.parametrize(("allow", "code"), [("0.3", 0), ("0.1", 1)])
def test_how_much_may_be_skipped(mixture: Path, allow: str, code: int) -> None:
    if code == 0:
        data(["check", str(mixture), "--allow", allow])
        return
    with pytest.raises(SystemExit) as exit:
        data(["check", str(mixture), "--allow", allow])
    assert exit.value.code == code


def test_nothing_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "own.jsonl").write_text("{}\n")
    with pytest.raises(SystemExit) as exit:
        data(["check", str(tmp_path)])
    assert exit.value.code == 1
    text = capsys.readouterr().out
    assert "malformed entry" in text and "nothing is left to train on" in text


def test_convert(mixture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data(["convert", str(mixture), str(tmp_path / "all.jsonl")])
    assert "4 records written" in capsys.readouterr().out
    mixed, again = read_mixture(mixture, seed=42).records, read_mixture(tmp_path / "all.jsonl").records
    assert list(again) == list(mixed[:4])  # the weight's copies are written once
    data(["convert", str(mixture), str(tmp_path / "other.jsonl"), "--seed", "1"])
    assert (tmp_path / "other.jsonl").read_text() != (tmp_path / "all.jsonl").read_text()
    with pytest.raises(UserError, match="not under"):
        data(["convert", str(mixture), str(tmp_path / "elsewhere" / "all.jsonl")])


def test_convert_of_two_sources_with_one_id(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mix.toml"
    for part in ("cats", "dogs"):
        turns = [{"from": "human", "value": "what?"}, {"from": "gpt", "value": part}]
        lines = [{"id": "1", "conversations": turns}, {"id": "2", "source": "both", "conversations": turns}]
        (tmp_path / f"{part}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        with path.open("a") as file:
            file.write(f'[[source]]\nname = "{part}"\nformat = "records"\nannotations = "{part}.jsonl"\n')
    data(["convert", str(path), str(tmp_path / "all.jsonl")])
    said = capsys.readouterr().out
    assert "3 records written" in said and "1 entries skipped\n1 of them have the id and the source" in said
    found = [
        (record.source, record.id, record.turns[0].answer)
        for record in read_mixture(tmp_path / "all.jsonl").records
    ]
    assert found == [("cats", "1", "cats"), ("both", "2", "cats"), ("dogs", "1", "dogs")]


def test_unpack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    (tmp_path / "clip").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "clip" / "1.jpeg")
    with tarfile.open(tmp_path / "c.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "clip", "clip")
    command = ["unpack", str(tmp_path / "c.tar.gz"), "--out", str(tmp_path / "out")]
    data(command)
    assert "c.tar: 1 folders of frames\n" in capsys.readouterr().out
    data(command)
    assert "there already" in capsys.readouterr().out


def test_help_and_wrong_actions(capsys: pytest.CaptureFixture[str]) -> None:
    for args in ([], ["--help"]):
        data(args)
        text = capsys.readouterr().out
        assert all(name in text for name in ACTIONS)
    with pytest.raises(UserError, match="choose one of check, convert, unpack, pack, rephrase"):
        data(["chekc"])
