"""MiraData: structured captions of clips of up to two minutes; the recipe keeps those up to one.

A table with the columns clip_id, source, video_url, video_id, width, height, file_path, fps, seconds,
timestamp and the captions (short_caption, dense_caption, main_object_caption, background_caption,
style_caption, camera_caption). `timestamp` holds two times of the source video, "['0:01:02.5',
'0:01:58.0']". The first release (v0) has index, video_id, start_frame, end_frame, fps in their place.

The media folder may hold the clips, cut as the authors' script cuts them, or the source videos as it
downloads them; of a source video only the span of the clip is used.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from blip3v.data.conversation import Turn
from blip3v.data.forms import Item
from blip3v.data.media import MediaFolder
from blip3v.data.readers.entries import answer, items_of, table_header, table_rows, text
from blip3v.data.skipping import BadEntry, Reason, Skipped
from blip3v.video.span import Span

CLOCK = re.compile(r"(\d+):(\d+):(\d+(?:\.\d+)?)")


def read(
    annotations: Path, media: MediaFolder, caption: str = "dense_caption", longest: float = 60.0
) -> Iterator[Item | Skipped]:
    """Each row as a caption without a question.

    Args:
        caption: column of the caption.
        longest: seconds; longer clips are skipped.
    """
    first_release = "clip_id" not in table_header(annotations)
    name = "index" if first_release else "clip_id"
    clock = ("start_frame", "end_frame", "fps") if first_release else ("timestamp",)

    def make(fields: dict[str, Any]) -> Item:
        span = _frames(fields) if first_release else _clock(fields)
        if span[1] - span[0] > longest:
            raise BadEntry(Reason.TOO_LONG, f"{span[1] - span[0]:.1f} s, longer than {longest:g}")
        turn = Turn("", answer(fields, caption))
        clips, sources = _names_v0(fields) if first_release else _names(fields)
        cut = media.found(clips)
        video = cut or media.first([*clips, *sources])
        return Item(text(fields, name), (turn,), video, kind="caption", span=span if cut is None else None)

    return items_of(table_rows(annotations, (name, "video_id", caption, *clock)), make)


def _names(fields: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Where the authors' script puts the clip, and where the source video, which may serve several clips."""
    clip, path = text(fields, "clip_id"), str(fields.get("file_path") or "")
    download = clip.split(".")[0]
    clips = [f"{clip}.mp4"] if not path else [path, f"{clip}.mp4"]
    return clips, [f"{download.zfill(12)}.mp4", f"{text(fields, 'video_id')}.mp4"]


def _names_v0(fields: dict[str, Any]) -> tuple[list[str], list[str]]:
    index = text(fields, "index")
    source = index.split("-")[0]
    number = source.split("_")[0]
    folder = f"{int(number) // 1000:09d}" if number.isdecimal() and len(number) < 19 else "."
    return [f"{folder}/{index}.mp4", f"{index}.mp4"], [
        f"{folder}/{source}.mp4",
        f"{source}.mp4",
        f"{text(fields, 'video_id')}.mp4",
    ]


def _clock(fields: dict[str, Any]) -> Span:
    times = [
        int(hours) * 3600 + int(minutes) * 60 + float(seconds)
        for hours, minutes, seconds in CLOCK.findall(text(fields, "timestamp", Reason.BAD_SPAN))
    ]
    return _checked(*times[:2]) if len(times) == 2 else _checked(0, 0)


def _frames(fields: dict[str, Any]) -> Span:
    try:
        first, last, fps = (float(fields[key]) for key in ("start_frame", "end_frame", "fps"))
    except ValueError as error:
        raise BadEntry(Reason.BAD_SPAN, f"a frame number or the frame rate is no number ({error})") from error
    return _checked(first / fps, last / fps) if fps > 0 else _checked(0, 0)


def _checked(begin: float, end: float) -> Span:
    if not 0 <= begin < end < math.inf:
        raise BadEntry(Reason.BAD_SPAN, "the clip has no begin and end in the source video")
    return begin, end
