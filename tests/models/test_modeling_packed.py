"""The model on a packed batch: loss and every gradient are those of the padded batch, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers.models.phi3.modeling_phi3 import Phi3RMSNorm

from blip3v import Blip3VideoConfig, Blip3VideoForConditionalGeneration, blip3_video_tiny
from blip3v.data.conversation import format_prompt
from blip3v.data.packing import count_labels
from blip3v.models.processing import Blip3VideoProcessor
from blip3v.models.tokenizer import word_tokenizer

M, FRAMES, SIZE = 4, 3, 16

Model = Blip3VideoForConditionalGeneration
Sample = dict[str, Tensor]


@pytest.fixture(autouse=True)
def norms_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers computes them in float32, whose rounding would hide what float64 shows."""

    def forward(self: Phi3RMSNorm, hidden: Tensor) -> Tensor:
        return (
            self.weight * hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        )

    monkeypatch.setattr(Phi3RMSNorm, "forward", forward)


@pytest.fixture(scope="module")
def processor() -> Blip3VideoProcessor:
    tokenizer = word_tokenizer([format_prompt("what moves ?"), "red green blue one two three"])
    return Blip3VideoProcessor.from_config(config(len(tokenizer) - 3), tokenizer, system_prompt="")


def config(vocabulary: int) -> Blip3VideoConfig:
    return blip3_video_tiny(
        "grouped_ttm", M, frames=FRAMES, num_latents=4, image_size=SIZE, vocab_size=vocabulary
    )


def model_for(processor: Blip3VideoProcessor, **text: Any) -> Model:
    torch.manual_seed(0)
    settings = config(len(processor.tokenizer) - 3)
    for name, value in text.items():
        setattr(settings.text_config, name, value)
    model = Model(settings).double()
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and "latents" not in name:
            nn.init.normal_(parameter, std=0.2)
    return model


def sample(processor: Blip3VideoProcessor, seed: int, words: int, videos: int = 1, turns: int = 1) -> Sample:
    generator = np.random.default_rng(seed)
    answer = " ".join(generator.choice(["red", "green", "blue", "one", "two"], words))
    made = processor.encode_conversation([("what moves ?", answer)] * turns, videos)
    if videos:
        pixels = torch.from_numpy(generator.standard_normal((videos, FRAMES, 3, SIZE, SIZE)))
        made["pixel_values_videos"] = pixels
    return made


def mixed(processor: Blip3VideoProcessor) -> list[Sample]:
    """Ragged: one video, none, two, one with two turns, one whose first token has a label."""
    samples = [
        sample(processor, 0, 3),
        sample(processor, 1, 12, videos=0),
        sample(processor, 2, 1, videos=2),
        sample(processor, 3, 7, turns=2),
        sample(processor, 4, 2),
    ]
    samples[4]["labels"][0] = samples[4]["input_ids"][0]
    return samples


def learn(model: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    loss = model(**batch, use_cache=False).loss
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def same(found: tuple[Tensor, dict[str, Tensor]], expected: tuple[Tensor, dict[str, Tensor]]) -> None:
    torch.testing.assert_close(found[0], expected[0], rtol=1e-10, atol=1e-10)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-10, atol=1e-10, msg=name)


def test_mixed_batch(processor: Blip3VideoProcessor) -> None:
    model, samples = model_for(processor), mixed(processor)
    expected = learn(model, processor.collate(samples))
    assert sum(bool(gradient.any()) for gradient in expected[1].values()) > 50
    for multiple in (1, 16):
        same(learn(model, processor.collate_packed(samples, multiple)), expected)


@pytest.mark.parametrize("chosen", [[0], [1], [1, 1]], ids=["one sample", "one text", "texts"])
def test_small_batches(processor: Blip3VideoProcessor, chosen: list[int]) -> None:
    model, samples = model_for(processor), mixed(processor)
    batch = [samples[index] for index in chosen]
    same(learn(model, processor.collate_packed(batch)), learn(model, processor.collate(batch)))


def test_stored_features(processor: Blip3VideoProcessor) -> None:
    model, samples = model_for(processor), [sample(processor, 0, 3), sample(processor, 1, 5)]
    for one in samples:
        pixels = one.pop("pixel_values_videos")
        one["video_features"] = model.vision_encoder(pixels.flatten(0, 1)).last_hidden_state.detach()[None]
    same(learn(model, processor.collate_packed(samples)), learn(model, processor.collate(samples)))


def test_the_mean_of_samples_alone(processor: Blip3VideoProcessor) -> None:
    """Independent of `collate`: each sample by itself, weighted by its labels."""
    model, samples = model_for(processor), mixed(processor)
    packed = processor.collate_packed(samples)
    alone = [processor.collate([one]) for one in samples]
    total = sum(model(**one, use_cache=False).loss * count_labels(one) for one in alone)
    torch.testing.assert_close(
        model(**packed, use_cache=False).loss, total / count_labels(packed), rtol=1e-10, atol=1e-10
    )


def test_a_sample_does_not_see_its_neighbours(processor: Blip3VideoProcessor) -> None:
    model = model_for(processor).float().eval()
    samples = [sample(processor, seed, 4) for seed in range(3)]
    for one in samples:
        one["pixel_values_videos"] = one["pixel_values_videos"].float()
    changed = [samples[0], sample(processor, 9, 4), samples[2]]
    changed[1]["pixel_values_videos"] = changed[1]["pixel_values_videos"].float()
    with torch.no_grad():
        before, after = (
            model(**processor.collate_packed(batch), use_cache=False).logits[0].chunk(3)
            for batch in (samples, changed)
        )
    assert torch.equal(before[0], after[0]) and torch.equal(before[2], after[2])
    assert not torch.equal(before[1], after[1])


@pytest.mark.parametrize("window", [6, 2000])
def test_sliding_window(processor: Blip3VideoProcessor, window: int) -> None:
    model, samples = model_for(processor, sliding_window=window), mixed(processor)
    assert window == 2000 or window < min(len(one["input_ids"]) for one in samples)
    same(learn(model, processor.collate_packed(samples)), learn(model, processor.collate(samples)))


def test_long_rope_takes_the_factors_of_the_longest_segment_not_of_the_row(
    processor: Blip3VideoProcessor,
) -> None:
    samples = mixed(processor)
    longest = max(len(one["input_ids"]) for one in samples)
    half = (config(60).text_config.hidden_size // config(60).text_config.num_attention_heads) // 2
    rope = {
        "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * half, "long_factor": [4.0] * half,
        "original_max_position_embeddings": longest,
    }  # fmt: skip
    model = model_for(processor, rope_parameters=rope)
    assert model.lang_model.model.rotary_emb.rope_type == "longrope"
    packed = processor.collate_packed(samples)
    assert packed["input_ids"].shape[1] > longest
    same(learn(model, packed), learn(model, processor.collate(samples)))


def test_activations_computed_again(processor: Blip3VideoProcessor) -> None:
    model, samples = model_for(processor), mixed(processor)
    packed = processor.collate_packed(samples)
    expected = learn(model, packed)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    same(learn(model.train(), packed), expected)


def test_eager_attention_finds_the_segments_itself(processor: Blip3VideoProcessor) -> None:
    model, samples = model_for(processor).float(), [sample(processor, 1, n, videos=0) for n in (3, 9, 1)]
    packed = processor.collate_packed(samples)
    loss = model(**packed, use_cache=False).loss
    model.set_attn_implementation("eager")
    torch.testing.assert_close(model(**packed, use_cache=False).loss, loss)


def test_compiled_layers(processor: Blip3VideoProcessor) -> None:
    """One graph without breaks; its float64 is rounded differently in places."""
    model, samples = model_for(processor), mixed(processor)
    batches = [processor.collate_packed(part) for part in (samples, samples[:3], samples[1:])]
    expected = [learn(model, batch) for batch in batches]
    for layer in model.lang_model.model.layers:
        layer.compile(fullgraph=True, backend="aot_eager")
    for batch, one in zip(batches, expected, strict=True):
        same(learn(model, batch), one)
    torch._dynamo.reset()


def test_low_rank_adapters(processor: Blip3VideoProcessor) -> None:
    settings = LoraConfig(r=2, target_modules=["qkv_proj", "to_q", "to_kv"], init_lora_weights=False)
    model, samples = get_peft_model(model_for(processor), settings).double(), mixed(processor)
    same(learn(model, processor.collate_packed(samples)), learn(model, processor.collate(samples)))


def test_autocast(processor: Blip3VideoProcessor) -> None:
    model, samples = model_for(processor).float(), [sample(processor, 1, n, videos=0) for n in (3, 9, 1)]
    with torch.autocast("cpu", torch.bfloat16):
        losses = [
            model(**batch, use_cache=False).loss
            for batch in (processor.collate_packed(samples), processor.collate(samples))
        ]
    torch.testing.assert_close(losses[0], losses[1], rtol=2e-2, atol=2e-2)


def test_no_labels_is_no_loss_and_no_gradient(processor: Blip3VideoProcessor) -> None:
    model, samples = model_for(processor), mixed(processor)
    for one in samples:
        one["labels"].fill_(-100)
    loss, gradients = learn(model, processor.collate_packed(samples))
    assert loss == 0
    assert gradients and not any(gradient.any() for gradient in gradients.values())


def test_logits_only_where_labels_are(processor: Blip3VideoProcessor) -> None:
    model, samples = model_for(processor), mixed(processor)
    packed = processor.collate_packed(samples)
    seen: list[int] = []
    model.lang_model.lm_head.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    output = model(**packed, use_cache=False)
    assert seen == [count_labels(packed)] and output.logits.shape[1] == seen[0] < packed["input_ids"].shape[1]


def test_what_a_packed_call_does_not_take(processor: Blip3VideoProcessor) -> None:
    model, packed = model_for(processor), processor.collate_packed(mixed(processor)[1:2])
    with pytest.raises(ValueError, match="use_cache=False"):
        model(**packed)
    with pytest.raises(ValueError, match="no attention_mask"):
        model(**packed, use_cache=False, attention_mask=torch.ones_like(packed["input_ids"]))
    with pytest.raises(ValueError, match="has one row, got 2"):
        model(**packed | {"input_ids": packed["input_ids"].repeat(2, 1)}, use_cache=False)
    with pytest.raises(ValueError, match="needs position_ids"):
        model(**packed | {"position_ids": None}, use_cache=False)
    with pytest.raises(ValueError, match="not both"):
        model(**packed, use_cache=False, labels=packed["input_ids"])
    with pytest.raises(ValueError, match="2 videos"):
        model(**packed, use_cache=False, pixel_values_videos=torch.zeros(2, FRAMES, 3, SIZE, SIZE).double())
