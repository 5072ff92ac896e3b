from __future__ import annotations

import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from blip3v.data.conversation import Turn
from blip3v.data.records import Record, fingerprint, read_records, write_records
from blip3v.errors import UserError

GOOD: dict[str, Any] = {
    "id": "a",
    "video": "clips/a.mp4",
    "conversations": [
        {"from": "human", "value": "<video>\nWhat moves?"},
        {"from": "gpt", "value": "A circle."},
    ],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.mp4").touch()
    (tmp_path / "still.png").touch()
    return tmp_path


def _write(folder: Path, *lines: Any) -> Path:
    texts = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    (folder / "data.jsonl").write_bytes(b"\n".join(texts) + b"\n")
    return folder / "data.jsonl"


def test_reads_the_llava_format(folder: Path) -> None:
    turns = [*GOOD["conversations"], {"from": "human", "value": "Its colour?"}, {"from": "gpt", "value": ""}]
    image = {"id": 7, "image": "still.png", "kind": "colour", "conversations": GOOD["conversations"]}
    path = _write(folder, GOOD | {"conversations": turns, "note": "ignored"}, b"  ", image)
    assert read_records(path) == [
        Record(
            "a", (Turn("What moves?", "A circle."), Turn("Its colour?", "")), video=folder / "clips/a.mp4"
        ),
        Record("7", (Turn("What moves?", "A circle."),), image=folder / "still.png", kind="colour"),
    ]


def test_what_is_written_reads_back(folder: Path) -> None:
    records = [
        Record("1", (Turn("Größe?", "ein Meter"), Turn("why", "")), video=folder / "clips" / "a.mp4"),
        Record("2", (Turn("colour?", "red"),), image=folder / "still.png", kind="colour"),
        Record("3", (Turn("no picture", "none"),)),
        Record("4", (Turn("q", "a"),), video=folder / "clips" / "a.mp4", source="mira", span=(0.5, 12.0)),
    ]
    write_records(folder / "out.jsonl", records)
    assert read_records(folder / "out.jsonl") == records
    first = json.loads((folder / "out.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert set(first) == {"id", "video", "conversations"}
    assert first["video"] == "clips/a.mp4"
    assert first["conversations"][0] == {"from": "human", "value": "<video>\nGröße?"}


BAD = [
    (b"{not json", "not JSON"),
    (b"[1]", "JSON object"),
    (b'{"id": "\xff"}', "UTF-8"),
    ({k: v for k, v in GOOD.items() if k != "id"}, "'id'"),
    (GOOD | {"id": True}, "'id'"),
    (GOOD | {"kind": 3}, "'kind'"),
    (GOOD | {"source": 3}, "'source'"),
    (GOOD | {"span": [1]}, "'span'"),
    (GOOD | {"span": [2, 1]}, "'span'"),
    (GOOD | {"span": [0, True]}, "'span'"),
    (b'{"id": 1, "video": "clips/a.mp4", "span": [0, 1' + b"0" * 400 + b"]}", "'span'"),
    (b'{"id": 1' + b"0" * 5000 + b"}", "beyond all measure"),
    (GOOD | {"video": None, "span": [0, 1]}, "without a video"),
    (GOOD | {"video": ["a.mp4"]}, "one path"),
    (GOOD | {"video": "../a.mp4"}, "leads out"),
    (GOOD | {"video": "clips/../../a.mp4"}, "leads out"),
    (GOOD | {"video": "/etc/passwd"}, "leads out"),
    (GOOD | {"video": "clips/b.mp4"}, "no such video"),
    (GOOD | {"image": "still.png"}, "one of them"),
    (GOOD | {"conversations": []}, "not empty"),
    (GOOD | {"conversations": GOOD["conversations"][:1]}, "no answer"),
    (GOOD | {"conversations": GOOD["conversations"][::-1]}, "from human"),
    (GOOD | {"conversations": [{"from": "human"}, {"from": "gpt", "value": ""}]}, "'value'"),
]


@pytest.mark.parametrize(("line", "reason"), BAD, ids=[reason for _, reason in BAD])
def test_a_bad_line_is_named_with_its_number_and_reason(folder: Path, line: Any, reason: str) -> None:
    path = _write(folder, GOOD, line)
    with pytest.raises(UserError) as error:
        read_records(path)
    assert str(error.value).startswith(f"{path}:2: ")
    assert reason in str(error.value)


def test_media_are_looked_for_only_when_asked(folder: Path) -> None:
    path = _write(folder, GOOD | {"video": "clips/later.mp4"})
    assert read_records(path, check_media=False)[0].video == folder / "clips/later.mp4"


def test_a_missing_or_empty_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such annotation file"):
        read_records(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(UserError, match="no records"):
        read_records(tmp_path / "empty.jsonl")


def test_a_folder_inside_a_tar_is_a_video(folder: Path) -> None:
    with tarfile.open(folder / "chunk.tar", "w") as tar:
        tar.add(folder / "still.png", "clip/1.png")
    record = Record("1", (Turn("q", "a"),), video=folder / "chunk.tar" / "clip")
    write_records(folder / "out.jsonl", [record])
    assert read_records(folder / "out.jsonl") == [record]
    path = _write(folder, GOOD | {"video": "chunk.tar/other"})
    with pytest.raises(UserError, match="no such video"):
        read_records(path)


def test_media_outside_the_folder_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not under"):
        write_records(tmp_path / "d" / "x.jsonl", [Record("1", (Turn("q", "a"),), video=tmp_path / "v.mp4")])


def test_fingerprint_sees_every_field_but_not_the_folder() -> None:
    record = Record("1", (Turn("q", "a"),), video=Path("x/v.mp4"))
    same = fingerprint([record])
    assert fingerprint([replace(record, video=Path("y/v.mp4"))]) == same
    for other in (
        replace(record, id="2"),
        replace(record, turns=(Turn("q", "b"),)),
        replace(record, video=Path("x/w.mp4")),
        replace(record, kind="k"),
        replace(record, source="s"),
        replace(record, span=(0.0, 1.0)),
    ):
        assert fingerprint([other]) != same
    assert fingerprint([record, replace(record, id="2")]) != fingerprint([replace(record, id="2"), record])
