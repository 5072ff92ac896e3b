"""LLaVA-Hound (ShareGPTVideo): captions and questions over folders of frames.

    {"id": ..., "video": "<name of a folder>", "conversations": [{"from": "human", "value": "<video>..."},
                                                                 {"from": "gpt", "value": "..."}]}

in pretrain/video_caption_pretrain.jsonl, sft/video_caption_300k.jsonl, sft/video_240k_caption_15k.jsonl. The
folders hold two JPEG files for each second of the clip, c01_0001.jpeg and so on. They are published as
.tar.gz chunks; `media` may hold the folders themselves, or the chunks as plain .tar (`blip3v data unpack`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from blip3v.data.forms import Item
from blip3v.data.media import MediaFolder
from blip3v.data.readers.entries import items_of, json_lines, text
from blip3v.data.records import name_of, turns_of
from blip3v.data.skipping import BadEntry, Reason, Skipped


def read(annotations: Path, media: MediaFolder) -> Iterator[Item | Skipped]:
    """Each line, with its own turns."""

    def make(fields: dict[str, Any]) -> Item:
        turns = turns_of(fields.get("conversations"))
        if not all(turn.answer.strip() for turn in turns):
            raise BadEntry(Reason.EMPTY_ANSWER, "a turn has no answer")
        return Item(name_of(fields), turns, media.frames(text(fields, "video")))

    return items_of(json_lines(annotations), make)
