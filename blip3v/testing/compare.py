"""Comparison with float64: element by element against what rounding explains, and in norm."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from blip3v.rounding import UNIT

TYPICAL = 0.5
"""Errors of many roundings cancel: their norm stays below this part of the norm of the bounds."""


@dataclass(frozen=True)
class Verdict:
    """How far a result is off.

    relative: norm of the error over the norm of the exact result. worst: largest error in units of its bound.
    spread: norm of the errors over the norm of the bounds.
    """

    name: str
    relative: float
    worst: float
    spread: float

    @property
    def ok(self) -> bool:
        # Written so that NaN is not ok.
        return self.worst <= 1 and self.spread <= TYPICAL

    def __str__(self) -> str:
        word = "ok" if self.ok else "BAD"
        return (
            f"{self.name}: {word}, relative error {self.relative:.1e}, "
            f"worst {self.worst:.2f} of its bound, spread {self.spread:.2f}"
        )


def compare(name: str, got: Tensor, value: Tensor, terms: Tensor, roundings: int = 1) -> Verdict:
    """`got` against `value` (float64), where rounding explains `UNIT` * (|value| + terms) at each element.

    `roundings`: how often what is computed rounds each of its terms. An infinity must be met exactly. NaN
    anywhere is never ok.
    """
    if got.shape != value.shape:
        return Verdict(f"{name}, shape {tuple(got.shape)} for {tuple(value.shape)}", *[torch.inf] * 3)
    infinite = value.isinf()
    if not torch.equal(got[infinite].double(), value[infinite]):
        return Verdict(f"{name}, infinities differ", *[torch.inf] * 3)
    value = value.masked_fill(infinite, 0)
    error = (got.double().masked_fill(infinite, 0) - value).abs()
    # The last term: where nothing was to be added up, zero is met to within the smallest numbers.
    bound = 1.01 * roundings * UNIT[got.dtype] * (value.abs() + terms.masked_fill(infinite, 0)) + 1e-30
    if got.numel() == 0:
        return Verdict(name, 0.0, 0.0, 0.0)
    norm = float(value.norm())
    relative = float(error.norm()) / norm if norm else float(error.norm())
    return Verdict(name, relative, float((error / bound).max()), float(error.norm() / bound.norm()))


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Inside, memory from `torch.empty` starts as NaN (or the largest integer): holes show."""
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    filling = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = filling  # type: ignore[attr-defined]
