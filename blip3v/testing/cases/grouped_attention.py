"""Named inputs of attention inside groups: what tests run and what benchmarks time.

A case is data; `build` turns it into tensors on a device. The same case, device kind and dtype give the
same numbers every time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class GroupInputs(NamedTuple):
    """x, dy, dz [R,n,D]; qkv [R,n,3,H,d]; norm_weight, norm_bias [D]."""

    x: Tensor
    qkv: Tensor
    norm_weight: Tensor
    norm_bias: Tensor
    dy: Tensor
    dz: Tensor


@dataclass(frozen=True)
class GroupCase:
    """One shape, with what is special about it.

    Args:
        layout: "own" gives each tensor its own memory; "strided" makes x and the gradients parts of wider
            tensors, and qkv tokens that lie apart; "expanded" gives all groups the same x, and dy zero.
        wide_norm: the LayerNorm's parameters in float32 whatever x is.
        offset: added to every channel of x, so that the mean of a row is far from zero.
        loud: every other token has scores far above and far below zero, where powers of two overflow; in
            float32 such scores are not precise enough for a comparison of what follows.
    """

    name: str
    groups: int = 3
    tokens: int = 5
    heads: int = 8
    dim: int = 144
    layout: str = "own"
    wide_norm: bool = False
    offset: float = 0.0
    loud: bool = False
    seed: int = 0

    @property
    def width(self) -> int:
        return self.heads * self.dim

    def build(self, dtype: torch.dtype, device: str = "cpu") -> GroupInputs:
        """Tensors of this case; none of them requires a gradient."""
        generator = torch.Generator(device).manual_seed(self.seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, device=device).to(dtype)

        groups, tokens, heads, dim, width = self.groups, self.tokens, self.heads, self.dim, self.width
        if self.layout == "strided":
            x = normal(groups, tokens, 2, width + 8)[:, :, 1, 8:]
            qkv = normal(groups, 2 * tokens, 3, heads, dim)[:, ::2]
            dy, dz = (normal(tokens, groups, width + 2)[:, :, 2:].transpose(0, 1) for _ in range(2))
        elif self.layout in ("own", "expanded"):
            x, dy, dz = (normal(groups, tokens, width) for _ in range(3))
            qkv = normal(groups, tokens, 3, heads, dim)
            if self.layout == "expanded":
                x, dy = x[:1].expand_as(x), torch.zeros((), dtype=dtype, device=device).expand_as(dy)
        else:
            raise ValueError(f"no layout {self.layout!r}")
        # Scores with a spread of about 1.7: neither flat nor one token that takes all.
        qkv = qkv.mul_(1.3)
        if self.loud:
            qkv[:, 0::2, 0] += 8
            qkv[:, 1::2, 0] -= 8
            qkv[:, :, 1] += 8
        x = x + self.offset if self.offset else x
        norm_weight, norm_bias = 1 + 0.3 * normal(width), 0.3 * normal(width)
        if self.wide_norm:
            norm_weight, norm_bias = norm_weight.float(), norm_bias.float()
        return GroupInputs(x, qkv, norm_weight, norm_bias, dy, dz)


MODEL = (
    GroupCase("model"),
    GroupCase("model_wide_norm", wide_norm=True),
)

DEMO = (
    GroupCase("demo_64", groups=7, dim=8),
    GroupCase("demo_128", groups=4, dim=16),
    GroupCase("demo_256", groups=4, dim=32),
    GroupCase("demo_4_heads", groups=4, heads=4, dim=16),
)

TOKENS = (
    *tuple(GroupCase(f"{n}_tokens", tokens=n, heads=2, dim=72) for n in (2, 3, 4, 6, 7, 8, 9)),
    GroupCase("8_tokens_of_the_demo", tokens=8, heads=4, dim=16),
    GroupCase("64_tokens", groups=1, tokens=64, heads=2, dim=144),
)

RAGGED = (
    GroupCase("six_channels", groups=9, tokens=3, heads=3, dim=6),
    GroupCase("one_more_than_a_warp", heads=3, dim=66),
    GroupCase("256_channels", tokens=9, heads=2, dim=256),
    GroupCase("256_channels_of_a_small_group", heads=2, dim=256),
    GroupCase("nine_heads", heads=9, dim=16),
    GroupCase("sixty_one_tokens", groups=2, tokens=61, heads=3, dim=20),
    GroupCase("far_from_zero", groups=2, heads=2, dim=16, offset=4.0),
)

DEGENERATE = (
    GroupCase("one_token", tokens=1, heads=2, dim=16),
    GroupCase("one_head", heads=1, dim=64),
    GroupCase("two_channels", heads=1, dim=2),
    GroupCase("no_groups", groups=0, heads=2, dim=8),
)

STRIDED = (
    GroupCase("strided", heads=2, dim=32, layout="strided"),
    GroupCase("strided_large_group", tokens=11, heads=2, dim=32, layout="strided"),
    GroupCase("expanded", heads=2, dim=32, layout="expanded"),
)

LARGE = (
    GroupCase("one_video", groups=128),
    GroupCase("sixteen_videos", groups=2048),
    GroupCase("vanilla_sixteen_videos", groups=16, tokens=64),
)

SMALL = MODEL + DEMO + TOKENS + RAGGED + DEGENERATE + STRIDED
"""What every backend passes on every machine; `LARGE` is for GPUs and benchmarks."""

CASES = {case.name: case for case in SMALL + LARGE}
