"""Annotation files: one JSON object per line, in the format of LLaVA.

    {"id": "7", "video": "clips/7.mp4", "conversations": [{"from": "human", "value": "<video>\\nWhat moves?"},
                                                          {"from": "gpt", "value": "A red circle."}]}

`image` in the place of `video` names a still image, which is trained on as a video of one frame. `video` may
also be a folder of frames, or one inside a plain tar: `chunk.tar/clip7`. Both may be a clip that was packed,
`shard-000000.tar/00000042` (`blip3v.video.packed`). Optional are `kind`, the sort of
question, `source`, the name of the data set, and `span`, [begin, end] in seconds of the video that the record
is about. Other fields are ignored. Paths are relative to the folder of the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blip3v.data.conversation import Turn, question_text
from blip3v.data.media import MediaFolder
from blip3v.data.skipping import BadEntry, Reason
from blip3v.errors import UserError
from blip3v.files import written_aside
from blip3v.video.span import Span

LONGEST = 1e9
"""Seconds; no span ends later."""


@dataclass(frozen=True)
class Record:
    """A conversation and what it is about.

    Attributes:
        id: name of the record in its data set.
        turns: questions and answers in order, at least one; questions without `<video>` and `<image>` marks.
        video: a video file, a folder of frames, or one in a tar (`chunk.tar/clip7`).
        image: an image file. At most one of video and image is given.
        kind: sort of question, for accuracy per kind.
        source: name of the data set.
        span: (begin, end) in seconds: the part of the video that the turns are about; None is all of it.
    """

    id: str
    turns: tuple[Turn, ...]
    video: Path | None = None
    image: Path | None = None
    kind: str | None = None
    source: str | None = None
    span: Span | None = None

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
    """Write records so that `read_records` gives them back; an older file goes only once this one is whole.

    Raises:
        UserError: a video or image that is not under the folder of the file.
    """
    path = Path(path)
    with written_aside(path) as aside, aside.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(line_of(record, path.parent))


def line_of(record: Record, folder: Path) -> str:
    """A record as its line in a file that lies in `folder`.

    Raises:
        UserError: a video or image that is not under it.
    """
    return json.dumps(_to_json(record, folder), ensure_ascii=False) + "\n"


def fingerprint(records: Sequence[Record]) -> str:
    """Digest of all ids, conversations, spans and file names: equal for equal records wherever they lie.

    A sequence that has a digest of its own (`RecordStore`) is asked for it.
    """
    own = getattr(records, "fingerprint", None)
    if own is not None:
        return str(own)
    digest = hashlib.sha256()
    for record in records:
        name = record.media.name if record.media is not None else None
        fields = [record.id, record.turns, name, record.kind, record.source, record.span]
        digest.update(json.dumps(fields).encode())
    return digest.hexdigest()


def parse_line(line: bytes) -> dict[str, Any]:
    """The JSON object in one line of a file.

    Raises:
        BadEntry: it is none.
    """
    try:
        fields = json.loads(line)
    except UnicodeDecodeError as error:
        raise BadEntry(Reason.MALFORMED, "not UTF-8 text; convert the file to UTF-8") from error
    except json.JSONDecodeError as error:
        why = f"{error.msg} at column {error.colno}"
        raise _malformed(f"not JSON ({why}); write one object per line") from error
    except (ValueError, RecursionError) as error:
        raise _malformed(f"a number or a nesting beyond all measure ({error})") from error
    if not isinstance(fields, dict):
        raise _malformed(f"a record must be a JSON object, this is a {type(fields).__name__}")
    return fields


def record_from_json(fields: dict[str, Any], media: MediaFolder) -> Record:
    """One record from the fields of its line.

    Raises:
        BadEntry: a field is missing or wrong, or the video is not there.
    """
    name = name_of(fields)
    texts = {key: fields.get(key) for key in ("kind", "source")}
    for key, text in texts.items():
        if text is not None and not isinstance(text, str):
            raise _malformed(f"'{key}' must be text; name it or leave it out")
    video, image = (_media(fields, key, media) for key in ("video", "image"))
    if video is not None and image is not None:
        raise _malformed(
            "both 'video' and 'image' are given; a record is about one of them, make two records"
        )
    span = _span(fields.get("span"))
    if span is not None and video is None:
        raise BadEntry(Reason.BAD_SPAN, "'span' is given without a video; leave it out")
    return Record(name, turns_of(fields.get("conversations")), video, image, **texts, span=span)


def name_of(fields: dict[str, Any]) -> str:
    """`id` as text.

    Raises:
        BadEntry: missing, or neither text nor a whole number.
    """
    name = fields.get("id")
    if isinstance(name, bool) or not isinstance(name, (str, int)):
        raise _malformed("'id' is missing or neither text nor a whole number; give every record a name")
    return str(name)


def turns_of(conversations: Any) -> tuple[Turn, ...]:
    """Messages of human and gpt in turn, as questions without marks and answers as they stand.

    Raises:
        BadEntry: anything else.
    """
    if not isinstance(conversations, list) or not conversations:
        raise _malformed("'conversations' must be a list of turns that is not empty")
    if len(conversations) % 2:
        raise _malformed("'conversations' must alternate human and gpt; the last question has no answer")
    values = []
    for index, message in enumerate(conversations):
        speaker = ("human", "gpt")[index % 2]
        if not isinstance(message, dict) or message.get("from") != speaker:
            raise _malformed(f"message {index + 1} of 'conversations' must be from {speaker}")
        if not isinstance(message.get("value"), str):
            raise _malformed(f"message {index + 1} of 'conversations' needs its text in 'value'")
        values.append(message["value"])
    return tuple(
        Turn(question_text(question), answer)
        for question, answer in zip(values[::2], values[1::2], strict=True)
    )


def _numbered_records(path: Path, check_media: bool) -> Iterator[tuple[int, Record]]:
    media = MediaFolder(path.parent, check_media)
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield number, record_from_json(parse_line(line), media)
            except UserError as error:
                raise UserError(f"{path}:{number}: {error}") from error


def _malformed(detail: str) -> BadEntry:
    return BadEntry(Reason.MALFORMED, detail)


def _media(fields: dict[str, Any], key: str, media: MediaFolder) -> Path | None:
    value = fields.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or not value:
        raise _malformed(f"'{key}' must be one path; make one record per {key}")
    return media.file(value, key)


def _span(value: Any) -> Span | None:
    if value is None:
        return None
    numbers = isinstance(value, list) and all(type(number) in (int, float) for number in value)
    if not numbers or len(value) != 2 or not 0 <= value[0] < value[1] < LONGEST:
        raise BadEntry(Reason.BAD_SPAN, "'span' must be [begin, end] in seconds, 0 <= begin < end")
    return float(value[0]), float(value[1])


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
    for key in ("kind", "source"):
        if getattr(record, key) is not None:
            fields[key] = getattr(record, key)
    if record.span is not None:
        fields["span"] = list(record.span)
    messages = []
    for index, turn in enumerate(record.turns):
        messages.append({"from": "human", "value": (mark if index == 0 else "") + turn.question})
        messages.append({"from": "gpt", "value": turn.answer})
    fields["conversations"] = messages
    return fields
