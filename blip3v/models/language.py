"""Phi-3 with a decoupled vocabulary: tokens added by BLIP-3 have their own embedding and their own head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Phi3Model

from blip3v.models.configuration import Blip3VideoConfig
from blip3v.ranges import ranged, stage_range


class LanguageModel(nn.Module):
    """Token ids below `base_vocab_size` use Phi-3's embedding, those from there on `additional_embedding`.

    Logits are the first `base_vocab_size` columns of Phi-3's head, then those of `additional_fc`.
    `Phi3Model` is the one of transformers, untouched.
    """

    def __init__(self, config: Blip3VideoConfig) -> None:
        super().__init__()
        text, added = config.text_config, config.additional_vocab_size
        self.base_vocab_size = config.base_vocab_size
        self.vocab_size = config.base_vocab_size + added
        self.model = Phi3Model(text)
        self.additional_embedding = nn.Embedding(added, text.hidden_size)
        self.lm_head = nn.Linear(text.hidden_size, text.vocab_size)
        self.additional_fc = nn.Linear(text.hidden_size, added)

    def embed(self, input_ids: Tensor) -> Tensor:
        """input_ids [B,L] -> [B,L,dim]."""
        added = input_ids - self.base_vocab_size
        base = self.model.embed_tokens(input_ids.clamp(max=self.base_vocab_size - 1))
        return torch.where(added.unsqueeze(-1) < 0, base, self.additional_embedding(added.clamp(min=0)))

    @ranged(stage_range, "logits")
    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [..., dim] -> [..., base_vocab_size + additional_vocab_size]."""
        return torch.cat(
            [self.lm_head(hidden)[..., : self.base_vocab_size], self.additional_fc(hidden)], dim=-1
        )

    def forward(self, inputs_embeds: Tensor, **kwargs: Any) -> Any:
        """inputs_embeds [B,L,dim] -> Phi3Model's output: last_hidden_state [B,L,dim], past_key_values."""
        with stage_range(_stage(inputs_embeds.shape[1], **kwargs)):
            return self.model(inputs_embeds=inputs_embeds, **kwargs)


def _stage(length: int, use_cache: bool | None = None, past_key_values: Any = None, **kwargs: Any) -> str:
    """What a profile calls a forward pass over `length` tokens."""
    if past_key_values is not None and length == 1:
        return "decode step"
    return "language model" if use_cache is False and past_key_values is None else "prefill"
