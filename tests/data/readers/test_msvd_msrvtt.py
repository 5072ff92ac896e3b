from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from blip3v.data.conversation import Turn
from blip3v.data.forms import Item
from blip3v.data.skipping import Reason


@pytest.mark.parametrize(("name", "video"), [("msvd", "vid7.avi"), ("msrvtt", "video7.mp4")])
def test_entries(
    name: str, video: str, put: Callable[..., Path], read: Callable[..., tuple[list, list]]
) -> None:
    folder = put(f"media/{video}")
    good = {"answer": "cat", "id": 3, "question": "what is this?", "video_id": 7, "category_id": 1}
    bad = [
        (good | {"video_id": 8}, Reason.MISSING_VIDEO),
        (good | {"answer": ""}, Reason.EMPTY_ANSWER),
        (good | {"answer": None}, Reason.MALFORMED),
        (good | {"question": " "}, Reason.EMPTY_QUESTION),
        (good | {"id": 1.5}, Reason.MALFORMED),
        (good | {"video_id": "/../../7"}, Reason.LEADS_OUT),
    ]
    (folder / "train_qa.json").write_text(json.dumps([good, *(entry for entry, _ in bad)]))
    items, skipped = read(name, folder / "train_qa.json")
    assert items == [Item("3", (Turn("what is this?", "cat"),), folder / "media" / video)]
    assert [entry.reason for entry in skipped] == [reason for _, reason in bad]


def test_without_looking_the_first_name_is_believed(
    put: Callable[..., Path], read: Callable[..., tuple[list, list]]
) -> None:
    folder = put("other/x.mp4")
    entry = {"answer": "cat", "id": 3, "question": "what?", "video_id": 8}
    (folder / "train_qa.json").write_text(json.dumps([entry]))
    items, _ = read("msvd", folder / "train_qa.json", check=False)
    assert items[0].video == folder / "media" / "vid8.avi"
