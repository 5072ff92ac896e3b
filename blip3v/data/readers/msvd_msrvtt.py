"""MSVD-QA and MSRVTT-QA: short answers.

{train,val,test}_qa.json: [{"answer", "id", "question", "video_id": int}]; MSRVTT-QA adds `category_id`. The
videos are vid<video_id>.avi of MSVD and video<video_id>.mp4 of MSR-VTT.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from blip3v.data.conversation import Turn, question_text
from blip3v.data.forms import Item
from blip3v.data.media import MediaFolder
from blip3v.data.readers.entries import answer, items_of, json_array, question, text
from blip3v.data.records import name_of
from blip3v.data.skipping import Skipped


def read_msvd(annotations: Path, media: MediaFolder) -> Iterator[Item | Skipped]:
    """Each entry as one turn about vid<video_id>.avi (or .mp4)."""
    return _read(annotations, media, "vid", (".avi", ".mp4"))


def read_msrvtt(annotations: Path, media: MediaFolder) -> Iterator[Item | Skipped]:
    """Each entry as one turn about video<video_id>.mp4."""
    return _read(annotations, media, "video", (".mp4",))


def _read(
    annotations: Path, media: MediaFolder, prefix: str, suffixes: tuple[str, ...]
) -> Iterator[Item | Skipped]:
    def make(fields: dict[str, Any]) -> Item:
        turn = Turn(question_text(question(fields)), answer(fields))
        name = prefix + text(fields, "video_id")
        return Item(name_of(fields), (turn,), media.first([name + suffix for suffix in suffixes]))

    return items_of(json_array(annotations, ("answer", "id", "question", "video_id")), make)
