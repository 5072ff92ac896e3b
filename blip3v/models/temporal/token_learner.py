"""TokenLearner: k tokens, each a softmax-weighted sum over all tokens."""

from __future__ import annotations

from torch import Tensor, nn

from blip3v.models.temporal.time_stamp import TimeStamp


class LogitLayer(nn.Linear):
    """Linear without bias whose initial weights are PyTorch's times `gain`."""

    def __init__(self, in_features: int, out_features: int, gain: float) -> None:
        self.gain = gain
        super().__init__(in_features, out_features, bias=False)

    def reset_parameters(self) -> None:
        """Uniform within gain / sqrt(in_features)."""
        bound = self.gain * self.in_features**-0.5
        nn.init.uniform_(self.weight, -bound, bound)


class TokenLearner(nn.Module):
    """TL(k): A = softmax over tokens of MLP(LN(x)); out_i = sum_n A[n,i] x[n], with x **not** normalised.

    MLP = LN -> Linear(dim, 2k) -> GELU -> Linear(2k, k), no biases, so two LayerNorms stand in series.

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

    def forward(self, x: Tensor) -> Tensor:
        """x [..., N, dim] -> [..., k, dim]."""
        weights = self.mlp(self.norm(x)).softmax(dim=-2)
        return weights.transpose(-1, -2).to(x.dtype) @ x


class TokenLearnerEncoder(nn.Module):
    """Space-time attentional pooling: TL(M) over all T*S tokens, [B,T,S,dim] -> [B,M,dim]."""

    def __init__(self, dim: int, tokens: int, time_stamp: bool, gain: float = 1.0) -> None:
        super().__init__()
        self.pos_emb = TimeStamp(dim) if time_stamp else None
        self.final_output = TokenLearner(dim, tokens, gain)

    def forward(self, x: Tensor) -> Tensor:
        if self.pos_emb is not None:
            x = self.pos_emb.stamp(x)
        return self.final_output(x.flatten(1, 2))


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
