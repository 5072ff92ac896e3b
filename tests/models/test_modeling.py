"""The whole model: splice, loss, gradients, and the conventions of transformers, accelerate and peft."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedConfig

from blip3v import Blip3VideoConfig, Blip3VideoForConditionalGeneration, blip3_video_tiny
from blip3v.models.modeling import next_token_loss
from blip3v.models.vision import encode_frames

IMAGE, M, FRAMES = 64, 4, 3

Model = Blip3VideoForConditionalGeneration


def tiny_config(**overrides: Any) -> Blip3VideoConfig:
    return blip3_video_tiny("grouped_ttm", M, frames=FRAMES, **overrides)


def tiny_model(**overrides: Any) -> Model:
    torch.manual_seed(0)
    model = Model(tiny_config(**overrides)).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and "latents" not in name:  # fresh Phi-3 weights are so small that little shows
            nn.init.normal_(parameter, std=0.2)
    return model


def videos(n: int) -> Tensor:
    return torch.randn(n, FRAMES, 3, 32, 32, generator=torch.Generator().manual_seed(2))


def batch(labels: bool = True) -> dict[str, Tensor]:
    """Two videos in the first row, none in the second, one in the third; padded on the right."""
    mark = [IMAGE] * M
    rows = [[1, 5, *mark, 6, *mark, 7, 8, 2], [1, 9, 10, 11, 2], [1, *mark, 12, 2]]
    length = max(map(len, rows))
    ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
    made = {"input_ids": ids, "attention_mask": mask, "pixel_values_videos": videos(3)}
    if labels:
        made["labels"] = ids.masked_fill((ids == IMAGE) | (mask == 0), -100)
    return made


def same(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


# The splice.


def test_videos_take_their_places_in_the_order_of_the_batch() -> None:
    model, inputs = tiny_model(), batch(labels=False)
    seen: list[Tensor] = []
    hook = model.lang_model.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        output = model(**inputs)
    hook.remove()
    tokens = torch.cat([model.encode_video(video[None]) for video in videos(3)])
    same(output.video_tokens, tokens)
    ids = inputs["input_ids"]
    flat = iter(tokens.flatten(0, 1))
    for row in range(3):
        for column in range(ids.shape[1]):
            token = ids[row, column]
            same(
                seen[0][row, column], next(flat) if token == IMAGE else model.lang_model.embed(token[None])[0]
            )
    assert next(flat, None) is None


def test_each_video_changes_only_its_own_row() -> None:
    model, inputs = tiny_model(), batch(labels=False)
    with torch.no_grad():
        before = model(**inputs).logits
        inputs["pixel_values_videos"][2] += 1.0
        after = model(**inputs).logits
    assert torch.equal(before[:2], after[:2])
    assert (before[2, M:] - after[2, M:]).abs().amax() > 1e-3
    assert torch.equal(before[2, 0], after[2, 0])  # nothing looks ahead


def test_a_batch_without_videos() -> None:
    model, inputs = tiny_model(), batch(labels=False)
    ids = inputs["input_ids"][1:2, :5]
    with torch.no_grad():
        output = model(ids)
        beside_videos = model(**inputs).logits[1:2, :5]
    assert output.video_tokens is None
    same(output.logits, beside_videos)


@pytest.mark.parametrize("n", [2, 4])
def test_places_and_videos_must_agree(n: int) -> None:
    inputs = batch() | {"pixel_values_videos": videos(n)}
    with pytest.raises(ValueError, match=rf"12 <image> tokens, {n} videos of 4 tokens need {n * M}"):
        tiny_model()(**inputs)


def test_ids_or_embeddings() -> None:
    model, inputs = tiny_model(), batch(labels=False)
    embeds = model.lang_model.embed(inputs["input_ids"])
    with pytest.raises(ValueError, match="exactly one"):
        model(inputs["input_ids"], inputs_embeds=embeds)
    with pytest.raises(ValueError, match="exactly one"):
        model()
    with pytest.raises(ValueError, match="videos need input_ids"):
        model(inputs_embeds=embeds, pixel_values_videos=videos(3))
    text = inputs["input_ids"][1:2]
    same(model(inputs_embeds=embeds[1:2]).logits, model(text).logits)


def test_features_of_the_frozen_encoder_instead_of_pixels() -> None:
    model, inputs = tiny_model(), batch()
    expected = model(**inputs)
    features = encode_frames(model.vision_encoder, inputs.pop("pixel_values_videos"))
    found = model(**inputs, video_features=features)
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(found.loss, expected.loss)


# The loss.


def test_loss_against_a_loop_in_float64() -> None:
    model, inputs = tiny_model(), batch()
    output = model(**inputs)
    total, counted = 0.0, 0
    logits = output.logits.detach().double()
    for row in range(3):
        for position in range(logits.shape[1] - 1):
            target = int(inputs["labels"][row, position + 1])
            if target == -100:
                continue
            scores = logits[row, position]
            top = scores.max()
            total += float(top + (scores - top).exp().sum().log() - scores[target])
            counted += 1
    assert counted == 5 + 4 + 2
    assert output.loss.item() == pytest.approx(total / counted, rel=1e-6)


def test_a_batch_without_labels_has_loss_zero_and_finite_gradients() -> None:
    logits = torch.randn(2, 5, 7, requires_grad=True)
    loss = next_token_loss(logits, torch.full((2, 5), -100))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.eq(0).all()


def test_loss_of_bfloat16_logits_is_taken_in_float32() -> None:
    logits, labels = torch.randn(1, 40, 300).bfloat16(), torch.randint(0, 300, (1, 40))
    found = next_token_loss(logits, labels)
    assert found.dtype == torch.float32
    same(found, next_token_loss(logits.double(), labels).float(), 1e-6)


def test_logits_to_keep() -> None:
    model, inputs = tiny_model(), batch(labels=False)
    whole = model(**inputs).logits
    same(model(**inputs, logits_to_keep=2).logits, whole[:, -2:])
    same(model(**inputs, logits_to_keep=torch.tensor([0, 3])).logits, whole[:, [0, 3]])


# Gradients.


def test_gradients_reach_all_that_is_trained_and_nothing_that_is_frozen() -> None:
    model = tiny_model()
    model.vision_encoder.requires_grad_(False)
    model(**batch()).loss.backward()
    assert all(parameter.grad is None for parameter in model.vision_encoder.parameters())
    for name, parameter in model.named_parameters():
        if name.startswith("vision_encoder.") or "read_layer" in name:
            assert parameter.grad is None, name
        elif "additional_embedding" in name:  # <image> is replaced, the others are not in the text
            assert not parameter.grad.any()
        else:
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), name


def test_loaded_models_keep_the_unused_layer_frozen(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    loaded = Model.from_pretrained(tmp_path)
    frozen = {name for name, parameter in loaded.named_parameters() if not parameter.requires_grad}
    assert frozen
    assert all("read_layer" in name for name in frozen)


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_gives_the_same_gradients(reentrant: bool) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = tiny_model().train()
        model.vision_encoder.requires_grad_(False)
        calls = []
        for layer in model.lang_model.model.layers:
            layer.input_layernorm.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            assert model.is_gradient_checkpointing
        model(**batch(), use_cache=False).loss.backward()
        assert len(calls) == (2 if checkpointing else 1) * len(model.lang_model.model.layers)
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        same(gradients[1][name], gradient, 1e-6)


# Conventions of transformers, accelerate and peft.


def settings(config: PreTrainedConfig) -> dict[str, Any]:
    """A configuration without what transformers notes down when it saves."""
    noted = ("_name_or_path", "transformers_version", "architectures", "dtype")
    values = {name: value for name, value in config.to_dict().items() if name not in noted}
    parts = {name: settings(getattr(config, name)) for name in config.sub_configs}
    return values | parts


@pytest.mark.parametrize("shard_size", ["1GB", "60KB"])
def test_save_and_load(tmp_path: Path, shard_size: str) -> None:
    model, inputs = tiny_model(), batch()
    with torch.no_grad():  # stored values must win over computed ones
        model.vision_tokenizer.temporal_encoder.pos_emb.inv_freq.mul_(1.25)
    model.save_pretrained(tmp_path, max_shard_size=shard_size)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard_size == "60KB")
    assert not list(tmp_path.glob("*.bin"))
    loaded, info = Model.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    assert settings(loaded.config) == settings(model.config)
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name
    same(loaded(**inputs).logits, model(**inputs).logits)


@pytest.mark.parametrize("device_map", [{"": "cpu"}, "auto"])
def test_device_map(tmp_path: Path, device_map: Any) -> None:
    model, inputs = tiny_model(), batch()
    model.save_pretrained(tmp_path)
    loaded = Model.from_pretrained(tmp_path, device_map=device_map)
    same(loaded(**inputs).logits.cpu(), model(**inputs).logits)


def test_a_device_map_that_splits_the_model(tmp_path: Path) -> None:
    """Layers on disk stand for a second device: hooks must carry tensors through every seam."""
    model, inputs = tiny_model(), batch()
    model.save_pretrained(tmp_path)
    device_map = {
        "vision_encoder": "cpu",
        "vision_tokenizer": "disk",
        "lang_model.model.embed_tokens": "cpu",
        "lang_model.model.layers": "disk",
        "lang_model.model.norm": "cpu",
        "lang_model.model.rotary_emb": "cpu",
        "lang_model.additional_embedding": "cpu",
        "lang_model.lm_head": "cpu",
        "lang_model.additional_fc": "cpu",
    }
    loaded = Model.from_pretrained(tmp_path, device_map=device_map, offload_folder=tmp_path / "offload")
    assert loaded.lang_model.model.layers[0].mlp.down_proj.weight.device.type == "meta"
    same(loaded(**inputs).logits, model(**inputs).logits)


def test_half_precision_keeps_the_frequencies_of_the_time_stamp(tmp_path: Path) -> None:
    model, inputs = tiny_model(), batch()
    model.save_pretrained(tmp_path)
    half = Model.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert half.vision_tokenizer.temporal_encoder.pos_emb.inv_freq.dtype == torch.float32
    output = half(**inputs)
    assert output.logits.dtype == torch.bfloat16
    assert output.loss.dtype == torch.float32
    expected = model(**inputs).logits
    assert (output.logits.float() - expected).norm() < 0.03 * expected.norm()


def implementations(model: Model) -> set[str]:
    """What each attention of SigLIP, Phi-3 and ours is set to."""
    own = {
        module.implementation
        for module in model.vision_tokenizer.modules()
        if hasattr(module, "implementation")
    }
    assert own
    siglip = {layer.self_attn.config._attn_implementation for layer in model.vision_encoder.encoder.layers}
    phi3 = {layer.self_attn.config._attn_implementation for layer in model.lang_model.model.layers}
    return own | siglip | phi3


def test_the_attention_implementation_reaches_every_part(tmp_path: Path) -> None:
    model, inputs = tiny_model(), batch()
    assert implementations(model) == {"sdpa"}
    expected = model(**inputs).logits
    model.save_pretrained(tmp_path)
    eager = Model.from_pretrained(tmp_path, attn_implementation="eager")
    assert implementations(eager) == {"eager"}
    found = eager(**inputs).logits
    same(found, expected)
    assert not torch.equal(found, expected), "the same kernels ran"
    eager.set_attn_implementation("sdpa")
    assert implementations(eager) == {"sdpa"}
    assert implementations(Model(tiny_config(attn_implementation="eager"))) == {"eager"}


def lora() -> LoraConfig:
    return LoraConfig(
        r=2, lora_alpha=4, target_modules=["qkv_proj", "to_q", "to_kv"], init_lora_weights=False
    )


def test_lora_trains_a_step_and_only_adapters(tmp_path: Path) -> None:
    inputs = batch()
    adapted = get_peft_model(tiny_model(), lora())
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name for name in trained)
    for part in ("layers.0.self_attn.qkv_proj", "resampler.layers.0.0.to_kv", "process_layers.0.0.to_q"):
        assert any(part in name for name in trained), part
    before = adapted(**inputs).loss
    before.backward()
    for name, parameter in adapted.named_parameters():
        assert (parameter.grad is not None) == (name in trained), name
    # Without a gradient a target was bypassed: peft replaces modules, so each must be called as a module.
    without = [n for n, p in adapted.named_parameters() if n in trained and not p.grad.any()]
    assert not without
    torch.optim.SGD((p for p in adapted.parameters() if p.requires_grad), lr=0.05).step()
    after = adapted(**inputs).loss
    assert after < before

    adapted.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} <= {".json", ".safetensors", ".md"}
    restored = PeftModel.from_pretrained(tiny_model(), tmp_path)
    same(restored(**inputs).loss, after)


def test_merged_lora_equals_the_adapters() -> None:
    """An adapter that is not called where its base weight is read makes a difference here."""
    adapted, inputs = get_peft_model(tiny_model(), lora()).eval(), batch()
    expected = adapted(**inputs).logits
    same(adapted.merge_and_unload()(**inputs).logits, expected, 1e-4)
