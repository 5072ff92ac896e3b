"""The one language model behind all encoders, timed for each number of video tokens once."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from benchmarks.precise import cast_parameters
from benchmarks.tokens.memory import extra
from benchmarks.tokens.stopwatch import repeated, seconds
from blip3v.models.configuration import Blip3VideoConfig
from blip3v.models.language import LanguageModel
from blip3v.testing.timing import Timing


class Reading(NamedTuple):
    """Prompt to the first token, one further token, and the memory taken beside weights (None on a CPU)."""

    prefill: Timing
    step: Timing
    extra_bytes: int | None


class Reader:
    """Phi-3 with random weights, reading random video tokens and a question.

    Args:
        config: its language model.
        text_tokens: of the prompt, beside the video's.
        repeats: see `stopwatch.repeated`.
    """

    NEW_TOKENS: ClassVar[int] = 8
    """Tokens behind the first, whose mean time is one step's."""

    def __init__(
        self, config: Blip3VideoConfig, device: str, dtype: str, text_tokens: int, repeats: int
    ) -> None:
        torch.manual_seed(0)
        self.device, self.dtype, self.repeats = device, getattr(torch, dtype), repeats
        with torch.device(device):
            self.model = LanguageModel(config).eval()
        cast_parameters(self.model, self.dtype)
        self.width = config.text_config.hidden_size
        self.text = torch.arange(10, 10 + text_tokens, device=device)[None]
        self.known: dict[int, Reading] = {}

    def read(self, tokens: int) -> Reading:
        """Timings for a video of this many tokens; measured when first asked for."""
        if tokens not in self.known:
            self.known[tokens] = self._measure(tokens)
        return self.known[tokens]

    def _measure(self, tokens: int) -> Reading:
        video = torch.randn(1, tokens, self.width, device=self.device, dtype=self.dtype)
        prefill, step = repeated(lambda: self._answer(video), self.repeats, self.device)
        return Reading(prefill, step, extra(lambda: self._answer(video), self.device))

    def _answer(self, video: Tensor) -> tuple[float, float]:
        """Seconds to the first new token, and mean seconds of each of the following."""
        prefill, (token, cache) = seconds(lambda: self._prefill(video), self.device)
        decoding, _ = seconds(lambda: self._decode(token, cache), self.device)
        return prefill, decoding / self.NEW_TOKENS

    def _prefill(self, video: Tensor) -> tuple[Tensor, Any]:
        question = self.model.embed(self.text)
        # Where the video stands in the prompt changes nothing about the time.
        return self._next(torch.cat([video, question], dim=1), None)

    def _decode(self, token: Tensor, cache: Any) -> Tensor:
        for _ in range(self.NEW_TOKENS):
            token, cache = self._next(self.model.embed(token), cache)
        return token

    def _next(self, embeds: Tensor, cache: Any) -> tuple[Tensor, Any]:
        """The likeliest next token [1,1] and the key/value cache."""
        out = self.model(embeds, past_key_values=cache, use_cache=True)
        return self.model.logits(out.last_hidden_state[:, -1:]).argmax(dim=-1), out.past_key_values
