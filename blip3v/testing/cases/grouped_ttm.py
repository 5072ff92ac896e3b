"""Named recurrences of the grouped Token Turing Machine: what tests run and what benchmarks time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class RecurrenceInputs(NamedTuple):
    """frames [B,T,S,D]; memory, dmemory [B,S,G,D]; stamps [T,D] or None; weights: a flat list, see the op."""

    frames: Tensor
    memory: Tensor
    stamps: Tensor | None
    weights: list[Tensor]
    heads: int
    dmemory: Tensor


@dataclass(frozen=True)
class RecurrenceCase:
    """Sizes of one call.

    Args:
        mult: width of the feed-forward over that of the tokens.
        stamped: whether frames carry time-stamps.
        expanded: whether all videos start from one memory, an expanded view, as a model does.
        precise_weights: weights in float32 whatever the type of the frames.
    """

    name: str
    videos: int = 1
    steps: int = 3
    positions: int = 2
    slots: int = 4
    dim: int = 64
    heads: int = 4
    depth: int = 2
    mult: int = 4
    stamped: bool = True
    expanded: bool = True
    precise_weights: bool = False
    seed: int = 0

    def build(self, dtype: torch.dtype, device: str = "cpu") -> RecurrenceInputs:
        """Tensors of this case; none of them requires a gradient."""
        generator = torch.Generator(device).manual_seed(self.seed)
        weight_dtype = torch.float32 if self.precise_weights else dtype

        def normal(*shape: int, scale: float = 1.0) -> Tensor:
            return torch.randn(shape, generator=generator, device=device) * scale

        def norm() -> list[Tensor]:
            return [1 + normal(self.dim, scale=0.2), normal(self.dim, scale=0.2)]

        dim, hidden, slots = self.dim, self.mult * self.dim, self.slots
        weights: list[Tensor] = []
        for _ in range(self.depth):
            weights += [*norm(), normal(3 * dim, dim, scale=1.5 * dim**-0.5), *norm()]
            weights += [normal(hidden, dim, scale=dim**-0.5), normal(dim, hidden, scale=hidden**-0.5)]
        weights += [*norm(), *norm(), normal(2 * slots, dim, scale=dim**-0.5)]
        # Logits with a spread of about one: neither a plain mean nor one token that takes all.
        weights.append(normal(slots, 2 * slots, scale=2 * (2 * slots) ** -0.5))
        memory = normal(*(1 if self.expanded else self.videos, self.positions, slots, dim)).to(dtype)
        return RecurrenceInputs(
            normal(self.videos, self.steps, self.positions, dim).to(dtype),
            memory.expand(self.videos, -1, -1, -1),
            normal(self.steps, dim, scale=0.7).to(dtype) if self.stamped else None,
            [weight.to(weight_dtype) for weight in weights],
            self.heads,
            normal(self.videos, self.positions, slots, dim).to(dtype),
        )


SMALL = (
    RecurrenceCase("small", videos=2),
    RecurrenceCase("one_frame", steps=1),
    RecurrenceCase("one_slot", slots=1, positions=3),
    RecurrenceCase("two_slots_one_layer", slots=2, depth=1, heads=2),
    RecurrenceCase("no_stamps", stamped=False),
    RecurrenceCase("own_memories", videos=2, expanded=False),
    RecurrenceCase("precise_weights", precise_weights=True),
    RecurrenceCase("heads_of_the_model", dim=288, heads=2, positions=1, steps=2),
)
"""What every backend passes on every machine."""

LONG = RecurrenceCase("sixty_four_frames", steps=64, positions=1, dim=32, heads=2, depth=1)
"""Back-propagation through 64 frames."""


def _model(name: str, videos: int, steps: int) -> RecurrenceCase:
    return RecurrenceCase(name, videos, steps, positions=128, dim=1152, heads=8, depth=4)


LARGE = (
    _model("one_video", 1, 8),
    _model("one_video_16_frames", 1, 16),
    _model("one_video_64_frames", 1, 64),
    _model("one_video_256_frames", 1, 256),
    _model("sixteen_videos", 16, 8),
)

CASES = {case.name: case for case in (*SMALL, LONG, *LARGE)}
