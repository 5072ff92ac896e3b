from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from blip3v.data.conversation import Turn
from blip3v.data.forms import Item
from blip3v.data.skipping import Reason
from blip3v.errors import UserError
from blip3v.video import read_video

COLUMNS = ["clip_id", "video_id", "file_path", "seconds", "timestamp", "short_caption", "dense_caption"]
GOOD = ["3.0", "abc", "clips/3.0.mp4", "1", "['0:00:00.5', '0:00:01.5']", "A cat.", "A cat, which walks."]
V0 = ["index", "video_id", "start_frame", "end_frame", "fps", "dense_caption"]


def table(path: Path, columns: list[str], *rows: list[str]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def change(**values: str) -> list[str]:
    return [values.get(column, cell) for column, cell in zip(COLUMNS, GOOD, strict=True)]


def test_cut_clips_and_spans_of_source_videos(
    put: Callable[..., Path], read: Callable[..., tuple[list, list]]
) -> None:
    folder = put("media/clips/3.0.mp4", "media/000000000004.mp4", "media/xyz.mp4")
    rows = [
        GOOD,
        change(clip_id="4.0", file_path=""),
        change(clip_id="5.0", file_path="gone.mp4", video_id="xyz"),
        change(clip_id="3.0", file_path="./clips/../clips/3.0.mp4"),
    ]
    items, skipped = read("mira", table(folder / "mira.csv", COLUMNS, *rows))
    media, turn = folder / "media", (Turn("", "A cat, which walks."),)
    assert items == [
        Item("3.0", turn, media / "clips/3.0.mp4", kind="caption"),
        Item("4.0", turn, media / "000000000004.mp4", kind="caption", span=(0.5, 1.5)),
        Item("5.0", turn, media / "xyz.mp4", kind="caption", span=(0.5, 1.5)),
        Item("3.0", turn, media / "clips/3.0.mp4", kind="caption"),
    ]
    assert not skipped
    assert read_video(items[1].video, 10, span=items[1].span).indices.tolist() == list(range(5, 15))


def test_bad_rows(put: Callable[..., Path], read: Callable[..., tuple[list, list]]) -> None:
    folder = put("media/clips/3.0.mp4")
    bad = [
        (change(timestamp="['0:00:01', '0:02:00']"), Reason.TOO_LONG),
        (change(timestamp="['0:00:02', '0:00:01']"), Reason.BAD_SPAN),
        (change(timestamp="soon"), Reason.BAD_SPAN),
        (change(timestamp=""), Reason.BAD_SPAN),
        (change(dense_caption=""), Reason.EMPTY_ANSWER),
        (change(clip_id="9.0", file_path=""), Reason.MISSING_VIDEO),
        (change(file_path="../x.mp4"), Reason.LEADS_OUT),
    ]
    items, skipped = read("mira", table(folder / "mira.csv", COLUMNS, GOOD, *(row for row, _ in bad)))
    assert len(items) == 1
    assert [entry.reason for entry in skipped] == [reason for _, reason in bad]
    items, skipped = read("mira", folder / "mira.csv", caption="short_caption", longest=120.0)
    assert [item.turns[0].answer for item in items] == ["A cat."] * 3
    with pytest.raises(UserError, match="no column long_caption"):
        read("mira", folder / "mira.csv", caption="long_caption")


def test_first_release(put: Callable[..., Path], read: Callable[..., tuple[list, list]]) -> None:
    folder = put("media/000000008/000000008783_a-b_c.mp4", "media/000000008/000000008784_x-2.mp4")
    rows = [
        ["000000008784_x-2", "x", "30", "60", "30", "One."],
        ["000000008783_a-b_c-3", "a-b_c", "30", "75", "30", "Two."],
        ["9-1", "y", "1", "2", "0", "Three."],
        ["9-1", "y", "1", "two", "30", "Four."],
    ]
    (folder / "media" / "a-b_c.mp4").symlink_to(folder / "media/000000008/000000008783_a-b_c.mp4")
    items, skipped = read("mira", table(folder / "v0.csv", V0, *rows))
    assert [(item.id, item.span) for item in items] == [
        ("000000008784_x-2", None),
        ("000000008783_a-b_c-3", (1.0, 2.5)),
    ]
    assert [entry.reason for entry in skipped] == [Reason.BAD_SPAN, Reason.BAD_SPAN]
