"""Millions of records in two arrays, so that they cost little and worker processes share them.

A list of records is millions of Python objects. Reading one changes its reference count, so a forked worker
gets its own copy of every page it looks at, and after an hour each of them holds the whole list. Here the
records are bytes in one buffer and numbers in another, which nobody writes to.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import overload

import numpy as np

from blip3v.data.conversation import Turn
from blip3v.data.records import Record

# One encoder for all: json.dumps with options builds one for every call.
ENCODE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class RecordStore(Sequence[Record]):
    """A sequence of records, made by `RecordStoreBuilder` or `RecordStore.of`.

    Measured with 200,000 records: 139 bytes each for short questions and answers (a list of them: 782), 1,135
    with captions of 150 words, which are 1,040 of these bytes (a list: 1,627). So the text and about 90 bytes
    more, of which 16 are numbers. Taking a record out costs about 20 microseconds.

    Args:
        data: uint8 [bytes], the records behind each other, each as JSON.
        ends: int64 [stored], where each record ends in `data`.
        order: int64 [N], which stored record stands at each place; one may stand at several.
        roots: folders that the paths begin with.
    """

    def __init__(self, data: np.ndarray, ends: np.ndarray, order: np.ndarray, roots: Sequence[str]) -> None:
        self._data, self._ends, self._order, self._roots = data, ends, order, tuple(roots)

    @classmethod
    def of(cls, records: Iterable[Record]) -> RecordStore:
        """These records in this order."""
        builder = RecordStoreBuilder()
        for record in records:
            builder.add(record)
        return builder.build()

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> RecordStore: ...
    def __getitem__(self, index: int | slice) -> Record | RecordStore:
        """One record, made anew from its bytes, or a store of some, sharing the bytes."""
        if isinstance(index, slice):
            return RecordStore(self._data, self._ends, self._order[index], self._roots)
        stored = int(self._order[index])
        begin = int(self._ends[stored - 1]) if stored else 0
        return self._decode(self._data[begin : int(self._ends[stored])].tobytes())

    def __iter__(self) -> Iterator[Record]:
        return (self[index] for index in range(len(self)))

    def without_copies(self) -> RecordStore:
        """Every stored record that stands somewhere once, at its first place, sharing the bytes."""
        _, first = np.unique(self._order, return_index=True)
        return RecordStore(self._data, self._ends, self._order[np.sort(first)], self._roots)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return self._data.nbytes + self._ends.nbytes + self._order.nbytes

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the records in their order: equal for equal data sets wherever their folders lie."""
        digest = hashlib.sha256()
        for part in (self._data, self._ends, self._order):
            digest.update(np.ascontiguousarray(part).data)
        return digest.hexdigest()

    def _decode(self, line: bytes) -> Record:
        name, turns, video, image, kind, source, span = json.loads(line)
        return Record(
            name,
            tuple(Turn(question, answer) for question, answer in turns),
            self._path(video),
            self._path(image),
            kind,
            source,
            None if span is None else (span[0], span[1]),
        )

    def _path(self, stored: list[int | str] | None) -> Path | None:
        return None if stored is None else Path(self._roots[int(stored[0])], str(stored[1]))


class RecordStoreBuilder:
    """Takes records one by one, so that no list of them ever exists."""

    def __init__(self) -> None:
        self._data, self._ends, self._roots = bytearray(), array("q"), list[str]()

    def __len__(self) -> int:
        return len(self._ends)

    def add(self, record: Record, root: Path | None = None) -> None:
        """Append a record; its number is the length before.

        Args:
            root: the folder of its media, which is stored once for all; without one, paths stay whole.

        Raises:
            UnicodeEncodeError: a text with half a surrogate pair, which no tokenizer takes.
        """
        fields = [
            record.id, record.turns, self._stored(record.video, root), self._stored(record.image, root),
            record.kind, record.source, record.span,
        ]  # fmt: skip
        self._data += ENCODE(fields).encode()
        self._ends.append(len(self._data))

    def build(self, order: np.ndarray | None = None) -> RecordStore:
        """The store; `order` (int64 [N]) may repeat records and leave some out, None is all of them once."""
        data, ends = np.frombuffer(self._data, dtype=np.uint8), np.frombuffer(self._ends, dtype=np.int64)
        order = np.arange(len(ends), dtype=np.int64) if order is None else order
        for part in (data, ends, order):
            part.flags.writeable = False
        return RecordStore(data, ends, order, self._roots)

    def _stored(self, path: Path | None, root: Path | None) -> tuple[int, str] | None:
        if path is None:
            return None
        whole = str(path)
        start = "" if root is None else str(root)
        # Text instead of Path.relative_to, which takes longer than all the rest of `add`.
        inside = whole[len(start) + 1 :] if start and whole.startswith(start + "/") else ""
        if not inside:
            start, inside = "", whole
        if start not in self._roots:
            self._roots.append(start)
        return self._roots.index(start), inside
