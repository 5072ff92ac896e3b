"""Named inputs of the grouped memory's write: what tests run and what benchmarks time.

A case is data; `build` turns it into tensors on a device. The same case, device kind and dtype give the same
numbers every time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from blip3v.testing.cases.ttm_read import frame_of, old_memory


class WriteInputs(NamedTuple):
    """The arguments of ttm_write in its order, and the gradients of its results.

    memory [B,S,G,D]; processed [B,S,n,D]; norm1_weight, norm1_bias, norm2_weight, norm2_bias [D]; w1 [J,D],
    w2 [G,J]; frame [B,S,D], stamp, norm_weight, norm_bias [D] or None; dgroup, dnormed [B,S,G+1,D], or
    [B,S,G,D] and None.
    """

    memory: Tensor
    processed: Tensor
    norm1_weight: Tensor
    norm1_bias: Tensor
    norm2_weight: Tensor
    norm2_bias: Tensor
    w1: Tensor
    w2: Tensor
    frame: Tensor | None
    stamp: Tensor | None
    norm_weight: Tensor | None
    norm_bias: Tensor | None
    dgroup: Tensor
    dnormed: Tensor | None


@dataclass(frozen=True)
class WriteCase:
    """One shape, with what is special about it.

    Args:
        processed: n; None for G + 1, as in the model.
        hidden: J; None for 2G, as in the model.
        memory: "own", "group" or "expanded", as of `ReadCase`.
        frame: whether a next step follows.
        strided_frame: the frame is one of three in a tensor of frames.
        precise: parameters are float32, whatever the others are.
    """

    name: str
    videos: int = 1
    positions: int = 4
    slots: int = 4
    width: int = 64
    processed: int | None = None
    hidden: int | None = None
    memory: str = "group"
    frame: bool = True
    stamp: bool = True
    strided_frame: bool = True
    precise: bool = True
    seed: int = 0

    @property
    def rows(self) -> int:
        """n."""
        return self.slots + 1 if self.processed is None else self.processed

    def build(self, dtype: torch.dtype, device: str = "cpu") -> WriteInputs:
        """Tensors of this case; none of them requires a gradient."""
        generator = torch.Generator(device).manual_seed(self.seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, device=device).to(dtype)

        parameters = torch.float32 if self.precise and dtype != torch.float64 else dtype

        def affine() -> tuple[Tensor, Tensor]:
            return (1 + 0.3 * normal(self.width)).to(parameters), (0.3 * normal(self.width)).to(parameters)

        slots, width = self.slots, self.width
        hidden = 2 * slots if self.hidden is None else self.hidden
        memory = old_memory(self.memory, (self.videos, self.positions, slots, width), normal)
        processed = old_memory("own", (self.videos, self.positions, self.rows, width), normal)
        # Logits with a spread of about one: neither flat nor one row that takes all.
        w1, w2 = normal(hidden, width) * (2 / width**0.5), normal(slots, hidden) * (2 / hidden**0.5)
        learner = (*affine(), *affine(), w1.to(parameters), w2.to(parameters))
        frame = stamp = weight = bias = dnormed = None
        rows = slots
        if self.frame:
            rows += 1
            frame = frame_of(self.strided_frame, (self.videos, self.positions, width), normal)
            stamp = normal(width) if self.stamp else None
            weight, bias = affine()
            dnormed = normal(self.videos, self.positions, rows, width)
        dgroup = normal(self.videos, self.positions, rows, width)
        return WriteInputs(memory, processed, *learner, frame, stamp, weight, bias, dgroup, dnormed)


MODEL = (
    WriteCase("model", positions=3, width=1152),
    WriteCase("model_last_step", positions=2, width=1152, frame=False, precise=False),
)

LAYOUTS = (
    WriteCase("demo", videos=2, positions=5),
    WriteCase("first_step", videos=3, memory="expanded", width=72),
    WriteCase("own", memory="own", strided_frame=False, precise=False),
    WriteCase("no_stamp", stamp=False),
    WriteCase("no_frame", videos=2, frame=False),
)

SIZES = (
    WriteCase("one_slot", slots=1, positions=2, width=200),
    WriteCase("two_slots", slots=2, positions=5, width=128),
    WriteCase("eight_slots", slots=8, positions=2, width=136),
    WriteCase("one_position", positions=1),
    WriteCase("narrow", width=8, positions=3),
    WriteCase("one_processed", processed=1),
    WriteCase("sixteen_processed", processed=16, positions=2, width=72),
    WriteCase("many_positions", videos=3, positions=5, width=40),
)

OTHER_HIDDEN = (WriteCase("other_hidden", hidden=24),)
"""What the compiled kernels refuse."""

LARGE = (
    WriteCase("one_video", positions=128, width=1152),
    WriteCase("sixteen_videos", videos=16, positions=128, width=1152),
    WriteCase("sixteen_videos_last_step", videos=16, positions=128, width=1152, frame=False),
)

SMALL = MODEL + LAYOUTS + SIZES + OTHER_HIDDEN
"""What every backend passes, or refuses, on every machine; `LARGE` is for GPUs and benchmarks."""

CASES = {case.name: case for case in SMALL + LARGE}
