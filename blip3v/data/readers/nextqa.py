"""NExT-QA: causal, temporal and descriptive questions, with five options or open-ended.

{train,val,test}.csv: video, frame_count, width, height, question, answer, qid, type, a0 ... a4; `answer`
counts the options from 0. The open-ended files have no options and `answer` is the answer itself.
map_vid_vidorID.json gives the path of a video without its suffix: "2909445186" -> "0101/2909445186".
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from blip3v.data.conversation import Turn, question_text
from blip3v.data.forms import Item
from blip3v.data.media import MediaFolder
from blip3v.data.readers.entries import (
    answer,
    choice,
    items_of,
    load_json,
    question,
    table_header,
    table_rows,
    text,
)
from blip3v.data.skipping import Skipped
from blip3v.errors import UserError

OPTIONS = ("a0", "a1", "a2", "a3", "a4")
MAP = "map_vid_vidorID.json"


def read(annotations: Path, media: MediaFolder, video_map: Path | None = None) -> Iterator[Item | Skipped]:
    """Each row; its answer is the text of the right option. Rows are named <video>_<qid>.

    Args:
        video_map: map_vid_vidorID.json; by default the one beside the annotations or in the media folder.
            Without one, and for videos that it does not know, the file is <video>.mp4 in the media folder.
    """
    paths = _paths(video_map, (annotations.parent, media.path))
    options = OPTIONS if OPTIONS[0] in table_header(annotations) else ()

    def make(fields: dict[str, Any]) -> Item:
        asked, video = question_text(question(fields)), text(fields, "video")
        texts, correct = choice(fields, options) if options else ((), None)
        turn = Turn(asked, answer(fields) if correct is None else texts[correct])
        names = [f"{stem}.mp4" for stem in (paths.get(video), video) if stem is not None]
        name = f"{video}_{text(fields, 'qid')}"
        return Item(
            name, (turn,), media.first(names), kind=text(fields, "type"), options=texts, correct=correct
        )

    return items_of(table_rows(annotations, ("video", "question", *options, "answer", "qid", "type")), make)


def _paths(given: Path | None, folders: tuple[Path, ...]) -> dict[str, str]:
    found = given or next((folder / MAP for folder in folders if (folder / MAP).is_file()), None)
    if found is None:
        return {}
    paths = load_json(found)
    if not isinstance(paths, dict) or not all(isinstance(path, str) for path in paths.values()):
        raise UserError(f"{found} must map names of videos to paths; is it the published {MAP}?")
    return paths
