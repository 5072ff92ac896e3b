"""Around a dataset in a worker: a broken sample costs itself, and others can see who works on what."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from blip3v.data.batches import PLACEHOLDER, Place
from blip3v.data.memory_limit import keeps_memory, ran_out_of_memory
from blip3v.data.packing import IGNORE
from blip3v.errors import UserError

TRIES = 64
"""Samples tried for a stand-in before the data set is taken for broken as a whole."""


class Samples(Protocol):
    """A dataset: the sample at a place depends on the place alone."""

    def __len__(self) -> int: ...

    def __getitem__(self, place: Place) -> Any: ...


class LeftOut(NamedTuple):
    """A sample that was left out, and why."""

    place: Place
    reason: str


class Delivery(NamedTuple):
    """What a worker hands over: a batch, or the error that there is none, and what was left out of it."""

    batch: dict[str, Any] | None
    skipped: list[LeftOut]
    error: str = ""


class Blackboard:
    """Shared memory with one row per worker: its process id, the place it works on and since when."""

    def __init__(self, workers: int) -> None:
        self._rows = multiprocessing.RawArray(ctypes.c_double, 4 * workers)
        self._row: int | None = None

    def take_row(self, worker: int) -> None:
        """Called in the worker, once."""
        self._row = 4 * worker
        self._rows[self._row : self._row + 4] = [os.getpid(), 0, 0, 0]

    def begin(self, place: Place) -> None:
        """This worker starts on a sample."""
        if self._row is not None:
            # The time last: whoever reads a time must find the place that belongs to it.
            self._rows[self._row + 1] = place.epoch
            self._rows[self._row + 2] = place.sample
            self._rows[self._row + 3] = time.monotonic()

    def end(self) -> None:
        """This worker is done with it."""
        if self._row is not None:
            self._rows[self._row + 3] = 0

    def pids(self) -> list[int]:
        """Of the workers that have begun."""
        return [int(pid) for pid in self._rows[::4] if pid]

    def at_work(self) -> list[tuple[int, Place, float]]:
        """Process id, place and seconds since its beginning of every sample that is being made."""
        now, rows = time.monotonic(), self._rows
        return [
            (int(rows[row]), Place(int(rows[row + 1]), int(rows[row + 2])), now - rows[row + 3])
            for row in range(0, len(rows), 4)
            if rows[row + 3]
        ]


class Guard:
    """Makes a batch of places, whatever happens to single samples.

    In the place of a broken sample, and of `PLACEHOLDER`, stands a sample that can be read, with all its
    labels taken away: it teaches nothing, but the batch has about as many videos as it should, so every
    device runs the same parts of the model (they wait for each other in each). It is the first good sample of
    the batch, else the next good one of the data set.

    Args:
        dataset: samples by `Place`; each has "labels".
        collate: list of samples -> batch.
        blackboard: where to write what is being worked on.
        banned: places not to touch, with the reason.
    """

    def __init__(
        self,
        dataset: Samples,
        collate: Callable[[list[Any]], dict[str, Any]],
        blackboard: Blackboard,
        banned: Mapping[Place, str],
    ) -> None:
        self.dataset, self.collate = dataset, collate
        self.blackboard, self.banned = blackboard, banned

    def __call__(self, places: Sequence[Place]) -> Delivery:
        """The batch of `places`; an empty list counts as one placeholder."""
        skipped: list[LeftOut] = []
        try:
            return Delivery(self._batch(places or [PLACEHOLDER], skipped), skipped)
        except UserError as error:
            # One line for the user, without the traceback that a worker's exception travels with.
            return Delivery(None, skipped, str(error))

    def _batch(self, places: Sequence[Place], skipped: list[LeftOut]) -> dict[str, Any]:
        samples = [None if place == PLACEHOLDER else self._sample(place, skipped) for place in places]
        if any(sample is None for sample in samples):
            good = next((sample for sample in samples if sample is not None), None)
            blank = without_labels(good if good is not None else self._any_sample(places[0], skipped))
            samples = [blank if sample is None else sample for sample in samples]
        return self.collate(samples)

    def _sample(self, place: Place, skipped: list[LeftOut] | None) -> Any | None:
        reason, out_of_memory = self.banned.get(place), False
        if reason is None:
            self.blackboard.begin(place)
            try:
                return self.dataset[place]
            except Exception as error:
                # Decoders raise what they like; a bug raises for every sample, and the loader counts.
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                if isinstance(error, UserError):
                    reason = str(error)
                out_of_memory = ran_out_of_memory(error)
            finally:
                self.blackboard.end()
        if out_of_memory and keeps_memory():
            # Not this sample but what others left behind fills the worker: the loader starts a new one, in
            # which this sample has its chance. Here, where the failed attempt has let its memory go.
            os._exit(1)
        if skipped is not None:
            skipped.append(LeftOut(place, reason))
        return None

    def _any_sample(self, place: Place, skipped: list[LeftOut]) -> Any:
        epoch, begin = max(place.epoch, 0), max(place.sample, 0)
        for step in range(1, 1 + min(TRIES, len(self.dataset))):
            # Not reported: whatever is wrong with these is reported when their turn comes.
            sample = self._sample(Place(epoch, (begin + step) % len(self.dataset)), None)
            if sample is not None:
                return sample
        reason = f" ({skipped[0].reason})" if skipped else ""
        raise UserError(
            f"none of {step} samples in a row can be read{reason}; check the data with `blip3v data check`"
        )


def without_labels(sample: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The sample with nothing to learn from."""
    return {**sample, "labels": torch.full_like(sample["labels"], IGNORE)}
