"""Our own format (`blip3v.data.records`): JSON lines, media beside the file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from blip3v.data.forms import Item
from blip3v.data.media import MediaFolder
from blip3v.data.readers.entries import items_of, json_lines
from blip3v.data.records import record_from_json
from blip3v.data.skipping import BadEntry, Reason, Skipped


def read(annotations: Path, media: MediaFolder) -> Iterator[Item | Skipped]:
    """Each line; `media` is the folder of the file, unless its paths begin elsewhere."""

    def make(fields: dict[str, Any]) -> Item:
        record = record_from_json(fields, media)
        if not all(turn.answer.strip() for turn in record.turns):
            raise BadEntry(Reason.EMPTY_ANSWER, "a turn has no answer")
        return Item(
            record.id, record.turns, record.video, record.image, record.kind, span=record.span,
            source=record.source,
        )  # fmt: skip

    return items_of(json_lines(annotations), make)
