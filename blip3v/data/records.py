"""Annotation files: one JSON object per line, in the format of LLaVA.

    {"id": "7", "video": "clips/7.mp4", "conversations": [{"from": "human", "value": "<video>\\nWhat moves?"},
                                                          {"from": "gpt", "value": "A red circle."}]}

`image` in the place of `video` names a still image, which is trained on as a video of one frame. `kind`
(optional) names the sort of question. Other fields are ignored. Paths are relative to the folder of the file.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blip3v.data.conversation import Turn, question_text
from blip3v.errors import UserError


@dataclass(frozen=True)
class Record:
    """A conversation and what it is about.

    Attributes:
        id: name of the record in its data set.
        turns: questions and answers in order, at least one; questions without `<video>` and `<image>` marks.
        video: a video file or a folder of frames.
        image: an image file. At most one of video and image is given.
        kind: sort of question, for accuracy per kind.
    """

    id: str
    turns: tuple[Turn, ...]
    video: Path | None = None
    image: Path | None = None
    kind: str | None = None

    @property
    def media(self) -> Path | None:
        """The video or the image, None for a record of text alone."""
        return self.video if self.video is not None else self.image


def read_records(path: str | Path, check_media: bool = True) -> list[Record]:
    """Every record of a JSON lines file, in its order; empty lines are skipped.

    Args:
        path: the file.
        check_media: also look that every video and image exists.

    Raises:
        UserError: no such file, no records in it, or a bad line; the message begins with `file:line`.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no such annotation file: {path}; give a JSON lines file with one record per line")
    records = [record for _, record in _numbered_records(path, check_media)]
    if not records:
        raise UserError(f"{path} holds no records; write one JSON object per line")
    return records


def write_records(path: str | Path, records: Iterable[Record]) -> None:
    """Write records so that `read_records` gives them back.

    Raises:
        UserError: a video or image that is not under the folder of the file.
    """
    path = Path(path)
    lines = [json.dumps(_to_json(record, path.parent), ensure_ascii=False) + "\n" for record in records]
    path.write_text("".join(lines), encoding="utf-8")


def fingerprint(records: Sequence[Record]) -> str:
    """Digest of all ids, conversations and file names: equal for equal records wherever they lie."""
    digest = hashlib.sha256()
    for record in records:
        name = record.media.name if record.media is not None else None
        digest.update(json.dumps([record.id, record.turns, name, record.kind]).encode())
    return digest.hexdigest()


def _numbered_records(path: Path, check_media: bool) -> Iterator[tuple[int, Record]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield number, _from_json(_parse(line), path.parent, check_media)
            except UserError as error:
                raise UserError(f"{path}:{number}: {error}") from error


def _parse(line: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except UnicodeDecodeError as error:
        raise UserError("not UTF-8 text; convert the file to UTF-8") from error
    except json.JSONDecodeError as error:
        raise UserError(
            f"not JSON ({error.msg} at column {error.colno}); write one object per line"
        ) from error
    if not isinstance(fields, dict):
        raise UserError(f"a record must be a JSON object, this is a {type(fields).__name__}")
    return fields


def _from_json(fields: dict[str, Any], folder: Path, check_media: bool) -> Record:
    name = fields.get("id")
    if isinstance(name, bool) or not isinstance(name, (str, int)):
        raise UserError("'id' is missing or neither text nor a whole number; give every record a name")
    kind = fields.get("kind")
    if kind is not None and not isinstance(kind, str):
        raise UserError("'kind' must be text; name the sort of question or leave it out")
    video, image = (_media(fields, key, folder, check_media) for key in ("video", "image"))
    if video is not None and image is not None:
        raise UserError("both 'video' and 'image' are given; a record is about one of them, make two records")
    return Record(str(name), _turns(fields.get("conversations")), video, image, kind)


def _media(fields: dict[str, Any], key: str, folder: Path, check_media: bool) -> Path | None:
    value = fields.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or not value:
        raise UserError(f"'{key}' must be one path; make one record per {key}")
    # Names are compared as text: a link inside the folder that leads elsewhere was put there by its owner.
    inside = posixpath.normpath(value)
    if inside.startswith(("/", "../")) or inside in ("..", "."):
        raise UserError(f"'{key}' leads out of the folder of the file: {value}; use a path relative to it")
    path = folder / inside
    if check_media and not path.exists():
        raise UserError(f"no such {key}: {path}; paths are relative to the folder of the annotation file")
    return path


def _turns(conversations: Any) -> tuple[Turn, ...]:
    if not isinstance(conversations, list) or not conversations:
        raise UserError("'conversations' must be a list of turns that is not empty")
    if len(conversations) % 2:
        raise UserError("'conversations' must alternate human and gpt; the last question has no answer")
    values = []
    for index, message in enumerate(conversations):
        speaker = ("human", "gpt")[index % 2]
        if not isinstance(message, dict) or message.get("from") != speaker:
            raise UserError(f"message {index + 1} of 'conversations' must be from {speaker}")
        if not isinstance(message.get("value"), str):
            raise UserError(f"message {index + 1} of 'conversations' needs its text in 'value'")
        values.append(message["value"])
    return tuple(
        Turn(question_text(question), answer)
        for question, answer in zip(values[::2], values[1::2], strict=True)
    )


def _to_json(record: Record, folder: Path) -> dict[str, Any]:
    fields: dict[str, Any] = {"id": record.id}
    mark = ""
    for key in ("video", "image"):
        path: Path | None = getattr(record, key)
        if path is None:
            continue
        if not path.is_relative_to(folder):
            raise UserError(
                f"record {record.id}: {path} is not under {folder}; write the file beside its media"
            )
        fields[key] = path.relative_to(folder).as_posix()
        mark = f"<{key}>\n"
    if record.kind is not None:
        fields["kind"] = record.kind
    messages = []
    for index, turn in enumerate(record.turns):
        messages.append({"from": "human", "value": (mark if index == 0 else "") + turn.question})
        messages.append({"from": "gpt", "value": turn.answer})
    fields["conversations"] = messages
    return fields
