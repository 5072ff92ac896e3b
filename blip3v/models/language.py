"""Phi-3 with a decoupled vocabulary: tokens added by BLIP-3 have their own embedding and their own head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Phi3Model

from blip3v.models.configuration import Blip3VideoConfig
from blip3v.models.packed_attention import PackedCausalMask
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

    def forward(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        max_seqlen: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """inputs_embeds [B,L,dim] -> Phi3Model's output: last_hidden_state [B,L,dim], past_key_values.

        With cu_seqlens int32 [n+1] and max_seqlen the one row is n segments that do not see each other (see
        `blip3v.data.packing`); position_ids [1,L] must restart in each.

        Raises:
            ValueError: a packed call with several rows, without position_ids, with a mask or with a cache.
        """
        if cu_seqlens is not None:
            attention_mask = self._packed_mask(
                inputs_embeds, attention_mask, cu_seqlens, max_seqlen, **kwargs
            )
        with stage_range(_stage(inputs_embeds.shape[1], **kwargs)):
            return self.model(inputs_embeds=inputs_embeds, attention_mask=attention_mask, **kwargs)

    def _packed_mask(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None,
        cu_seqlens: Tensor,
        max_seqlen: int | None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> Tensor | None:
        if len(inputs_embeds) != 1:
            raise ValueError(f"a packed call has one row, got {len(inputs_embeds)}; use collate_packed")
        if position_ids is None or max_seqlen is None:
            raise ValueError("a packed call needs position_ids and max_seqlen; use collate_packed")
        if attention_mask is not None or past_key_values is not None or use_cache is not False:
            raise ValueError(
                "a packed call takes no attention_mask and no cache; pass use_cache=False, or generate padded"
            )
        # The other implementations of transformers see from position_ids where segments begin.
        if self.model.config._attn_implementation != "sdpa":
            return None
        window = getattr(self.model.config, "sliding_window", None)
        return PackedCausalMask.of(cu_seqlens, max_seqlen, inputs_embeds.shape[1], window)


def _stage(length: int, use_cache: bool | None = None, past_key_values: Any = None, **kwargs: Any) -> str:
    """What a profile calls a forward pass over `length` tokens."""
    if past_key_values is not None and length == 1:
        return "decode step"
    return "language model" if use_cache is False and past_key_values is None else "prefill"
