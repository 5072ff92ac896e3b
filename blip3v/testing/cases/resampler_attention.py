"""Named inputs of attention over two segments of keys: what tests run and what benchmarks time.

A case is data; `build` turns it into tensors on a device. The same case, device kind and dtype give the same
numbers every time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class AttentionInputs(NamedTuple):
    """q, dout [F,Q,H,d]; media [F,S,H,d]; latents [F,L,H,d]; lengths [F] int32, keep [F,S] bool, or None."""

    q: Tensor
    k_media: Tensor
    v_media: Tensor
    k_latents: Tensor
    v_latents: Tensor
    lengths: Tensor | None
    keep: Tensor | None
    dout: Tensor


@dataclass(frozen=True)
class AttentionCase:
    """One shape, with what is special about it.

    Args:
        lengths: per frame, how many media keys count; None for no such mask.
        keep: "random" hides about half of the media keys, "nothing" all, "first_nothing" all of the first
            frame and about half of the others; None for no such mask.
        layout: "own" gives each tensor its own memory; "fused" makes keys and values views of one tensor;
            "hoisted" makes the media views of one tensor for six layers and gives every tensor other strides.
        scale: factor on the scores, None for d^-0.5.
    """

    name: str
    frames: int = 1
    queries: int = 128
    heads: int = 2
    dim: int = 96
    media: int = 729
    latents: int = 128
    lengths: tuple[int, ...] | None = None
    keep: str | None = None
    layout: str = "own"
    scale: float | None = None
    seed: int = 0

    def build(self, dtype: torch.dtype, device: str = "cpu") -> AttentionInputs:
        """Tensors of this case; none of them requires a gradient."""
        generator = torch.Generator(device).manual_seed(self.seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, device=device).to(dtype)

        frames, queries, heads, dim = self.frames, self.queries, self.heads, self.dim
        media, latents = self.media, self.latents
        if self.layout == "own":
            q = normal(frames, queries, heads, dim)
            k_media, v_media = normal(frames, media, heads, dim), normal(frames, media, heads, dim)
            k_latents, v_latents = normal(frames, latents, heads, dim), normal(frames, latents, heads, dim)
        elif self.layout == "fused":
            q = normal(frames, queries, 2, heads, dim)[:, :, 1]
            k_media, v_media = normal(frames, media, 2, heads, dim).unbind(2)
            k_latents, v_latents = normal(frames, latents, 2, heads, dim).unbind(2)
        elif self.layout == "hoisted":
            q = normal(frames, heads, queries, dim).transpose(1, 2)
            k_media, v_media = normal(frames, media, 6, 2, heads, dim)[:, :, 3].unbind(2)
            k_latents = normal(frames, heads, latents, 3, dim)[:, :, :, 1].transpose(1, 2)
            v_latents = normal(frames, latents + 3, heads, dim + 8)[:, 2 : latents + 2, :, 8:]
        else:
            raise ValueError(f"no layout {self.layout!r}")
        # Scores with a spread of about 1.5 and louder latents: neither flat nor one key that takes all.
        q, k_latents = q.mul_(1.5), k_latents.mul_(1.5)
        lengths = (
            None if self.lengths is None else torch.tensor(self.lengths, dtype=torch.int32, device=device)
        )
        return AttentionInputs(
            q, k_media, v_media, k_latents, v_latents, lengths, self._keep(generator), normal(*q.shape)
        )

    def _keep(self, generator: torch.Generator) -> Tensor | None:
        if self.keep is None:
            return None
        device = generator.device
        keep = torch.rand((self.frames, self.media), generator=generator, device=device) < 0.5
        if self.keep == "nothing":
            keep[:] = False
        elif self.keep == "first_nothing":
            keep[0] = False
        elif self.keep != "random":
            raise ValueError(f"no mask {self.keep!r}")
        return keep


MODEL = (
    AttentionCase("model", heads=16),
    AttentionCase("model_masked", frames=2, lengths=(729, 600), keep="random"),
)

HEAD_DIMS = (
    AttentionCase("dim_64", queries=64, dim=64, media=150, latents=16),
    AttentionCase("dim_72_of_the_vit", queries=64, dim=72, media=150, latents=16),
    AttentionCase("dim_128", queries=64, dim=128, media=150, latents=16),
    AttentionCase("dim_144_of_the_ttm", queries=64, dim=144, media=150, latents=16),
)

RAGGED = (
    AttentionCase("ragged", frames=2, queries=33, heads=3, media=65, latents=7),
    AttentionCase("one_more_than_a_tile", queries=65, media=129, latents=65),
    AttentionCase("lengths", frames=4, queries=17, media=150, latents=16, lengths=(150, 1, 77, 128)),
    AttentionCase("lengths_out_of_range", frames=3, queries=17, media=70, latents=5, lengths=(1000, -1, 70)),
    AttentionCase("keep", frames=3, queries=17, media=150, latents=16, keep="random"),
    AttentionCase(
        "lengths_and_keep", frames=3, queries=17, media=150, latents=16, lengths=(150, 3, 100), keep="random"
    ),
    AttentionCase("scale", queries=17, media=70, latents=5, scale=0.3),
)

DEGENERATE = (
    AttentionCase("one_media_key", queries=1, heads=1, media=1, latents=0),
    AttentionCase("one_latent_key", queries=1, heads=1, media=0, latents=1),
    AttentionCase("no_media", frames=2, queries=16, media=0, latents=128),
    AttentionCase("no_latents", queries=16, media=150, latents=0),
    AttentionCase("lengths_zero", frames=2, queries=16, media=70, latents=5, lengths=(0, 70)),
    AttentionCase("media_masked", frames=2, queries=16, media=70, latents=5, keep="nothing"),
    AttentionCase("nothing_seen", frames=2, queries=16, media=70, latents=0, keep="first_nothing"),
    AttentionCase("nothing_seen_by_length", frames=2, queries=16, media=70, latents=0, lengths=(0, 70)),
)

STRIDED = (
    AttentionCase("fused", frames=2, queries=32, media=150, latents=32, layout="fused"),
    AttentionCase("hoisted", frames=2, queries=32, heads=3, media=150, latents=32, layout="hoisted"),
    AttentionCase(
        "hoisted_masked", frames=2, queries=32, media=150, latents=32, layout="hoisted", keep="random"
    ),
)

LARGE = (
    AttentionCase("one_video", frames=8, heads=16),
    AttentionCase("one_video_hoisted", frames=8, heads=16, layout="hoisted"),
    AttentionCase("sixteen_videos", frames=128, heads=16),
)

SMALL = MODEL + HEAD_DIMS + RAGGED + DEGENERATE + STRIDED
"""What every backend passes on every machine; `LARGE` is for GPUs and benchmarks."""

CASES = {case.name: case for case in SMALL + LARGE}
