"""Broken samples of a run, as JSON lines beside its log."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from blip3v.data.batches import Place
from blip3v.data.records import Record


class SkippedSamples:
    """Called with the place of a sample that could not be read; writes what it was and why.

    Args:
        folder: of the run. Each rank appends to its own file, `skipped.jsonl` or `skipped-<rank>.jsonl`;
            without a broken sample there is none.
        records: what places point at.
        rank: of this process.
    """

    def __init__(self, folder: Path, records: Sequence[Record], rank: int = 0) -> None:
        self.path = folder / ("skipped.jsonl" if rank == 0 else f"skipped-{rank}.jsonl")
        self.records = records

    def __call__(self, place: Place, reason: str) -> None:
        record = self.records[place.sample]
        line = {
            "epoch": place.epoch,
            "id": record.id,
            "source": record.source,
            "media": None if record.media is None else str(record.media),
            "reason": reason,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
