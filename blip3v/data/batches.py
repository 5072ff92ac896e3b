"""Which samples make which step, and who computes them: fixed by seed and sample number, so a run can resume
anywhere and on another number of devices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from blip3v.data.balance import share_evenly
from blip3v.errors import UserError


class Place(NamedTuple):
    """One sample in one pass over the data, by its number: datasets take it as their index.

    The epoch travels with it because worker processes hold their own copy of the dataset.
    """

    epoch: int
    sample: int


PLACEHOLDER = Place(-1, -1)
"""What stands in a micro-batch that has no sample. A loader puts a sample without labels in its place,
because all devices must run the same passes."""


class SampleOrder:
    """The shuffled samples of every epoch, numbered through all epochs from 0.

    The whole state of a run is how many samples were used: sample i is sample `i % num_samples` of the
    shuffle of epoch `i // num_samples`, whatever was drawn before. (Workers fetch ahead, so an iterator's own
    position would say too much.) A step takes the next `count` samples, fewer at the end of an epoch, which
    it never crosses. Which samples those are does not depend on how they are shared among devices.

    Args:
        num_samples: length of the dataset.
        seed: decides the shuffle of every epoch.
        lengths: tokens of each sample, [num_samples], an estimate is enough: the samples of a step are shared
            so that every device has about as many tokens. None shares them in their order.
        drop_last: leave out the last step of an epoch when it is short; otherwise it is used as it is.

    Raises:
        UserError: no samples, or lengths of another data set.
    """

    def __init__(
        self,
        num_samples: int,
        seed: int,
        lengths: Sequence[int] | np.ndarray | None = None,
        drop_last: bool = False,
    ) -> None:
        if num_samples < 1:
            raise UserError(f"{num_samples} samples make no batch; check that the data set is not empty")
        self.lengths = None if lengths is None else np.asarray(lengths, dtype=np.int64)
        if self.lengths is not None and self.lengths.shape != (num_samples,):
            raise UserError(
                f"lengths of {self.lengths.size} samples for {num_samples}; measure this data set again"
            )
        self.num_samples, self.seed, self.drop_last = num_samples, seed, drop_last
        self._epoch, self._permutation = -1, np.empty(0, dtype=np.int64)

    def steps_per_epoch(self, count: int) -> int:
        """Steps of `count` samples in one pass over the data.

        Raises:
            UserError: not a single step.
        """
        if count < 1:
            raise UserError(f"a step of {count} samples is not possible; use 1 or more")
        full, rest = divmod(self.num_samples, count)
        steps = full + bool(rest and not self.drop_last)
        if steps == 0:
            raise UserError(
                f"{self.num_samples} samples make no step of {count}; use more samples or a smaller batch"
            )
        return steps

    def first_sample(self, step: int, count: int) -> int:
        """The position at which step number `step` of a run in steps of `count` samples begins."""
        epoch, number = divmod(step, self.steps_per_epoch(count))
        return epoch * self.num_samples + number * count

    def after(self, first_sample: int, count: int) -> int:
        """The position after the step that begins at `first_sample`."""
        epoch, position = divmod(first_sample, self.num_samples)
        end = min(position + count, self.num_samples)
        if self.drop_last and end + count > self.num_samples:
            end = self.num_samples
        return epoch * self.num_samples + end

    def samples(self, first_sample: int, count: int) -> np.ndarray:
        """Numbers of the samples of the step that begins at `first_sample`, int64 [count] or fewer."""
        epoch, position = divmod(first_sample, self.num_samples)
        if epoch != self._epoch:
            self._epoch = epoch
            self._permutation = np.random.default_rng([self.seed, epoch]).permutation(self.num_samples)
        return self._permutation[position : position + count]

    def step(
        self, first_sample: int, count: int, ranks: int = 1, accumulation: int = 1
    ) -> list[list[list[Place]]]:
        """The step that begins at `first_sample`, as [rank][micro-batch] lists of places.

        The numbers of samples per micro-batch differ by at most 1; in a step of fewer samples than
        micro-batches some are empty, the last ones of each rank first.
        """
        epoch, samples = first_sample // self.num_samples, self.samples(first_sample, count)
        if self.lengths is None:
            shares = np.array_split(samples, ranks * accumulation)
        else:
            shares = share_evenly(samples, self.lengths[samples], ranks * accumulation)
        micro_batches = [[Place(epoch, sample) for sample in share.tolist()] for share in shares]
        # Micro-batches that are computed at the same time stand beside each other. They come sorted by
        # weight, and the first row's differ most: whoever has its heaviest gets the lightest of all others.
        rows = [micro_batches[start : start + ranks] for start in range(0, ranks * accumulation, ranks)]
        if self.lengths is not None:
            rows[1:] = [row[::-1] for row in rows[1:]]
        return [[row[rank] for row in rows] for rank in range(ranks)]

    def micro_batches(
        self, start: int, steps: int, count: int, rank: int = 0, ranks: int = 1, accumulation: int = 1
    ) -> MicroBatches:
        """One rank's share of `steps` steps from position `start` on, a `batch_sampler` for a DataLoader."""
        return MicroBatches(self, start, steps, count, rank, ranks, accumulation)


class MicroBatches:
    """A stretch of a `SampleOrder` for one rank; iterating gives a list of `Place` for each micro-batch.

    Each step gives `accumulation` lists; one without samples is `[PLACEHOLDER]`.
    """

    def __init__(
        self, order: SampleOrder, start: int, steps: int, count: int, rank: int, ranks: int, accumulation: int
    ) -> None:
        self._order, self._start, self._steps, self._count = order, start, steps, count
        self._rank, self._ranks, self._accumulation = rank, ranks, accumulation

    def __len__(self) -> int:
        return self._steps * self._accumulation

    def __iter__(self) -> Iterator[list[Place]]:
        position = self._start
        for _ in range(self._steps):
            step = self._order.step(position, self._count, self._ranks, self._accumulation)
            for micro_batch in step[self._rank]:
                yield micro_batch or [PLACEHOLDER]
            position = self._order.after(position, self._count)
