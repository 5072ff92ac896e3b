from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from blip3v.data.conversation import Turn
from blip3v.data.forms import Item
from blip3v.data.skipping import Reason
from blip3v.errors import UserError


def test_entries(put: Callable[..., Path], read: Callable[..., tuple[list, list]]) -> None:
    folder = put("media/v_abc.mp4", "media/v_-x_y.avi")
    path = folder / "VideoInstruct100K.json"
    path.write_text(
        json.dumps(
            [
                {"q": "What?", "a": "A dog. It runs.", "video_id": "v_abc"},
                "no object",
                {"q": "Who?", "a": "", "video_id": "v_abc"},
                {"q": "", "a": "x", "video_id": "v_abc"},
                {"q": "Who?", "a": "x", "video_id": "v_gone"},
                {"q": "Who?", "a": "x", "video_id": "../v_abc"},
                {"q": "Who?", "a": "x"},
                {"q": "Where?", "a": "There.", "video_id": "v_-x_y"},
            ]
        )
    )
    items, skipped = read("video_instruct", path)
    media = folder / "media"
    assert items == [
        Item("VideoInstruct100K-0", (Turn("What?", "A dog. It runs."),), media / "v_abc.mp4"),
        Item("VideoInstruct100K-7", (Turn("Where?", "There."),), media / "v_-x_y.avi"),
    ]
    assert [(entry.where, entry.reason) for entry in skipped] == [
        ("VideoInstruct100K.json entry 1", Reason.MALFORMED),
        ("VideoInstruct100K.json entry 2", Reason.EMPTY_ANSWER),
        ("VideoInstruct100K.json entry 3", Reason.EMPTY_QUESTION),
        ("VideoInstruct100K.json entry 4", Reason.MISSING_VIDEO),
        ("VideoInstruct100K.json entry 5", Reason.LEADS_OUT),
        ("VideoInstruct100K.json entry 6", Reason.MALFORMED),
    ]


def test_another_file(tmp_path: Path, read: Callable[..., tuple[list, list]]) -> None:
    (tmp_path / "media").mkdir()
    (tmp_path / "x.json").write_text('[{"question": "?", "answer": "!"}]')
    with pytest.raises(UserError, match="q, a, video_id"):
        read("video_instruct", tmp_path / "x.json")
