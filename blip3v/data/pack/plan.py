"""What is packed: which clips the records are about, in which shard each goes, and which frames of it."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from blip3v.data.record_store import RecordStore
from blip3v.data.records import Record
from blip3v.errors import UserError
from blip3v.video.sampling import training_sampler
from blip3v.video.span import Span

NO_CLIP = -1
"""Clip number of a record of text alone."""


@dataclass(frozen=True)
class Settings:
    """What decides the bytes of the shards; a run goes on only where all of it is the same.

    Attributes:
        frames: stored per clip, spread evenly; with `epochs`, frames of one sample, as the recipe's
            num_frames.
        size: side of the stored squares in pixels, padded and resized as for the model; 0 stores frames as
            they are.
        format: jpg, or png, which loses nothing.
        quality: of jpg, 1 to 100.
        clips_per_shard: in one tar.
        seed: of training, and of the mixture.
        epochs: store what training with this seed asks for in its first epochs; 0 for evenly spread frames.
        decoder: of `blip3v.video.decoders`.

    Raises:
        UserError: a value that means nothing.
    """

    frames: int = 16
    size: int = 384
    format: Literal["jpg", "png"] = "jpg"
    quality: int = 90
    clips_per_shard: int = 500
    seed: int = 42
    epochs: int = 0
    decoder: str = "auto"

    def __post_init__(self) -> None:
        for name, least in (
            ("frames", 1),
            ("size", 0),
            ("quality", 1),
            ("clips_per_shard", 1),
            ("epochs", 0),
        ):
            if getattr(self, name) < least:
                raise UserError(f"{name} {getattr(self, name)} cannot be; it must be at least {least}")
        if self.quality > 100 or self.format not in ("jpg", "png"):
            raise UserError(
                f"format {self.format} of quality {self.quality} cannot be; choose jpg or png, 1 to 100"
            )


@dataclass(frozen=True)
class ClipJob:
    """One clip that is to be packed: all that a worker needs to know.

    Attributes:
        number: of the clip; its key is made of it.
        path: the video or image.
        source: the same, relative to the folder of the mixture.
        span: seconds of the video that the records are about, None for all of it.
        is_image: a still image instead of a video.
        uses: numbers of the records about it, where they decide the frames.
    """

    number: int
    path: Path
    source: str
    span: Span | None
    is_image: bool
    uses: tuple[int, ...]
    settings: Settings

    @property
    def key(self) -> str:
        """Its name in the shard."""
        return key_of(self.number)

    def stored(self, total: int) -> np.ndarray:
        """int64 [K], rising: which of the `total` frames that may be sampled are stored."""
        settings = self.settings
        if not settings.epochs:
            if total <= settings.frames:
                return np.arange(total)
            # The middle of each of equal segments: no frame that training asks for is far from one of them.
            return (2 * np.arange(settings.frames) + 1) * total // (2 * settings.frames)
        asked = [
            training_sampler(settings.seed, epoch, record)(total, settings.frames)
            for epoch in range(settings.epochs)
            for record in self.uses
        ]
        return np.unique(np.concatenate(asked))


class Plan:
    """The clips of a corpus, each once however many records are about it, numbered as they first occur.

    Args:
        records: of the mixture.
        root: folder that names are given relative to.
        settings: see there.
    """

    def __init__(self, records: RecordStore, root: Path, settings: Settings) -> None:
        self.records, self.root, self.settings = records, root, settings
        numbers: dict[tuple[str, Span | None, bool], int] = {}
        clip_of, first = array("q"), array("q")
        for place, record in enumerate(records):
            if record.media is None:
                clip_of.append(NO_CLIP)
                continue
            clip = str(record.media), record.span, record.image is not None
            number = numbers.setdefault(clip, len(numbers))
            if number == len(first):
                first.append(place)
            clip_of.append(number)
        # Numbers instead of lists of records: there may be millions.
        self.clip_of = np.array(clip_of, dtype=np.int64)
        self._first = np.array(first, dtype=np.int64)
        self._by_clip = np.argsort(self.clip_of, kind="stable")
        self._ends = np.searchsorted(self.clip_of[self._by_clip], np.arange(len(first)), side="right")
        self._begins = np.searchsorted(self.clip_of[self._by_clip], np.arange(len(first)))

    @property
    def num_clips(self) -> int:
        return len(self._first)

    @property
    def num_shards(self) -> int:
        return -(-self.num_clips // self.settings.clips_per_shard)

    def clips_in(self, shard: int) -> range:
        """Numbers of the clips of a shard."""
        begin = shard * self.settings.clips_per_shard
        return range(begin, min(begin + self.settings.clips_per_shard, self.num_clips))

    def shard_of(self, clip: int) -> int:
        return clip // self.settings.clips_per_shard

    def records_of(self, clip: int) -> np.ndarray:
        """int64, numbers of the records about a clip, rising."""
        return self._by_clip[self._begins[clip] : self._ends[clip]]

    def job(self, clip: int) -> ClipJob:
        record = self.records[int(self._first[clip])]
        path = record.media
        assert path is not None  # a record without media has no clip
        uses = tuple(self.records_of(clip).tolist()) if self.settings.epochs else ()
        source = Path(os.path.relpath(path, self.root)).as_posix()
        return ClipJob(clip, path, source, record.span, record.image is not None, uses, self.settings)

    def without(self, failed: set[int]) -> Iterator[tuple[Record, int]]:
        """The records in their order, each with its clip, but for those about `failed` clips."""
        for place, clip in enumerate(self.clip_of.tolist()):
            if clip not in failed:
                yield self.records[place], clip


def key_of(clip: int) -> str:
    """Name of a clip in its shard, and of its files up to their first dot."""
    return f"{clip:08d}"


def shard_name(shard: int) -> str:
    """File name of a shard."""
    return f"shard-{shard:06d}.tar"
