"""One call of a kernel with known results, for the probe that judges seeded faults."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType

from torch import Tensor

Results = Mapping[str, tuple[Tensor, Tensor, Tensor]]
"""Name of an output -> what the kernel wrote, what it is in float64, and the sum of the sizes of the terms
that were added up (see blip3v.testing.compare)."""


@dataclass(frozen=True)
class Problem:
    """A call that a kernel must get right in every schedule.

    Args:
        run: launches with the given module in place of blip3v._sim, into memory that was NaN, and allows the
            kernel no memory but the call's (`blip3v.testing.simulator.only`).
        seeds: random schedules to try.
        roundings: as of `blip3v.testing.compare.compare`.
    """

    name: str
    run: Callable[[ModuleType], Results]
    seeds: int = 4
    roundings: int = 1
