from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from blip3v.data.conversation import Turn
from blip3v.data.forms import Item
from blip3v.data.skipping import Reason


def test_lines(put: Callable[..., Path], read: Callable[..., tuple[list, list]]) -> None:
    folder = put("media/a.mp4", "media/b")
    talk = [{"from": "human", "value": "<video>\nWhat?"}, {"from": "gpt", "value": "A cat."}]
    good = {"id": 1, "video": "a.mp4", "conversations": talk}
    lines = [
        good | {"source": "mira", "span": [0.5, 1], "kind": "caption"},
        good | {"id": 2, "video": "b"},
        good | {"conversations": [talk[0], {"from": "gpt", "value": " "}]},
        good | {"video": "c.mp4"},
        good | {"video": "../a.mp4"},
        good | {"span": [1, 0]},
        good | {"id": None},
    ]
    (folder / "x.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    items, skipped = read("records", folder / "x.jsonl")
    turns = (Turn("What?", "A cat."),)
    video = folder / "media" / "a.mp4"
    assert items == [
        Item("1", turns, video, kind="caption", span=(0.5, 1.0), source="mira"),
        Item("2", turns, folder / "media" / "b"),
    ]
    assert [entry.reason for entry in skipped] == [
        Reason.EMPTY_ANSWER,
        Reason.MISSING_VIDEO,
        Reason.LEADS_OUT,
        Reason.BAD_SPAN,
        Reason.MALFORMED,
    ]
