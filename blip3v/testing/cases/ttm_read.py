"""Named inputs of the grouped memory's read: what tests run and what benchmarks time.

A case is data; `build` turns it into tensors on a device. The same case, device kind and dtype give the same
numbers every time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

Normal = Callable[..., Tensor]
"""Of a shape's sizes."""


class ReadInputs(NamedTuple):
    """memory [B,S,G,D], frame [B,S,D], stamp [D] or None, norm_weight, norm_bias [D]; dgroup, dnormed
    [B,S,G+1,D]."""

    memory: Tensor
    frame: Tensor
    stamp: Tensor | None
    norm_weight: Tensor
    norm_bias: Tensor
    dgroup: Tensor
    dnormed: Tensor


@dataclass(frozen=True)
class ReadCase:
    """One shape, with what is special about it.

    Args:
        memory: "own" gives it its own tensor; "group" makes it the first slots of the group of the step
            before, as the recurrence does; "expanded" is one learned memory for all videos.
        strided_frame: the frame is one of three in a tensor of frames.
        precise: parameters are float32, whatever the others are.
    """

    name: str
    videos: int = 1
    positions: int = 4
    slots: int = 4
    width: int = 64
    memory: str = "own"
    stamp: bool = True
    strided_frame: bool = False
    precise: bool = False
    seed: int = 0

    def build(self, dtype: torch.dtype, device: str = "cpu") -> ReadInputs:
        """Tensors of this case; none of them requires a gradient."""
        generator = torch.Generator(device).manual_seed(self.seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, device=device).to(dtype)

        memory = old_memory(self.memory, (self.videos, self.positions, self.slots, self.width), normal)
        frame = frame_of(self.strided_frame, (self.videos, self.positions, self.width), normal)
        stamp = normal(self.width) if self.stamp else None
        parameters = torch.float32 if self.precise and dtype != torch.float64 else dtype
        weight, bias = (
            (1 + 0.3 * normal(self.width)).to(parameters),
            (0.3 * normal(self.width)).to(parameters),
        )
        group = (self.videos, self.positions, self.slots + 1, self.width)
        return ReadInputs(memory, frame, stamp, weight, bias, normal(*group), normal(*group))


def old_memory(layout: str, shape: tuple[int, int, int, int], normal: Normal) -> Tensor:
    """Memory [B,S,G,D] in one of the layouts of `ReadCase`; its rows have means of their own."""
    videos, positions, slots, width = shape
    if layout == "own":
        return normal(*shape) + normal(*shape[:3], 1)
    if layout == "group":
        return normal(videos, positions, slots + 1, width)[:, :, :slots]
    if layout == "expanded":
        return normal(positions, slots, width).expand(shape)
    raise ValueError(f"no layout {layout!r}")


def frame_of(strided: bool, shape: tuple[int, int, int], normal: Normal) -> Tensor:
    """A frame [B,S,D], perhaps the middle one of three."""
    return normal(shape[0], 3, *shape[1:])[:, 1] if strided else normal(*shape)


MODEL = (
    ReadCase("model", positions=5, width=1152, strided_frame=True, precise=True),
    ReadCase("model_first_step", videos=2, positions=3, width=1152, memory="expanded", strided_frame=True),
)

LAYOUTS = (
    ReadCase("demo", videos=2, positions=8, width=64, memory="group", strided_frame=True, precise=True),
    ReadCase("expanded", videos=3, memory="expanded"),
    ReadCase("group", videos=2, memory="group", strided_frame=True),
    ReadCase("no_stamp", stamp=False),
)

SIZES = (
    ReadCase("one_slot", slots=1, positions=2, width=200),
    ReadCase("two_slots", slots=2, positions=7, width=128),
    ReadCase("eight_slots", slots=8, width=264),
    ReadCase("one_position", positions=1),
    ReadCase("narrow", width=8, positions=3),
    ReadCase("many_positions", videos=3, positions=11, width=72),
)

LARGE = (
    ReadCase("one_video", positions=128, width=1152, memory="group", strided_frame=True, precise=True),
    ReadCase(
        "sixteen_videos",
        videos=16,
        positions=128,
        width=1152,
        memory="group",
        strided_frame=True,
        precise=True,
    ),
)

SMALL = MODEL + LAYOUTS + SIZES
"""What every backend passes on every machine; `LARGE` is for GPUs and benchmarks."""

CASES = {case.name: case for case in SMALL + LARGE}
