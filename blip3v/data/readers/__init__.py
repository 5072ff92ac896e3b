"""Annotation files as published -> entries, one file for each family of data sets.

A reader is `read(annotations, media, ...)`: a generator of `Item`s and, for every entry that cannot be used,
`Skipped`. It never fails over one entry; a file that is not there or is another one is a UserError.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from blip3v.data.forms import Form, Item
from blip3v.data.media import MediaFolder
from blip3v.data.readers import (
    activitynet,
    llava_hound,
    mira,
    msvd_msrvtt,
    nextqa,
    records,
    tgif,
    video_instruct,
)
from blip3v.data.skipping import Reason, Skipped


@dataclass(frozen=True)
class Format:
    """A family of files.

    Attributes:
        read: the reader.
        forms: the forms that its entries may take, the default first.
        options: further keys that the reader takes.
    """

    read: Callable[..., Iterator[Item | Skipped]]
    forms: tuple[Form, ...]
    options: tuple[str, ...] = ()


FORMATS: dict[str, Format] = {
    "records": Format(records.read, ("turns", "open", "sentence")),
    "llava_hound": Format(llava_hound.read, ("turns", "open", "sentence")),
    "video_instruct": Format(video_instruct.read, ("turns", "open", "sentence")),
    "msvd": Format(msvd_msrvtt.read_msvd, ("open", "sentence")),
    "msrvtt": Format(msvd_msrvtt.read_msrvtt, ("open", "sentence")),
    "activitynet": Format(activitynet.read, ("open", "sentence")),
    "tgif": Format(tgif.read, ("open", "sentence", "multiple_choice")),
    "nextqa": Format(nextqa.read, ("open", "sentence", "multiple_choice"), ("video_map",)),
    "mira": Format(mira.read, ("caption", "sentence"), ("caption", "longest")),
}
"""The names that a mixture file uses."""


def read_files(
    name: str, annotations: list[Path], media: MediaFolder, options: dict[str, object]
) -> Iterator[Item | Skipped]:
    """The entries of several files of one format; of two with the same id, and source if named, the first."""
    seen: set[tuple[str | None, str]] = set()
    for path in annotations:
        for entry in FORMATS[name].read(path, media, **options):
            if isinstance(entry, Item):
                if (entry.source, entry.id) in seen:
                    where = f"{path.name} id {entry.id}"
                    entry = Skipped(where, Reason.DUPLICATE, f"there was an entry {entry.id} before")
                else:
                    seen.add((entry.source, entry.id))
            yield entry
