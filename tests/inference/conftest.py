"""A small model with a word tokenizer: random weights, real code path, answers within milliseconds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from blip3v import Blip3VideoForConditionalGeneration, Blip3VideoProcessor, blip3_video_tiny
from blip3v.data.conversation import SYSTEM_PROMPT
from blip3v.models.tokenizer import word_tokenizer

WORDS = "what happens in the video ? which colour is it a red blue green circle moves left right and stops ."


@pytest.fixture(scope="module")
def pair() -> tuple[Blip3VideoForConditionalGeneration, Blip3VideoProcessor]:
    """(model, processor). Its `<|end|>` is made impossible, so answers are as long as they may be."""
    tokenizer = word_tokenizer([SYSTEM_PROMPT, WORDS])
    torch.manual_seed(0)
    config = blip3_video_tiny(vocab_size=len(tokenizer) - 3)
    model = Blip3VideoForConditionalGeneration(config).eval()
    processor = Blip3VideoProcessor.from_config(config, tokenizer)
    with torch.no_grad():
        # Larger than at initialisation: else every answer would be one word over and over.
        for parameter in model.lang_model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.5)
        model.lang_model.lm_head.bias[: tokenizer.convert_tokens_to_ids("<pad>") + 1] = -1e4
        model.lang_model.additional_fc.bias.fill_(-1e4)
    return model, processor


@pytest.fixture(scope="session")
def clips() -> list[np.ndarray]:
    """Two clips of noise, uint8 [6, 24, 32, 3] and [5, 20, 20, 3]."""
    generator = np.random.default_rng(3)
    return [generator.integers(0, 256, shape, dtype=np.uint8) for shape in ((6, 24, 32, 3), (5, 20, 20, 3))]
