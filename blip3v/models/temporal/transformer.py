"""Transformer over all frame tokens, as in Mirasol3B."""

from __future__ import annotations

from torch import Tensor, nn

from blip3v.models.blocks import transformer
from blip3v.models.temporal.time_stamp import TimeStamp


class TransformerEncoder(nn.Module):
    """`depth` layers over all T*S tokens, of which the last M are kept: [B,T,S,dim] -> [B,M,dim]."""

    def __init__(
        self,
        dim: int,
        tokens: int,
        depth: int,
        heads: int,
        ff_mult: int,
        time_stamp: bool,
        implementation: str = "sdpa",
    ) -> None:
        super().__init__()
        self.tokens = tokens
        self.pos_emb = TimeStamp(dim) if time_stamp else None
        self.layers = transformer(depth, dim, heads, ff_mult, implementation)

    def forward(self, x: Tensor) -> Tensor:
        if self.pos_emb is not None:
            x = self.pos_emb.stamp(x)
        *layers, top = self.layers
        x = x.flatten(1, 2)
        for layer in layers:
            x = layer(x)
        return top(x, last=self.tokens)
