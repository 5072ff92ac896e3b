"""TGIF-QA: questions about GIFs, in tab-separated tables.

{Train,Test}_{action,transition}_question.csv: gif_name, question, a1 ... a5, answer (counted from 0), vid_id,
key; in count and frameqa `answer` is the answer itself and there are no options. The recipe uses action and
transition. The video is <gif_name>.gif; collections that were converted to MP4 are taken too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from blip3v.data.conversation import Turn, question_text
from blip3v.data.forms import Item
from blip3v.data.media import MediaFolder
from blip3v.data.readers.entries import answer, choice, items_of, question, table_header, table_rows, text
from blip3v.data.skipping import Skipped

OPTIONS = ("a1", "a2", "a3", "a4", "a5")
SUFFIXES = (".gif", ".mp4", ".webm")


def read(annotations: Path, media: MediaFolder) -> Iterator[Item | Skipped]:
    """Each row; its answer is the text of the right option, its kind the one in the name of the file.

    Rows are named <kind>-<key>, because every file counts its own keys.
    """
    found = re.search(r"action|transition|count|frameqa", annotations.name)
    kind = found.group() if found else "tgif"
    options = OPTIONS if OPTIONS[0] in table_header(annotations, "\t") else ()

    def make(fields: dict[str, Any]) -> Item:
        asked, name = question_text(question(fields)), f"{kind}-{text(fields, 'key')}"
        texts, correct = choice(fields, options) if options else ((), None)
        turn = Turn(asked, answer(fields) if correct is None else texts[correct])
        stem = text(fields, "gif_name")
        video = media.first([stem + suffix for suffix in SUFFIXES])
        return Item(name, (turn,), video, kind=kind, options=texts, correct=correct)

    return items_of(table_rows(annotations, ("gif_name", "question", *options, "answer", "key"), "\t"), make)
