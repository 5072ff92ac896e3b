"""Whatever happens to a file of annotations, a reader gives entries, skips them, or says that it is wrong."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from blip3v.data.forms import make_record
from blip3v.data.media import MediaFolder
from blip3v.data.readers import FORMATS
from blip3v.data.record_store import RecordStoreBuilder
from blip3v.data.skipping import BadEntry, Skipped
from blip3v.errors import UserError

TALK = [{"from": "human", "value": "<video>\nQ"}, {"from": "gpt", "value": "A"}]
SPOILERS: list[Any] = [
    *(None, True, -1.5, 1e308, float("inf"), float("nan"), 10**30, "", " ", "\0", "\ud800", "../x", "/"),
    *("x" * 70_000, [], {}, [[]], [{}], {"a": 1}),
]
OBJECTS: dict[str, tuple[str, dict[str, Any]]] = {
    "records": ("x.jsonl", {"id": 1, "video": "v_a.mp4", "span": [0, 1], "conversations": TALK}),
    "llava_hound": ("x.jsonl", {"id": 1, "video": "frames", "conversations": TALK}),
    "video_instruct": ("x.json", {"q": "Q", "a": "A", "video_id": "v_a"}),
    "msvd": ("x.json", {"answer": "a", "id": 1, "question": "q", "video_id": 1}),
    "activitynet": ("x_q.json", {"video_name": "a", "question": "q", "question_id": "1"}),
}
TABLES: dict[str, tuple[str, str, dict[str, str]]] = {
    "tgif": (
        "x_action_question.csv",
        "\t",
        {
            "gif_name": "x",
            "question": "q",
            "a1": "a",
            "a2": "b",
            "a3": "c",
            "a4": "d",
            "a5": "e",
            "answer": "1",
        }
        | {"vid_id": "I", "key": "1"},
    ),
    "nextqa": (
        "x.csv",
        ",",
        {"video": "11", "question": "q", "answer": "2", "qid": "1", "type": "CW"}
        | {"a0": "a", "a1": "b", "a2": "c", "a3": "d", "a4": "e"},
    ),
    "mira": (
        "x.csv",
        ",",
        {
            "clip_id": "3.0",
            "video_id": "abc",
            "timestamp": "['0:00:00.5', '0:00:01']",
            "dense_caption": "cap",
        },
    ),
}


def written(name: str, entries: list[Any]) -> bytes:
    if name.endswith(".jsonl"):
        return "\n".join(map(json.dumps, entries)).encode()
    return json.dumps(entries).encode()


def table(delimiter: str, row: dict[str, str]) -> bytes:
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter).writerows([row.keys(), *([row.values()] * 3)])
    return out.getvalue().encode()


def damaged(whole: bytes, chance: random.Random) -> bytes:
    data = bytearray(whole)
    for _ in range(chance.randint(1, 6)):
        place = chance.randrange(len(data))
        new = bytes(chance.randrange(256) for _ in range(chance.randint(0, 5)))
        data[place : place + chance.choice((0, 1, 30))] = new
        if chance.random() < 0.05:
            del data[place:]
        data = data or bytearray(b"x")
    return bytes(data)


@pytest.fixture
def kept(put: Callable[..., Path]) -> Callable[[str, str, bytes], int]:
    """kept(format, file name, content) makes every record of a file; gives how many entries it has."""
    folder = put(
        *(f"media/{name}" for name in ("v_a.mp4", "vid1.avi", "x.gif", "11.mp4", "abc.mp4", "frames"))
    )
    (folder / "x_a.json").write_text('[{"answer": "a", "type": 1, "question_id": "1"}]')

    def read(name: str, file: str, content: bytes) -> int:
        (folder / file).write_bytes(content)
        builder, count = RecordStoreBuilder(), 0
        try:
            for entry in FORMATS[name].read(folder / file, MediaFolder(folder / "media")):
                if isinstance(entry, Skipped):
                    continue
                count += 1
                for form in FORMATS[name].forms:
                    with contextlib.suppress(BadEntry, UnicodeEncodeError):
                        builder.add(make_record(entry, form, name), folder / "media")
        except UserError:
            return 0
        assert len(list(builder.build())) == len(builder)
        return count

    return read


@pytest.mark.parametrize("name", OBJECTS)
def test_spoiled_objects(name: str, kept: Callable[[str, str, bytes], int]) -> None:
    file, entry = OBJECTS[name]
    assert kept(name, file, written(file, [entry] * 3)) == 3
    for key in entry:
        for spoiler in SPOILERS:
            # The good entry beside it is never lost.
            assert kept(name, file, written(file, [entry | {key: spoiler}, entry])) in (1, 2)
    chance = random.Random(0)
    for _ in range(100):
        assert kept(name, file, damaged(written(file, [entry] * 3), chance)) <= 4


@pytest.mark.parametrize("name", TABLES)
def test_spoiled_tables(name: str, kept: Callable[[str, str, bytes], int]) -> None:
    file, delimiter, row = TABLES[name]
    assert kept(name, file, table(delimiter, row)) == 3
    chance = random.Random(0)
    for _ in range(150):
        assert kept(name, file, damaged(table(delimiter, row), chance)) <= 4
