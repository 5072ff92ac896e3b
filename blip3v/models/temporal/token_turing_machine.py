"""Token Turing Machines: a memory of tokens that reads one frame after another."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from blip3v.models.blocks import transformer
from blip3v.models.temporal.time_stamp import TimeStamp
from blip3v.models.temporal.token_learner import TokenLearner


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
        if self.pos_emb is not None:
            x = self.pos_emb.stamp(x)
        memory = self.initial_memory.to(x.dtype).expand(len(x), -1, -1)
        outputs = []
        for frame in x.unbind(dim=1):
            read = self.read_layer(torch.cat([memory, frame], dim=1))
            processed = self.process_layers(read)
            memory = self.write_layer(torch.cat([memory, processed], dim=1))
            if self.final_output is not None:
                outputs.append(self.final_output(processed))
        return torch.cat(outputs, dim=1) if self.final_output is not None else memory


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
        # The released checkpoints carry a TL over positions that no forward pass calls; it is kept so that
        # they load and export bit for bit, and frozen so that no optimizer spends memory on it.
        self.read_layer = TokenLearner(dim, positions).requires_grad_(False)
        self.write_layer = TokenLearner(dim, slots, gain)

    def forward(self, memory: Tensor, frame: Tensor) -> Tensor:
        """memory [B,S,G,dim], frame [B,S,dim] with its time-stamp -> the new memory [B,S,G,dim]."""
        group = torch.cat([memory, frame.unsqueeze(2)], dim=2)
        processed = self.process_layers(group.flatten(0, 1)).view_as(group)
        return self.write_layer(torch.cat([memory, processed], dim=2))


class GroupedTokenTuringMachine(nn.Module):
    """The paper's best encoder: G memory slots for each of the S token positions. [B,T,S,dim] -> [B,M,dim].

    Positions never exchange information here. Output: the mean over a position's slots (M = S), or TL(M)
    over the S * G tokens of the final memory.

    Args:
        dim: width.
        positions: S, tokens per frame.
        slots: G, memory tokens per position.
        tokens: M for the attentional output, or None for the mean.
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
    ) -> None:
        super().__init__()
        self.initial_memory = nn.Parameter(torch.empty(positions, slots, dim))
        self.pos_emb = TimeStamp(dim) if time_stamp else None
        self.ttm_unit = TTMUnit(dim, slots, positions, depth, heads, ff_mult, gain, implementation)
        self.final_output = TokenLearner(dim, tokens, gain) if tokens else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The learned memory starts as N(0, 1), the scale of the resampler's latents."""
        nn.init.normal_(self.initial_memory)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] != self.initial_memory.shape[0]:
            raise ValueError(
                f"this machine has memory for {self.initial_memory.shape[0]} tokens, got {x.shape[2]}"
            )
        if self.pos_emb is not None:
            x = self.pos_emb.stamp(x)
        memory = self.initial_memory.to(x.dtype).expand(len(x), -1, -1, -1)
        for frame in x.unbind(dim=1):
            memory = self.ttm_unit(memory, frame)
        return self.read_out(memory)

    def read_out(self, memory: Tensor) -> Tensor:
        """memory [B,S,G,dim] -> video tokens [B,M,dim]."""
        return memory.mean(dim=2) if self.final_output is None else self.final_output(memory.flatten(1, 2))
