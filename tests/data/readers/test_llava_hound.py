from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from blip3v.data.conversation import Turn
from blip3v.data.skipping import Reason
from blip3v.video import read_video


def line(name: Any, video: Any, answer: Any = "A cat walks.") -> dict[str, Any]:
    talk = [{"from": "human", "value": "<video>\nWhat happens?"}, {"from": "gpt", "value": answer}]
    return {"id": name, "video": video, "conversations": talk}


def write(folder: Path, *lines: Any) -> Path:
    path = folder / "video_caption_pretrain.jsonl"
    path.write_text("\n".join(json.dumps(entry) for entry in lines))
    return path


def test_folders_and_chunks(put: Callable[..., Path], read: Callable[..., tuple[list, list]]) -> None:
    folder = put("media/one", "packed/two", "packed/three")
    with tarfile.open(folder / "media" / "chunk_0.tar", "w") as tar:
        tar.add(folder / "packed" / "two", "frames/two")
        tar.add(folder / "packed" / "three", "frames/three")
    items, skipped = read(
        "llava_hound", write(folder, *(line(n, n) for n in ("one", "two", "three", "four")))
    )
    assert [item.video for item in items] == [
        folder / "media" / "one",
        folder / "media" / "chunk_0.tar" / "two",
        folder / "media" / "chunk_0.tar" / "three",
    ]
    assert items[0].turns == (Turn("What happens?", "A cat walks."),)
    plain, packed = (read_video(item.video, 4) for item in items[:2])
    assert (plain.frames == packed.frames).all() and packed.total_frames == 20
    assert [(entry.where, entry.reason) for entry in skipped] == [
        ("video_caption_pretrain.jsonl:4", Reason.MISSING_VIDEO)
    ]
    assert "1 .tar chunks" in skipped[0].detail


def test_each_bad_line_has_its_reason(
    put: Callable[..., Path], read: Callable[..., tuple[list, list]]
) -> None:
    folder = put("media/one")
    (folder / "media" / "chunk_1.tar.gz").touch()
    bad = [
        (line("a", "one", " "), Reason.EMPTY_ANSWER),
        (line("b", "../media/one/.."), Reason.LEADS_OUT),
        (line("b", "/etc"), Reason.LEADS_OUT),
        (line("b", "a\0b"), Reason.LEADS_OUT),
        (line("c", "x" * 5000), Reason.MISSING_VIDEO),
        (line("d", None), Reason.MALFORMED),
        (line(None, "one"), Reason.MALFORMED),
        (line("e", "one", 5), Reason.MALFORMED),
        ({"id": "f", "video": "one"}, Reason.MALFORMED),
        ([], Reason.MALFORMED),
    ]
    items, skipped = read("llava_hound", write(folder, line("z", "one"), *(entry for entry, _ in bad)))
    assert [item.id for item in items] == ["z"]
    assert [entry.reason for entry in skipped] == [reason for _, reason in bad]
    assert "blip3v data unpack" in skipped[4].detail
