"""The stages as public repositories customarily spell them: what the reference is measured against.

Written for this benchmark from the formulas, in the form found in Flamingo-style code and in PyTorch ports
of TokenLearner and the Token Turing Machine:

- attention by two einsums with the scores in memory, scaled queries, and the maximum of each row taken off
  before the softmax, which subtracts it once more;
- heads split and merged as einops' `rearrange` does it, by view, permute and, on merging, a copy;
- the Perceiver normalises the media tokens anew in every layer, concatenates them with the latents before
  `to_kv`, and so asks for the gradient of all of them, even below a frozen vision encoder;
- learned tokens are repeated over batch and time, TokenLearner sums by einsum, every layer computes every
  token.

Parameter names are those of `blip3v.models`, so its state dicts load and outputs can be compared.
"""

from __future__ import annotations

import torch
from torch import Tensor, einsum, nn


def feed_forward(dim: int, hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(dim), nn.Linear(dim, hidden, bias=False), nn.GELU(), nn.Linear(hidden, out, bias=False)
    )


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[B, ..., N, heads * d] -> [B, heads, ..., N, d], as a view."""
    return x.unflatten(-1, (heads, -1)).movedim(-2, 1)


def merge_heads(x: Tensor) -> Tensor:
    """[B, heads, ..., N, d] -> [B, ..., N, heads * d], a copy."""
    return x.movedim(1, -2).flatten(-2)


def einsum_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q [..., Q, d], k and v [..., K, d] -> [..., Q, d]."""
    scores = einsum("... i d, ... j d -> ... i j", q * q.shape[-1] ** -0.5, k)
    scores = scores - scores.amax(dim=-1, keepdim=True).detach()
    return einsum("... i j, ... j d -> ... i d", scores.softmax(dim=-1), v)


class EinsumPerceiverAttention(nn.Module):
    def __init__(self, dim: int, heads: int, dim_head: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_media = nn.LayerNorm(dim)
        self.norm_latents = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, heads * dim_head, bias=False)
        self.to_kv = nn.Linear(dim, 2 * heads * dim_head, bias=False)
        self.to_out = nn.Linear(heads * dim_head, dim, bias=False)

    def forward(self, x: Tensor, latents: Tensor) -> Tensor:
        """x [B,T,S,dim], latents [B,T,L,dim] -> [B,T,L,dim]."""
        x, latents = self.norm_media(x), self.norm_latents(latents)
        q = self.to_q(latents)
        k, v = self.to_kv(torch.cat((x, latents), dim=-2)).chunk(2, dim=-1)
        q, k, v = (split_heads(part, self.heads) for part in (q, k, v))
        return self.to_out(merge_heads(einsum_attention(q, k, v)))


class EinsumPerceiverResampler(nn.Module):
    """[B,T,S,dim] -> [B,T,num_latents,dim]."""

    def __init__(
        self, dim: int, depth: int, heads: int, dim_head: int, num_latents: int, ff_mult: int
    ) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(num_latents, dim))
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [EinsumPerceiverAttention(dim, heads, dim_head), feed_forward(dim, ff_mult * dim, dim)]
            )
            for _ in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        latents = self.latents.repeat(*x.shape[:2], 1, 1)
        for attention, ff in self.layers:
            latents = attention(x, latents) + latents
            latents = ff(latents) + latents
        return latents


class EinsumSelfAttention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_k = nn.Linear(dim, dim, bias=False)
        self.to_v = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        q, k, v = (split_heads(linear(x), self.heads) for linear in (self.to_q, self.to_k, self.to_v))
        return merge_heads(einsum_attention(q, k, v))


def transformer_layers(depth: int, dim: int, heads: int, ff_mult: int) -> nn.ModuleList:
    return nn.ModuleList(
        nn.ModuleList([EinsumSelfAttention(dim, heads), feed_forward(dim, ff_mult * dim, dim)])
        for _ in range(depth)
    )


def run_layers(layers: nn.ModuleList, x: Tensor) -> Tensor:
    for attention, ff in layers:
        x = attention(x) + x
        x = ff(x) + x
    return x


class EinsumTransformerEncoder(nn.Module):
    """All layers over all T*S tokens, of which the last `tokens` are kept."""

    def __init__(self, dim: int, tokens: int, depth: int, heads: int, ff_mult: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.layers = transformer_layers(depth, dim, heads, ff_mult)

    def forward(self, x: Tensor) -> Tensor:
        return run_layers(self.layers, x.reshape(len(x), -1, x.shape[-1]))[:, -self.tokens :]


class EinsumTokenLearner(nn.Module):
    """[..., N, dim] -> [..., k, dim]."""

    def __init__(self, dim: int, k: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.mlp = feed_forward(dim, 2 * k, k)

    def forward(self, x: Tensor) -> Tensor:
        return einsum("... n i, ... n d -> ... i d", self.mlp(self.norm(x)).softmax(dim=-2), x)


class EinsumTokenLearnerEncoder(nn.Module):
    def __init__(self, dim: int, tokens: int) -> None:
        super().__init__()
        self.final_output = EinsumTokenLearner(dim, tokens)

    def forward(self, x: Tensor) -> Tensor:
        return self.final_output(x.reshape(len(x), -1, x.shape[-1]))


class EinsumTokenTuringMachine(nn.Module):
    """The vanilla machine with the outputs of all steps side by side."""

    def __init__(
        self, dim: int, memory: int, read: int, per_step: int, depth: int, heads: int, ff_mult: int
    ) -> None:
        super().__init__()
        self.initial_memory = nn.Parameter(torch.randn(memory, dim))
        self.read_layer = EinsumTokenLearner(dim, read)
        self.process_layers = transformer_layers(depth, dim, heads, ff_mult)
        self.write_layer = EinsumTokenLearner(dim, memory)
        self.final_output = EinsumTokenLearner(dim, per_step)

    def forward(self, x: Tensor) -> Tensor:
        memory = self.initial_memory.repeat(len(x), 1, 1)
        outputs = []
        for t in range(x.shape[1]):
            read = self.read_layer(torch.cat([memory, x[:, t]], dim=1))
            processed = run_layers(self.process_layers, read)
            memory = self.write_layer(torch.cat([memory, processed], dim=1))
            outputs.append(self.final_output(processed))
        return torch.stack(outputs, dim=1).flatten(1, 2)


class EinsumTTMUnit(nn.Module):
    def __init__(self, dim: int, positions: int, slots: int, depth: int, heads: int, ff_mult: int) -> None:
        super().__init__()
        self.process_layers = transformer_layers(depth, dim, heads, ff_mult)
        self.read_layer = EinsumTokenLearner(dim, positions)  # stored in checkpoints, never run
        self.write_layer = EinsumTokenLearner(dim, slots)

    def forward(self, memory: Tensor, frame: Tensor) -> Tensor:
        batch, positions, slots, dim = memory.shape
        group = torch.cat([memory, frame.unsqueeze(2)], dim=2).view(batch * positions, slots + 1, dim)
        group = run_layers(self.process_layers, group).view(batch, positions, slots + 1, dim)
        both = torch.cat([memory, group], dim=2).view(batch * positions, 2 * slots + 1, dim)
        return self.write_layer(both).view(batch, positions, slots, dim)


class EinsumGroupedTTM(nn.Module):
    """The grouped machine with time-stamps and the attentional output."""

    def __init__(
        self, dim: int, positions: int, slots: int, tokens: int, depth: int, heads: int, ff_mult: int
    ) -> None:
        super().__init__()
        self.initial_memory = nn.Parameter(torch.randn(positions, slots, dim))
        self.pos_emb = nn.Module()
        self.pos_emb.register_buffer("inv_freq", torch.zeros(dim // 2))
        self.ttm_unit = EinsumTTMUnit(dim, positions, slots, depth, heads, ff_mult)
        self.final_output = EinsumTokenLearner(dim, tokens)

    def forward(self, x: Tensor) -> Tensor:
        memory = self.initial_memory.repeat(len(x), 1, 1, 1)
        times = torch.arange(x.shape[1], device=x.device, dtype=x.dtype)
        angles = einsum("i, j -> i j", times, self.pos_emb.inv_freq)
        codes = torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)
        for t in range(x.shape[1]):
            memory = self.ttm_unit(memory, x[:, t] + codes[t])
        return self.final_output(memory.flatten(1, 2))
