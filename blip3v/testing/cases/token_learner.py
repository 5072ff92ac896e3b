"""Named inputs of the pooling of many tokens into few: what tests run and what benchmarks time.

A case is data; `build` turns it into tensors on a device. The same case, device kind and dtype give the same
numbers every time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class PoolingInputs(NamedTuple):
    """x [B,N,D]; four [D] of the norms; w1 [J,D]; w2 [k,J]; keep [B,N] bool or None; dout [B,k,D]."""

    x: Tensor
    norm1_weight: Tensor
    norm1_bias: Tensor
    norm2_weight: Tensor
    norm2_bias: Tensor
    w1: Tensor
    w2: Tensor
    keep: Tensor | None
    dout: Tensor


@dataclass(frozen=True)
class PoolingCase:
    """One shape, with what is special about it.

    Args:
        tokens, made: N tokens of each video become k.
        hidden: J, None for 2k.
        lengths: per video, how many of its tokens exist; None for all.
        keep: "random" hides about half of the tokens, "nothing" all, "first_nothing" all of the first video
            and about half of the others; None for no such mask. With `lengths`, both hold.
        layout: "own" gives x its own memory; "sliced" makes it a slice of a larger tensor along videos,
            tokens and channels; "transposed" has the videos inside the tokens.
        offset: added to all of x: what the norms take out and the sum does not.
        precise: parameters stay in float32, as under autocast.
    """

    name: str
    videos: int = 1
    tokens: int = 1024
    made: int = 32
    width: int = 1152
    hidden: int | None = None
    lengths: tuple[int, ...] | None = None
    keep: str | None = None
    layout: str = "own"
    offset: float = 0.0
    precise: bool = False
    seed: int = 0

    @property
    def inner(self) -> int:
        """J."""
        return 2 * self.made if self.hidden is None else self.hidden

    def build(self, dtype: torch.dtype, device: str = "cpu") -> PoolingInputs:
        """Tensors of this case; none of them requires a gradient."""
        generator = torch.Generator(device).manual_seed(self.seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, device=device)

        videos, tokens, width = self.videos, self.tokens, self.width

        def offset(*shape: int) -> Tensor:
            return (normal(*shape) + self.offset).to(dtype)

        if self.layout == "own":
            x = offset(videos, tokens, width)
        elif self.layout == "sliced":
            x = offset(videos + 1, tokens + 5, width + 16)[1:, 2 : tokens + 2, 8 : width + 8]
        elif self.layout == "transposed":
            x = offset(tokens, videos, width).transpose(0, 1)
        else:
            raise ValueError(f"no layout {self.layout!r}")
        # Logits with a spread of about 1.5: neither flat nor one token that takes all. Norms that are not
        # nearly the identity.
        gamma1, beta1 = 1 + 0.3 * normal(width), 0.3 * normal(width)
        gamma2, beta2 = 1 + 0.3 * normal(width), 0.3 * normal(width)
        w1 = normal(self.inner, width) * width**-0.5
        w2 = normal(self.made, self.inner) * (2 * self.inner**-0.5)
        kept = torch.float32 if self.precise else dtype
        gamma1, beta1, gamma2, beta2, w1, w2 = (p.to(kept) for p in (gamma1, beta1, gamma2, beta2, w1, w2))
        dout = normal(videos, self.made, width).to(dtype)
        return PoolingInputs(x, gamma1, beta1, gamma2, beta2, w1, w2, self._keep(generator), dout)

    def _keep(self, generator: torch.Generator) -> Tensor | None:
        if self.keep is None and self.lengths is None:
            return None
        device, shape = generator.device, (self.videos, self.tokens)
        keep = torch.ones(shape, dtype=torch.bool, device=device)
        if self.keep in ("random", "first_nothing"):
            keep = torch.rand(shape, generator=generator, device=device) < 0.5
        if self.keep == "nothing":
            keep[:] = False
        elif self.keep == "first_nothing":
            keep[0] = False
        elif self.keep not in (None, "random"):
            raise ValueError(f"no mask {self.keep!r}")
        if self.lengths is not None:
            keep &= (
                torch.arange(self.tokens, device=device) < torch.tensor(self.lengths, device=device)[:, None]
            )
        return keep


MODEL = (
    PoolingCase("model"),
    PoolingCase("model_masked", videos=2, tokens=256, lengths=(256, 130), precise=True),
)

MACHINES = (
    PoolingCase("write_of_the_grouped_ttm", videos=5, tokens=9, made=4),
    PoolingCase("read_of_the_ttm", tokens=256, made=64, width=192),
    PoolingCase("write_of_the_ttm", tokens=192, made=128, width=192),
    PoolingCase("output_of_the_ttm", videos=2, tokens=64, made=16, width=192),
    PoolingCase("most_tokens_made", tokens=300, made=256, width=64),
    PoolingCase("long_video", tokens=8192, width=64),
)

RAGGED = (
    PoolingCase("ragged", videos=2, tokens=77, made=5, width=72, hidden=24),
    PoolingCase("one_more_than_a_tile", videos=2, tokens=65, made=33, width=136, hidden=72),
    PoolingCase("one_more_than_a_large_tile", tokens=129, made=16, width=64),
    PoolingCase("hidden_not_twice", videos=2, tokens=100, made=8, width=64, hidden=40),
    PoolingCase("hidden_odd", tokens=50, made=5, width=64, hidden=11),
    PoolingCase("hidden_smaller", tokens=50, made=32, width=64, hidden=8),
    PoolingCase("lengths", videos=4, tokens=150, made=8, width=64, lengths=(150, 1, 77, 128)),
    PoolingCase("keep", videos=3, tokens=150, made=8, width=64, keep="random"),
    PoolingCase("precise_parameters", videos=2, tokens=70, made=8, width=64, precise=True),
    PoolingCase("offset", videos=2, tokens=70, made=8, width=192, offset=2.0),
)

DEGENERATE = (
    PoolingCase("one_token", videos=2, tokens=1, made=4, width=64),
    PoolingCase("one_made", tokens=40, made=1, width=64, hidden=8),
    PoolingCase("more_made_than_tokens", videos=2, tokens=6, made=20, width=64),
    PoolingCase("all_masked", videos=2, tokens=70, made=8, width=64, keep="nothing"),
    PoolingCase("one_video_masked", videos=3, tokens=70, made=8, width=64, keep="first_nothing"),
    PoolingCase("length_zero", videos=2, tokens=70, made=8, width=64, lengths=(0, 70)),
    PoolingCase("narrow", videos=2, tokens=20, made=4, width=8),
)

STRIDED = (
    PoolingCase("sliced", videos=2, tokens=90, made=16, width=136, layout="sliced"),
    PoolingCase("transposed", videos=3, tokens=90, made=16, width=64, layout="transposed", keep="random"),
)

LARGE = (
    PoolingCase("one_video", tokens=1024),
    PoolingCase("sixteen_videos", videos=16, tokens=1024),
    PoolingCase("sixty_four_videos", videos=64, tokens=1024),
    PoolingCase("sixteen_videos_to_128", videos=16, tokens=1024, made=128),
    PoolingCase("sixty_four_frames", tokens=8192),
    PoolingCase("grouped_ttm_of_one_video", videos=128, tokens=9, made=4),
)

SMALL = MODEL + MACHINES + RAGGED + DEGENERATE + STRIDED
"""What every backend passes on every machine; `LARGE` is for GPUs and benchmarks."""

CASES = {case.name: case for case in SMALL + LARGE}
