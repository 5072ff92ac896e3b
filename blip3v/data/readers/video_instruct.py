"""VideoInstruct-100K (Video-ChatGPT): long answers about ActivityNet videos.

VideoInstruct100K.json: [{"q": question, "a": answer, "video_id": "v_<youtube id>"}]. Entries have no id; they
are named by their place in the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from blip3v.data.conversation import Turn, question_text
from blip3v.data.forms import Item
from blip3v.data.media import MediaFolder
from blip3v.data.readers.entries import Entry, answer, items_of, json_array, question, text
from blip3v.data.skipping import Skipped

PLACE = "place in the file"
SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov")


def read(annotations: Path, media: MediaFolder) -> Iterator[Item | Skipped]:
    """Each entry as one turn, named <file>-<place>; the video is `<video_id>` with one of the suffixes."""

    def make(fields: dict[str, Any]) -> Item:
        turn = Turn(question_text(question(fields, "q")), answer(fields, "a"))
        name = text(fields, "video_id")
        video = media.first([name + suffix for suffix in SUFFIXES])
        return Item(f"{annotations.stem}-{fields[PLACE]}", (turn,), video)

    return items_of(_numbered(annotations), make)


def _numbered(annotations: Path) -> Iterator[Entry | Skipped]:
    for number, entry in enumerate(json_array(annotations, ("q", "a", "video_id"))):
        yield entry if isinstance(entry, Skipped) else (entry[0], entry[1] | {PLACE: number})
