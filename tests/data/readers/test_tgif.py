from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from blip3v.data.conversation import Turn
from blip3v.data.forms import Item
from blip3v.data.skipping import Reason
from blip3v.errors import UserError

COLUMNS = ["gif_name", "question", "a1", "a2", "a3", "a4", "a5", "answer", "vid_id", "key"]
GOOD = [
    "tumblr_1",
    "What does the man do 3 times ?",
    "jump",
    "step",
    "nod",
    "wave",
    "blink",
    "1",
    "ID1",
    "12",
]


def table(path: Path, columns: list[str], *rows: list[str]) -> Path:
    path.write_text("".join("\t".join(row) + "\n" for row in [columns, *rows]))
    return path


def change(**values: str) -> list[str]:
    return [values.get(column, cell) for column, cell in zip(COLUMNS, GOOD, strict=True)]


def test_action_and_its_bad_rows(put: Callable[..., Path], read: Callable[..., tuple[list, list]]) -> None:
    folder = put("media/tumblr_1.gif", "media/tumblr_2.mp4")
    bad = [
        (change(answer="5"), Reason.BAD_INDEX),
        (change(answer=""), Reason.EMPTY_ANSWER),
        (change(a3=""), Reason.MALFORMED),
        (change(question=""), Reason.EMPTY_QUESTION),
        (change(gif_name="tumblr_3"), Reason.MISSING_VIDEO),
        (GOOD[:-1], Reason.MALFORMED),
    ]
    rows = [GOOD, change(gif_name="tumblr_2", key="13", answer="4"), *(row for row, _ in bad)]
    items, skipped = read("tgif", table(folder / "Train_action_question.csv", COLUMNS, *rows))
    options = ("jump", "step", "nod", "wave", "blink")
    assert items == [
        Item(
            f"action-{key}",
            (Turn("What does the man do 3 times ?", answer),),
            folder / "media" / video,
            kind="action",
            options=options,
            correct=options.index(answer),
        )
        for key, answer, video in (("12", "step", "tumblr_1.gif"), ("13", "blink", "tumblr_2.mp4"))
    ]
    assert [entry.reason for entry in skipped] == [reason for _, reason in bad]
    assert skipped[0].where == "Train_action_question.csv:4"


def test_frameqa_has_no_options(put: Callable[..., Path], read: Callable[..., tuple[list, list]]) -> None:
    folder = put("media/tumblr_1.gif")
    columns = ["gif_name", "question", "answer", "vid_id", "key"]
    path = table(folder / "Test_frameqa_question.csv", columns, ["tumblr_1", "what ?", "cat", "ID", "0"])
    (item,), skipped = read("tgif", path)
    assert (item.id, item.turns, item.options, item.correct) == (
        "frameqa-0",
        (Turn("what ?", "cat"),),
        (),
        None,
    )
    assert not skipped


def test_commas_instead_of_tabs(put: Callable[..., Path], read: Callable[..., tuple[list, list]]) -> None:
    folder = put("media/tumblr_1.gif")
    (folder / "Train_action_question.csv").write_text(",".join(COLUMNS) + "\n")
    with pytest.raises(UserError, match="no column gif_name"):
        read("tgif", folder / "Train_action_question.csv")
