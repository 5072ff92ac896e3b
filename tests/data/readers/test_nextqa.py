from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from blip3v.data.conversation import Turn
from blip3v.data.forms import Item
from blip3v.data.skipping import Reason
from blip3v.errors import UserError

COLUMNS = [
    *("video", "frame_count", "width", "height", "question", "answer", "qid", "type"),
    *("a0", "a1", "a2", "a3", "a4"),
]
GOOD = ["11", "20", "64", "48", "why did he stop", "3", "6", "CW", "a", "b", "c", "he was tired", "e"]
OPTIONS = ("a", "b", "c", "he was tired", "e")


def table(path: Path, columns: list[str], *rows: list[str]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def change(**values: str) -> list[str]:
    return [values.get(column, cell) for column, cell in zip(COLUMNS, GOOD, strict=True)]


def test_rows_with_the_map(put: Callable[..., Path], read: Callable[..., tuple[list, list]]) -> None:
    folder = put("media/0101/11.mp4", "media/12.mp4")
    (folder / "map_vid_vidorID.json").write_text(
        json.dumps({"11": "0101/11", "13": "../13", "14": "0101/14"})
    )
    bad = [
        (change(answer="5"), Reason.BAD_INDEX),
        (change(video="13"), Reason.LEADS_OUT),
        (change(video="14"), Reason.MISSING_VIDEO),
        (change(a0=" "), Reason.MALFORMED),
    ]
    rows = [change(question="why, then?"), change(video="12", qid="7", answer="0"), *(row for row, _ in bad)]
    items, skipped = read("nextqa", table(folder / "train.csv", COLUMNS, *rows))
    media = folder / "media"
    assert items == [
        Item("11_6", (Turn("why, then?", "he was tired"),), media / "0101/11.mp4", None, "CW", OPTIONS, 3),
        Item("12_7", (Turn(GOOD[4], "a"),), media / "12.mp4", None, "CW", OPTIONS, 0),
    ]
    assert [entry.reason for entry in skipped] == [reason for _, reason in bad]


def test_open_ended_files(put: Callable[..., Path], read: Callable[..., tuple[list, list]]) -> None:
    folder = put("media/11.mp4")
    row = [*GOOD[:5], "he was tired", "6", "CW"]
    (item,), _ = read("nextqa", table(folder / "train.csv", COLUMNS[:8], row))
    assert (item.turns[0].answer, item.options, item.correct) == ("he was tired", (), None)


def test_a_map_that_is_none(put: Callable[..., Path], read: Callable[..., tuple[list, list]]) -> None:
    folder = put("media/11.mp4")
    path = table(folder / "train.csv", COLUMNS, GOOD)
    (folder / "map.json").write_text('{"11": 3}')
    with pytest.raises(UserError, match="names of videos to paths"):
        read("nextqa", path, video_map=folder / "map.json")
    with pytest.raises(UserError, match="no such annotation file"):
        read("nextqa", path, video_map=folder / "gone.json")
