"""Token Turing Machines: a memory of tokens that reads one frame after another."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from blip3v.models.blocks import SelfAttention, TransformerLayer, is_plain, refuse_named_kernel, transformer
from blip3v.models.temporal.time_stamp import TimeStamp
from blip3v.models.temporal.token_learner import LogitLayer, TokenLearner
from blip3v.ops.grouped_ttm import Layer, Weights, Write, grouped_ttm
from blip3v.ops.registry import wished

OP = "grouped_ttm"
PLAIN = (
    *(nn.Linear, nn.LayerNorm, nn.GELU, nn.Sequential),
    *(SelfAttention, TransformerLayer, TokenLearner, LogitLayer),
)
"""What a TTMUnit is made of. Anything else in it, an adapter say, does more than its weights tell."""


class TokenTuringMachine(nn.Module):
    """The vanilla machine: one memory for the whole frame. [B,T,S,dim] -> [B,M,dim].

    Per frame: read = TL(r) over [memory ; frame]; transformer layers on the r tokens; write = TL(m) over
    [memory ; processed] is the new memory. Without time-stamp the output is TL(k) of each step's processed
    tokens, side by side; with it, PE(t) is added to the frame and the final memory is the output.

    Args:
        dim: width.
        memory_tokens, read_tokens: m and r (published: 128 and 64).
        tokens_per_step: k of the output (published: 16), or None to return the final memory.
    """

    def __init__(
        self,
        dim: int,
        memory_tokens: int,
        read_tokens: int,
        tokens_per_step: int | None,
        depth: int,
        heads: int,
        ff_mult: int,
        time_stamp: bool,
        gain: float = 1.0,
        implementation: str = "sdpa",
    ) -> None:
        super().__init__()
        self.initial_memory = nn.Parameter(torch.empty(memory_tokens, dim))
        self.pos_emb = TimeStamp(dim) if time_stamp else None
        self.read_layer = TokenLearner(dim, read_tokens, gain)
        self.process_layers = transformer(depth, dim, heads, ff_mult, implementation)
        self.write_layer = TokenLearner(dim, memory_tokens, gain)
        self.final_output = TokenLearner(dim, tokens_per_step, gain) if tokens_per_step else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The learned memory starts as N(0, 1), the scale of the resampler's latents."""
        nn.init.normal_(self.initial_memory)

    def forward(self, x: Tensor) -> Tensor:
        memory, processed = self._run(self.start(x), x, first=0)
        if self.final_output is None:
            return self.read_out(memory)
        return torch.cat([self.final_output(tokens) for tokens in processed], dim=1)

    def start(self, x: Tensor) -> Tensor:
        """The memory before the first frame, [B,m,dim], for videos of the size and dtype of x [B,...]."""
        return self.initial_memory.to(x.dtype).expand(len(x), -1, -1)

    def advance(self, memory: Tensor, x: Tensor, first: int = 0) -> Tensor:
        """memory [B,m,dim], further frames x [B,T,S,dim] from index `first` on -> the memory after them."""
        return self._run(memory, x, first)[0]

    def read_out(self, memory: Tensor) -> Tensor:
        """memory [B,m,dim] -> video tokens [B,m,dim], where the final memory is the output."""
        return memory

    def _run(self, memory: Tensor, x: Tensor, first: int) -> tuple[Tensor, list[Tensor]]:
        """The memory after all frames, and each step's processed tokens [B,r,dim]."""
        if self.pos_emb is not None:
            x = self.pos_emb.stamp(x, first)
        steps = []
        for frame in x.unbind(dim=1):
            processed = self.process_layers(self.read_layer(torch.cat([memory, frame], dim=1)))
            memory = self.write_layer(torch.cat([memory, processed], dim=1))
            steps.append(processed)
        return memory, steps


class TTMUnit(nn.Module):
    """One step of the grouped machine for every token position at once.

    tokens = [memory (G) ; frame token + PE(t)] -> transformer layers inside the group of G + 1
    -> new memory = TL(G) over [memory (G) ; processed (G + 1)].
    """

    def __init__(
        self,
        dim: int,
        slots: int,
        positions: int,
        depth: int,
        heads: int,
        ff_mult: int,
        gain: float,
        implementation: str,
    ) -> None:
        super().__init__()
        self.process_layers = transformer(depth, dim, heads, ff_mult, implementation)
        self.heads = heads
        # The released checkpoints carry a TL over positions that no forward pass calls; it is kept so that
        # they load and export bit for bit, and frozen so that no optimizer spends memory on it.
        self.read_layer = TokenLearner(dim, positions).requires_grad_(False)
        self.write_layer = TokenLearner(dim, slots, gain)

    def forward(self, memory: Tensor, frame: Tensor) -> Tensor:
        """memory [B,S,G,dim], frame [B,S,dim] with its time-stamp -> the new memory [B,S,G,dim]."""
        group = torch.cat([memory, frame.unsqueeze(2)], dim=2)
        processed = self.process_layers(group.flatten(0, 1)).view_as(group)
        return self.write_layer(torch.cat([memory, processed], dim=2))

    @property
    def is_plain(self) -> bool:
        """Whether the weights that `weights` returns say all that the layers do."""
        read = set(self.read_layer.modules())
        return all(
            is_plain(module, *PLAIN) for module in self.modules() if module not in read and module is not self
        )

    @property
    def is_eager(self) -> bool:
        """Whether its attention is to be the formula with its scores in memory."""
        layers = cast("Iterable[Any]", self.process_layers)
        return any(attention.implementation == "eager" for attention, _ in layers)

    @property
    def eps(self) -> float:
        """Of every LayerNorm."""
        return self.write_layer.norm.eps

    def weights(self) -> Weights:
        """The parameters as the op wants them: one matrix for queries, keys and values."""
        layers = []
        for attention, (ff_norm, up, _, down) in cast("Iterable[Any]", self.process_layers):
            qkv = torch.cat([attention.to_q.weight, attention.to_k.weight, attention.to_v.weight])
            norms = (attention.norm.weight, attention.norm.bias, qkv, ff_norm.weight, ff_norm.bias)
            layers.append(Layer(*norms, up.weight, down.weight))
        return Weights(tuple(layers), Write(*self.write_layer.weights()))


class GroupedTokenTuringMachine(nn.Module):
    """The paper's best encoder: G memory slots for each of the S token positions. [B,T,S,dim] -> [B,M,dim].

    Positions never exchange information here. Output: the mean over a position's slots (M = S), or TL(M)
    over the S * G tokens of the final memory.

    Args:
        dim: width.
        positions: S, tokens per frame.
        slots: G, memory tokens per position.
        tokens: M for the attentional output, or None for the mean.
        implementation: `sdpa` for the operator `blip3v.ops.grouped_ttm`, whose backend may be chosen, or
            `eager` for the formula.
        keep: what that operator keeps for the backward, `passes` or `steps`.
    """

    def __init__(
        self,
        dim: int,
        positions: int,
        slots: int,
        tokens: int | None,
        depth: int,
        heads: int,
        ff_mult: int,
        time_stamp: bool = True,
        gain: float = 1.0,
        implementation: str = "sdpa",
        keep: str = "passes",
    ) -> None:
        super().__init__()
        self.keep = keep
        self.initial_memory = nn.Parameter(torch.empty(positions, slots, dim))
        self.pos_emb = TimeStamp(dim) if time_stamp else None
        self.ttm_unit = TTMUnit(dim, slots, positions, depth, heads, ff_mult, gain, implementation)
        self.final_output = TokenLearner(dim, tokens, gain) if tokens else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The learned memory starts as N(0, 1), the scale of the resampler's latents."""
        nn.init.normal_(self.initial_memory)

    def forward(self, x: Tensor) -> Tensor:
        return self.read_out(self.advance(self.start(x), x))

    def start(self, x: Tensor) -> Tensor:
        """The memory before the first frame, [B,S,G,dim], for videos of the size and dtype of x [B,...]."""
        return self.initial_memory.to(x.dtype).expand(len(x), -1, -1, -1)

    def advance(self, memory: Tensor, x: Tensor, first: int = 0) -> Tensor:
        """memory [B,S,G,dim], further frames x [B,T,S,dim] from index `first` on -> the memory after them."""
        if x.shape[2] != self.initial_memory.shape[0]:
            raise ValueError(
                f"this machine has memory for {self.initial_memory.shape[0]} tokens, got {x.shape[2]}"
            )
        if self._takes_op(x):
            return self._through_op(memory, x, first)
        return self._through_modules(memory, x, first)

    def _takes_op(self, x: Tensor) -> bool:
        """Whether the recurrence runs as one op; adapters and hooks are heard only by the modules.

        Raises:
            UserError: a backend of the op was asked for by name, and there are such.
        """
        if self.ttm_unit.is_eager or wished(OP, None, str(x.device)) == "reference":
            return False
        if not self.ttm_unit.is_plain:
            refuse_named_kernel(OP, x.device)
        return self.ttm_unit.is_plain

    def _through_modules(self, memory: Tensor, x: Tensor, first: int) -> Tensor:
        if self.pos_emb is not None:
            x = self.pos_emb.stamp(x, first)
        for frame in x.unbind(dim=1):
            memory = self.ttm_unit(memory, frame)
        return memory

    def _through_op(self, memory: Tensor, x: Tensor, first: int) -> Tensor:
        stamps = None if self.pos_emb is None else self.pos_emb(first, x.shape[1]).to(x.dtype)
        unit = self.ttm_unit
        return grouped_ttm(
            x, memory, unit.weights(), heads=unit.heads, stamps=stamps, eps=unit.eps, keep=self.keep
        )

    def read_out(self, memory: Tensor) -> Tensor:
        """memory [B,S,G,dim] -> video tokens [B,M,dim]."""
        return memory.mean(dim=2) if self.final_output is None else self.final_output(memory.flatten(1, 2))
