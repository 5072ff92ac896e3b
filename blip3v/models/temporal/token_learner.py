"""TokenLearner: k tokens, each a softmax-weighted sum over all tokens."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from blip3v.models.blocks import is_plain, refuse_named_kernel
from blip3v.models.temporal.time_stamp import TimeStamp
from blip3v.ops.token_learner import token_learner
from blip3v.ops.token_learner.reference import pool_by

OP = "token_learner"


class LogitLayer(nn.Linear):
    """Linear without bias whose initial weights are PyTorch's times `gain`."""

    def __init__(self, in_features: int, out_features: int, gain: float) -> None:
        self.gain = gain
        super().__init__(in_features, out_features, bias=False)

    def reset_parameters(self) -> None:
        """Uniform within gain / sqrt(in_features)."""
        bound = self.gain * self.in_features**-0.5
        nn.init.uniform_(self.weight, -bound, bound)


PLAIN = (nn.LayerNorm, nn.Sequential, nn.Linear, nn.GELU, LogitLayer)
"""What a TokenLearner is made of. Anything else in it, an adapter say, does more than its weights tell."""


class TokenLearner(nn.Module):
    """TL(k): A = softmax over tokens of MLP(LN(x)); out_i = sum_n A[n,i] x[n], with x **not** normalised.

    MLP = LN -> Linear(dim, 2k) -> GELU -> Linear(2k, k), no biases, so two LayerNorms stand in series. It
    runs as the operator `blip3v.ops.token_learner`, whose backend may be chosen.

    Args:
        dim: width.
        k: tokens made.
        gain: factor on the last layer's initial weights. PyTorch's default (1) starts near uniform
            attention: every output is then the same average, and what distinguishes frames is gone before
            training begins.
    """

    def __init__(self, dim: int, k: int, gain: float = 1.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, 2 * k, bias=False), nn.GELU(), LogitLayer(2 * k, k, gain)
        )

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """x [..., N, dim], keep [..., N] bool, True where a token exists -> [..., k, dim]."""
        if not self._takes_op(x):
            return pool_by(self.mlp(self.norm(x)), x, keep)
        flat = x.reshape(-1, *x.shape[-2:])
        keep = None if keep is None else keep.reshape(flat.shape[:2])
        out = token_learner(flat, *self.weights(), keep=keep, eps=self.norm.eps)
        return out.view(*x.shape[:-2], *out.shape[1:])

    def weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Weight and bias of both norms, w1 and w2."""
        norm1, (norm2, up, _, down) = self.norm, cast("Iterable[Any]", self.mlp)
        return norm1.weight, norm1.bias, norm2.weight, norm2.bias, up.weight, down.weight

    @property
    def is_plain(self) -> bool:
        """Whether its parameters say all that its parts do."""
        parts = (self.norm, self.mlp, *self.mlp)
        return all(is_plain(part, *PLAIN) for part in parts) and self.norm.eps == self.mlp[0].eps

    def _takes_op(self, x: Tensor) -> bool:
        """Whether it runs as the op; adapters and hooks are heard only by the modules.

        Raises:
            UserError: a backend other than `reference` was asked for by name, and there are such.
        """
        if not self.is_plain:
            refuse_named_kernel(OP, x.device)
        return self.is_plain


class TokenLearnerEncoder(nn.Module):
    """Space-time attentional pooling: TL(M) over all T*S tokens, [B,T,S,dim] -> [B,M,dim]."""

    def __init__(self, dim: int, tokens: int, time_stamp: bool, gain: float = 1.0) -> None:
        super().__init__()
        self.pos_emb = TimeStamp(dim) if time_stamp else None
        self.final_output = TokenLearner(dim, tokens, gain)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """x [B,T,S,dim]; lengths [B] integers, how many of a video's T frames exist, None for all."""
        if self.pos_emb is not None:
            x = self.pos_emb.stamp(x)
        keep = None
        if lengths is not None:
            exists = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
            keep = exists.repeat_interleave(x.shape[2], dim=1)
        return self.final_output(x.flatten(1, 2), keep)


class PerFrameTokenLearner(nn.Module):
    """TL(k) on each frame alone, results side by side: [B,T,S,dim] -> [B,T*k,dim]."""

    def __init__(self, dim: int, per_frame: int, time_stamp: bool, gain: float = 1.0) -> None:
        super().__init__()
        self.pos_emb = TimeStamp(dim) if time_stamp else None
        self.final_output = TokenLearner(dim, per_frame, gain)

    def forward(self, x: Tensor) -> Tensor:
        if self.pos_emb is not None:
            x = self.pos_emb.stamp(x)
        return self.final_output(x).flatten(1, 2)
