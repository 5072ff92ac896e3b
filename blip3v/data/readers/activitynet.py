"""ActivityNet-QA: short answers about long videos, questions and answers in two files.

<split>_q.json: [{"video_name", "question", "question_id"}] and <split>_a.json: [{"answer", "type",
"question_id"}], joined on question_id. The video is v_<video_name> with one of several suffixes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from blip3v.data.conversation import Turn, question_text
from blip3v.data.forms import Item
from blip3v.data.media import MediaFolder
from blip3v.data.readers.entries import answer, items_of, json_array, question, text
from blip3v.data.skipping import BadEntry, Reason, Skipped
from blip3v.errors import UserError

KINDS = ("motion", "spatial", "temporal", "yes/no", "color", "object", "location", "number", "other")
"""What the published `type` 0 to 8 stands for."""
SUFFIXES = (".mp4", ".mkv", ".webm")


def read(annotations: Path, media: MediaFolder) -> Iterator[Item | Skipped]:
    """Each question with its answer as one turn.

    Args:
        annotations: the file of questions; the file of answers lies beside it.

    Raises:
        UserError: its name does not end in _q.json, or there is no file of answers.
    """
    if not annotations.name.endswith("_q.json"):
        raise UserError(
            f"{annotations}: give the questions, <split>_q.json; <split>_a.json is found beside it"
        )
    answers_path = annotations.with_name(annotations.name.removesuffix("_q.json") + "_a.json")
    answers: dict[str, dict[str, Any]] = {}
    for entry in json_array(answers_path, ("answer", "question_id")):
        if isinstance(entry, Skipped):
            yield entry
        else:
            # Of two answers the first counts; the second is left over below and said.
            key = str(entry[1].get("question_id"))
            if key in answers:
                yield Skipped(entry[0], Reason.DUPLICATE, f"a second answer to question {key}")
            else:
                answers[key] = entry[1]
    asked: set[str] = set()

    def make(fields: dict[str, Any]) -> Item:
        name = text(fields, "question_id")
        asked.add(name)
        if name not in answers:
            raise BadEntry(Reason.UNMATCHED, f"question {name} has no answer in {answers_path.name}")
        turn = Turn(question_text(question(fields)), answer(answers[name]))
        stem = f"v_{text(fields, 'video_name')}"
        video = media.first([stem + suffix for suffix in SUFFIXES])
        return Item(name, (turn,), video, kind=_kind(answers[name].get("type")))

    yield from items_of(json_array(annotations, ("video_name", "question", "question_id")), make)
    for name in answers:
        if name not in asked:
            yield Skipped(answers_path.name, Reason.UNMATCHED, f"answer {name} has no question")


def _kind(value: Any) -> str | None:
    known = [index for index in range(len(KINDS)) if str(value) == str(index)]
    return KINDS[known[0]] if known else None
