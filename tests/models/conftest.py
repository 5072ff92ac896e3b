"""The formulas of the reference, one token vector after another, in float64, without code of the package.

A token is a 1-D tensor, a sequence a list of tokens; weights come from a state dict by their published names.
"""

from __future__ import annotations

from collections.abc import Callable
from math import cos, sin

import pytest
import torch
from torch import Tensor, nn

State = dict[str, Tensor]
Tokens = list[Tensor]


class Formulas:
    """Layers written as in the papers."""

    @staticmethod
    def layer_norm(v: Tensor, state: State, name: str) -> Tensor:
        centred = v - v.sum() / len(v)
        variance = (centred * centred).sum() / len(v)
        return centred / (variance + 1e-5) ** 0.5 * state[f"{name}.weight"] + state[f"{name}.bias"]

    @staticmethod
    def linear(v: Tensor, state: State, name: str) -> Tensor:
        rows = [(row * v).sum() for row in state[f"{name}.weight"]]
        out = torch.stack(rows)
        return out + state[f"{name}.bias"] if f"{name}.bias" in state else out

    @staticmethod
    def gelu(v: Tensor) -> Tensor:
        return 0.5 * v * (1 + torch.erf(v / 2**0.5))

    @staticmethod
    def softmax(scores: Tokens) -> Tokens:
        top = max(scores)
        powers = [(score - top).exp() for score in scores]
        total = sum(powers)
        return [power / total for power in powers]

    def feed_forward(self, v: Tensor, state: State, name: str) -> Tensor:
        hidden = self.gelu(self.linear(self.layer_norm(v, state, f"{name}.0"), state, f"{name}.1"))
        return self.linear(hidden, state, f"{name}.3")

    def attend(self, queries: Tokens, keys: Tokens, values: Tokens, heads: int) -> Tokens:
        """Multi-head attention: head h owns the h-th run of channels."""
        width = len(queries[0]) // heads
        out = []
        for query in queries:
            parts = []
            for head in range(heads):
                own = slice(head * width, (head + 1) * width)
                scores = [(query[own] * key[own]).sum() * width**-0.5 for key in keys]
                weighted = zip(self.softmax(scores), values, strict=True)
                parts.append(sum(weight * value[own] for weight, value in weighted))
            out.append(torch.cat(parts))
        return out

    def transformer(self, tokens: Tokens, state: State, name: str, heads: int) -> Tokens:
        """All layers stored under `name`: pre-LN attention without output projection, feed-forward."""
        depth = 0
        while f"{name}.{depth}.0.norm.weight" in state:
            attention = f"{name}.{depth}.0"
            normed = [self.layer_norm(v, state, f"{attention}.norm") for v in tokens]
            q, k, v = (
                [self.linear(token, state, f"{attention}.{part}") for token in normed]
                for part in ("to_q", "to_k", "to_v")
            )
            mixed = self.attend(q, k, v, heads)
            tokens = [token + update for token, update in zip(tokens, mixed, strict=True)]
            tokens = [token + self.feed_forward(token, state, f"{name}.{depth}.1") for token in tokens]
            depth += 1
        assert depth, f"no layers named {name}.0.0"
        return tokens

    def token_learner(self, tokens: Tokens, state: State, name: str) -> Tokens:
        """Output i is the sum of raw tokens, weighted by a softmax over tokens of the MLP's i-th channel."""
        logits = []
        for token in tokens:
            normed = self.layer_norm(token, state, f"{name}.norm")
            hidden = self.linear(self.layer_norm(normed, state, f"{name}.mlp.0"), state, f"{name}.mlp.1")
            logits.append(self.linear(self.gelu(hidden), state, f"{name}.mlp.3"))
        out = []
        for i in range(len(logits[0])):
            weights = self.softmax([logit[i] for logit in logits])
            out.append(sum(weight * token for weight, token in zip(weights, tokens, strict=True)))
        return out

    @staticmethod
    def time_stamp(t: int, dim: int) -> Tensor:
        code = []
        for k in range(dim // 2):
            angle = t * 10000.0 ** (-2 * k / dim)
            code += [sin(angle), cos(angle)]
        return torch.tensor(code, dtype=torch.float64)

    def resampler(self, media: Tokens, keep: list[bool], state: State, heads: int) -> Tokens:
        """The Perceiver-Resampler on one frame; media tokens that are not kept do not exist."""
        media = [token for token, real in zip(media, keep, strict=True) if real]
        latents = list(state["latents"])
        depth = 0
        while f"layers.{depth}.0.to_q.weight" in state:
            attention = f"layers.{depth}.0"
            normed = [self.layer_norm(v, state, f"{attention}.norm_latents") for v in latents]
            seen = [self.layer_norm(v, state, f"{attention}.norm_media") for v in media] + normed
            q = [self.linear(v, state, f"{attention}.to_q") for v in normed]
            kv = [self.linear(v, state, f"{attention}.to_kv").chunk(2) for v in seen]
            mixed = self.attend(q, [k for k, _ in kv], [v for _, v in kv], heads)
            latents = [
                latent + self.linear(v, state, f"{attention}.to_out")
                for latent, v in zip(latents, mixed, strict=True)
            ]
            latents = [latent + self.feed_forward(latent, state, f"layers.{depth}.1") for latent in latents]
            depth += 1
        assert depth, "no resampler layers"
        return latents


@pytest.fixture(scope="session")
def formulas() -> Formulas:
    return Formulas()


@pytest.fixture
def randomised() -> Callable[[nn.Module], nn.Module]:
    """Float64, and every parameter random: initial values (1 and 0 in norms) would hide a missing term."""

    def randomise(module: nn.Module) -> nn.Module:
        generator = torch.Generator().manual_seed(5)
        module = module.double().eval()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.6)
        return module

    return randomise


@pytest.fixture
def normal() -> Callable[..., Tensor]:
    """normal(*shape): float64 standard normal numbers, the same in every run of a test."""
    generator = torch.Generator().manual_seed(11)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
