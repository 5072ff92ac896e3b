"""Named inputs of the feed-forward block: what tests run and what benchmarks time.

A case is data; `build` turns it into tensors on a device. The same case, device kind and dtype give the same
numbers every time.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor


class FeedForwardInputs(NamedTuple):
    """z, residual, dout [...,D]; w1 [J,D]; w2 [D,J]."""

    z: Tensor
    w1: Tensor
    w2: Tensor
    residual: Tensor
    dout: Tensor


@dataclass(frozen=True)
class FeedForwardCase:
    """One shape, with what is special about it.

    Args:
        leading: dimensions before the channels, of z, residual and dout.
        width, hidden: D and J.
        layout: "own" gives each tensor its own memory; "strided" makes z, residual and dout views of one
            tensor whose rows are farther apart, and the weights views of wider ones; "transposed" swaps the
            first two of three leading dimensions, so that rows do not lie in order.
        wide_weights: the weights stay in float32, whatever the dtype.
    """

    name: str
    leading: tuple[int, ...]
    width: int = 64
    hidden: int = 256
    layout: str = "own"
    wide_weights: bool = False
    seed: int = 0

    @property
    def rows(self) -> int:
        return prod(self.leading)

    def build(self, dtype: torch.dtype, device: str = "cpu") -> FeedForwardInputs:
        """Tensors of this case; none of them requires a gradient."""
        generator = torch.Generator(device).manual_seed(self.seed)
        weights = torch.float32 if self.wide_weights and dtype != torch.float64 else dtype

        def normal(*shape: int, scale: float = 1.0, kind: torch.dtype = dtype) -> Tensor:
            return (scale * torch.randn(shape, generator=generator, device=device)).to(kind)

        width, hidden = self.width, self.hidden
        # h with a spread of about 1.5: both sides of GELU's bend, and some of both of its tails.
        first, second = 1.5 * width**-0.5, hidden**-0.5
        if self.layout == "strided":
            z, residual, dout = normal(*self.leading, 3, width + 8)[..., 8:].unbind(-2)
            w1 = normal(hidden, width + 16, scale=first, kind=weights)[:, :width]
            w2 = normal(2 * width, hidden, scale=second, kind=weights)[::2]
            return FeedForwardInputs(z, w1, w2, residual, dout)
        w1 = normal(hidden, width, scale=first, kind=weights)
        w2 = normal(width, hidden, scale=second, kind=weights)
        if self.layout == "own":
            z, residual, dout = (normal(*self.leading, width) for _ in range(3))
        elif self.layout == "transposed":
            outer, inner, *rest = self.leading
            z, residual, dout = (normal(inner, outer, *rest, width).transpose(0, 1) for _ in range(3))
        else:
            raise ValueError(f"no layout {self.layout!r}")
        return FeedForwardInputs(z, w1, w2, residual, dout)


MODEL = (FeedForwardCase("model_width", (1, 5), 1152, 4608),)

TILES = (
    FeedForwardCase("whole_tiles", (128,), 128, 384),
    FeedForwardCase("several_tiles", (2, 150), 200, 520),
    FeedForwardCase("many_rows", (1300,), 72, 136),
)

RAGGED = (
    FeedForwardCase("ragged", (3, 43), 72, 200),
    FeedForwardCase("one_more_than_a_tile", (129,), 136, 264),
    FeedForwardCase("wide_weights", (2, 9, 5), 64, 256, wide_weights=True),
    FeedForwardCase("demo", (2, 16, 5), 96, 384),
)

DEGENERATE = (
    FeedForwardCase("one_token", (1,), 8, 8),
    FeedForwardCase("no_leading_dimension", (), 64, 256),
    FeedForwardCase("no_rows", (0, 5), 64, 256),
    FeedForwardCase("narrower_inside", (7,), 64, 8),
)

STRIDED = (
    FeedForwardCase("strided", (4, 5), 64, 256, layout="strided"),
    FeedForwardCase("transposed", (3, 4, 5), 64, 128, layout="transposed"),
)

ODD = (FeedForwardCase("odd_widths", (3, 5), 33, 70),)
"""Widths that the compiled kernels refuse."""

LARGE = (
    FeedForwardCase("one_video", (128, 5), 1152, 4608),
    FeedForwardCase("four_videos", (4, 128, 5), 1152, 4608),
    FeedForwardCase("sixteen_videos", (16, 128, 5), 1152, 4608),
)

SMALL = MODEL + TILES + RAGGED + DEGENERATE + STRIDED + ODD
"""What every backend passes on every machine, or refuses for its widths; `LARGE` is for GPUs."""

CASES = {case.name: case for case in SMALL + LARGE}
