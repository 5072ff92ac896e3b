"""Which samples make which batch: fixed by seed and batch number, so a run can resume anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from blip3v.errors import UserError


class Place(NamedTuple):
    """One sample in one pass over the data, by its number: datasets take it as their index.

    The epoch travels with it because worker processes hold their own copy of the dataset.
    """

    epoch: int
    sample: int


class BatchOrder:
    """Shuffled batches of every epoch, numbered through all epochs from 0.

    The whole state is how many batches were used: batch n is batch `n % batches_per_epoch` of epoch
    `n // batches_per_epoch`, whatever was drawn before. (Workers fetch ahead, so an iterator's own position
    would say too much.)

    Args:
        num_samples: length of the dataset.
        batch_size: samples per batch.
        seed: decides the shuffle of every epoch.
        drop_last: leave out the last batch of an epoch when it is short; otherwise it is used as it is.

    Raises:
        UserError: a dataset without a single batch.
    """

    def __init__(self, num_samples: int, batch_size: int, seed: int, drop_last: bool = False) -> None:
        if batch_size < 1:
            raise UserError(f"batch size {batch_size} is not possible; use 1 or more")
        full, rest = divmod(num_samples, batch_size)
        self.batches_per_epoch = full + bool(rest and not drop_last)
        if self.batches_per_epoch == 0:
            raise UserError(
                f"{num_samples} samples make no batch of {batch_size}; use more samples or a smaller batch"
            )
        self.num_samples, self.batch_size, self.seed = num_samples, batch_size, seed
        self._epoch, self._permutation = -1, np.empty(0, dtype=np.int64)

    def position(self, number: int) -> tuple[int, int]:
        """Epoch and position in it of batch `number`."""
        return divmod(number, self.batches_per_epoch)

    def batch(self, number: int) -> list[Place]:
        """The samples of batch `number`."""
        epoch, position = self.position(number)
        if epoch != self._epoch:
            self._epoch = epoch
            self._permutation = np.random.default_rng([self.seed, epoch]).permutation(self.num_samples)
        chosen = self._permutation[position * self.batch_size : (position + 1) * self.batch_size]
        return [Place(epoch, int(index)) for index in chosen]

    def batches(self, start: int, stop: int, stride: int = 1) -> Batches:
        """Batches start, start + stride, ... before stop, as a `batch_sampler` for torch's DataLoader.

        A stride shares the batches among several devices.
        """
        return Batches(self, range(start, stop, stride))


class Batches:
    """A stretch of a `BatchOrder`; iterating gives lists of `Place`."""

    def __init__(self, order: BatchOrder, numbers: range) -> None:
        self._order, self._numbers = order, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[list[Place]]:
        return map(self._order.batch, self._numbers)
