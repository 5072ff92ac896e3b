from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from blip3v.data.conversation import Turn
from blip3v.data.forms import Item
from blip3v.data.skipping import Reason
from blip3v.errors import UserError


def write(folder: Path, questions: list, answers: list) -> Path:
    (folder / "train_q.json").write_text(json.dumps(questions))
    (folder / "train_a.json").write_text(json.dumps(answers))
    return folder / "train_q.json"


def ask(name: str, video: str = "one") -> dict[str, str]:
    return {"video_name": video, "question": "is it a cat", "question_id": name}


def test_questions_meet_their_answers(
    put: Callable[..., Path], read: Callable[..., tuple[list, list]]
) -> None:
    folder = put("media/v_one.mp4")
    answers = [
        {"answer": "no", "type": 3, "question_id": "b"},
        {"answer": "yes", "type": 0, "question_id": "a"},
        {"answer": "again", "type": 0, "question_id": "a"},
        {"answer": "", "type": 1, "question_id": "c"},
        {"answer": "left over", "type": 1, "question_id": "x"},
        {"answer": "odd", "type": 99, "question_id": "e"},
    ]
    path = write(folder, [ask("a"), ask("b"), ask("c"), ask("d"), ask("e"), ask("b", "gone")], answers)
    items, skipped = read("activitynet", path)
    video = folder / "media" / "v_one.mp4"
    assert items == [
        Item("a", (Turn("is it a cat", "yes"),), video, kind="motion"),
        Item("b", (Turn("is it a cat", "no"),), video, kind="yes/no"),
        Item("e", (Turn("is it a cat", "odd"),), video, kind=None),
    ]
    assert [entry.reason for entry in skipped] == [
        Reason.DUPLICATE,
        Reason.EMPTY_ANSWER,
        Reason.UNMATCHED,
        Reason.MISSING_VIDEO,
        Reason.UNMATCHED,
    ]
    assert "question d" in skipped[2].detail and "answer x" in skipped[4].detail


def test_wrong_files(put: Callable[..., Path], read: Callable[..., tuple[list, list]]) -> None:
    folder = put("media/v_one.mp4")
    with pytest.raises(UserError, match=r"_q\.json"):
        read("activitynet", folder / "train.json")
    (folder / "train_q.json").write_text(json.dumps([ask("a")]))
    with pytest.raises(UserError, match=r"train_a\.json"):
        read("activitynet", folder / "train_q.json")
