"""Tokens per video against the time to the first word, measured on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import Phi3Config, SiglipVisionConfig
from transformers.generation import BaseStreamer

from blip3v.models.configuration import Blip3VideoConfig
from blip3v.models.modeling import Blip3VideoForConditionalGeneration

FRAMES, LATENTS = 8, 128
TOKENS = (16, 32, 128, FRAMES * LATENTS)
REPEATS, NEW_TOKENS, WORDS = 3, 12, 4096
QUESTION_TOKENS = 16


def timing_config(tokens: int) -> Blip3VideoConfig:
    """Random weights at a size where the language model costs most; 128 latents per frame as in the 4B model.

    TokenLearner makes 16, 32 or 128 tokens; 1024 is every token of every frame, no temporal encoder at all.
    """
    everything = tokens == FRAMES * LATENTS
    return Blip3VideoConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=96,
            patch_size=8,
            vision_use_head=False,
        ),
        text_config=Phi3Config(
            vocab_size=WORDS,
            hidden_size=512,
            intermediate_size=1536,
            num_hidden_layers=6,
            num_attention_heads=8,
            max_position_embeddings=2048,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        ),
        num_frames=FRAMES,
        video_tokens=tokens,
        temporal_encoder="none" if everything else "token_learner",
        num_latents=LATENTS,
        resampler_depth=1,
        resampler_heads=4,
        resampler_dim_head=32,
        base_vocab_size=WORDS,
        image_token_id=WORDS,
    )


def measure_tokens(report: Callable[[str, float, float, str], None]) -> list[dict[str, Any]]:
    """Medians of REPEATS, one row for each of TOKENS.

    Returns:
        {"tokens", "encoder", "vision_seconds": pixels to video tokens, "first_token_seconds": pixels to the
        first new token, "prefill_seconds": their difference, "tokens_per_second": of those behind the first}.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = []
    for number, tokens in enumerate(TOKENS):
        rows.append(_measure(timing_config(tokens), device))
        report("tokens against time", number + 1, len(TOKENS), f"{tokens} tokens")
    return rows


@torch.inference_mode()
def _measure(config: Blip3VideoConfig, device: torch.device) -> dict[str, Any]:
    torch.manual_seed(0)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = Blip3VideoForConditionalGeneration(config).to(device, dtype).eval()
    size = config.vision_config.image_size
    pixels = torch.randn(1, FRAMES, 3, size, size, device=device, dtype=dtype)
    ids = [1, *[config.image_token_id] * config.video_tokens, *range(10, 10 + QUESTION_TOKENS)]
    inputs = {"input_ids": torch.tensor([ids], device=device)}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])

    def encode() -> float:
        begin = time.perf_counter()
        model.encode_video(pixels)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begin

    def generate() -> tuple[float, float]:
        """Seconds to the first new token, and new tokens per second from there."""
        clock = _TokenClock()
        model.generate(
            **inputs,
            pixel_values_videos=pixels,
            min_new_tokens=1 + NEW_TOKENS,
            max_new_tokens=1 + NEW_TOKENS,
            do_sample=False,
            pad_token_id=0,
            streamer=clock,
        )
        first, last = clock.seconds[1], clock.seconds[-1]
        return first, NEW_TOKENS / (last - first)

    # The first of each warms up.
    vision = statistics.median([encode() for _ in range(REPEATS + 1)][1:])
    runs = [generate() for _ in range(REPEATS + 1)][1:]
    first = statistics.median(seconds for seconds, _ in runs)
    return {
        "tokens": config.video_tokens,
        "encoder": config.temporal_encoder,
        "vision_seconds": vision,
        "prefill_seconds": first - vision,
        "first_token_seconds": first,
        "tokens_per_second": statistics.median(speed for _, speed in runs),
    }


class _TokenClock(BaseStreamer):
    """Notes when the prompt and then each token comes; a token comes once it can be read on the CPU."""

    def __init__(self) -> None:
        self.begin, self.seconds = time.perf_counter(), list[float]()

    def put(self, value: torch.Tensor) -> None:
        self.seconds.append(time.perf_counter() - self.begin)

    def end(self) -> None:
        pass
