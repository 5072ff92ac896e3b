from __future__ import annotations

import pytest
import torch

from blip3v.demo.timing import FRAMES, LATENTS, TOKENS, _TokenClock, timing_config


@pytest.mark.parametrize("tokens", TOKENS)
def test_each_configuration_makes_its_tokens(tokens: int) -> None:
    assert timing_config(tokens).video_tokens_for(FRAMES) == tokens
    assert (timing_config(tokens).temporal_encoder == "none") == (tokens == FRAMES * LATENTS)


def test_the_clock_counts_the_prompt_first() -> None:
    clock = _TokenClock()
    for _ in range(3):
        clock.put(torch.zeros(1))
    assert len(clock.seconds) == 3
    assert clock.seconds == sorted(clock.seconds)
    assert clock.seconds[0] >= 0
