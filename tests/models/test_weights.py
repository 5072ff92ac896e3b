"""Released checkpoints: every published name and shape of the 4B model; loading and exporting tiny ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from blip3v import Blip3VideoConfig, Blip3VideoForConditionalGeneration, blip3_video_4b, blip3_video_tiny
from blip3v.errors import UserError
from blip3v.models.weights import (
    INDEX,
    config_from_keys,
    export_released,
    load_released,
    released_shapes,
    to_published,
)

PUBLISHED_FORMS = [("none", None), ("token_learner", 4), ("grouped_ttm", 8), ("grouped_ttm", 4)]


def published_4b_shapes(temporal: str) -> dict[str, tuple[int, ...]]:
    """The names and shapes as the papers and the listings of the releases give them, written out by hand."""
    shapes: dict[str, tuple[int, ...]] = {}

    def norm(name: str, width: int) -> None:
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (width,)

    def linear(name: str, out: int, inner: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (out, inner), (out,)

    vision = "vlm.vision_encoder"
    shapes[f"{vision}.embeddings.patch_embedding.weight"] = (1152, 3, 14, 14)
    shapes[f"{vision}.embeddings.patch_embedding.bias"] = (1152,)
    shapes[f"{vision}.embeddings.position_embedding.weight"] = (729, 1152)
    for i in range(27):
        layer = f"{vision}.encoder.layers.{i}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            linear(f"{layer}.self_attn.{part}", 1152, 1152)
        linear(f"{layer}.mlp.fc1", 4304, 1152)
        linear(f"{layer}.mlp.fc2", 1152, 4304)
        norm(f"{layer}.layer_norm1", 1152)
        norm(f"{layer}.layer_norm2", 1152)
    norm(f"{vision}.post_layernorm", 1152)
    shapes[f"{vision}.head.probe"] = (1, 1, 1152)
    shapes[f"{vision}.head.attention.in_proj_weight"] = (3456, 1152)
    shapes[f"{vision}.head.attention.in_proj_bias"] = (3456,)
    linear(f"{vision}.head.attention.out_proj", 1152, 1152)
    norm(f"{vision}.head.layernorm", 1152)
    linear(f"{vision}.head.mlp.fc1", 4304, 1152)
    linear(f"{vision}.head.mlp.fc2", 1152, 4304)

    tokenizer = "vlm.vision_tokenizer"
    shapes[f"{tokenizer}.latents"] = (128, 1152)

    def feed_forward(name: str) -> None:
        norm(f"{name}.0", 1152)
        shapes[f"{name}.1.weight"], shapes[f"{name}.3.weight"] = (4608, 1152), (1152, 4608)

    for i in range(6):
        attention = f"{tokenizer}.layers.{i}.0"
        norm(f"{attention}.norm_media", 1152)
        norm(f"{attention}.norm_latents", 1152)
        shapes[f"{attention}.to_q.weight"] = (1536, 1152)
        shapes[f"{attention}.to_kv.weight"] = (3072, 1152)
        shapes[f"{attention}.to_out.weight"] = (1152, 1536)
        feed_forward(f"{tokenizer}.layers.{i}.1")
    norm(f"{tokenizer}.norm", 1152)
    linear(f"{tokenizer}.projection", 3072, 1152)

    if temporal == "grouped_ttm":
        encoder = f"{tokenizer}.temporal_encoder"
        shapes[f"{encoder}.initial_memory"] = (128, 4, 1152)
        shapes[f"{encoder}.pos_emb.inv_freq"] = (576,)
        for i in range(4):
            attention = f"{encoder}.ttm_unit.process_layers.{i}.0"
            norm(f"{attention}.norm", 1152)
            for part in ("to_q", "to_k", "to_v"):
                shapes[f"{attention}.{part}.weight"] = (1152, 1152)
            feed_forward(f"{encoder}.ttm_unit.process_layers.{i}.1")
        for part, k in (("read_layer", 128), ("write_layer", 4)):
            learner = f"{encoder}.ttm_unit.{part}"
            norm(f"{learner}.norm", 1152)
            norm(f"{learner}.mlp.0", 1152)
            shapes[f"{learner}.mlp.1.weight"], shapes[f"{learner}.mlp.3.weight"] = (2 * k, 1152), (k, 2 * k)

    text = "vlm.lang_model"
    shapes[f"{text}.model.embed_tokens.weight"] = (32064, 3072)
    shapes[f"{text}.model.embed_tokens.additional_embedding.weight"] = (3, 3072)
    for i in range(32):
        layer = f"{text}.model.layers.{i}"
        shapes[f"{layer}.self_attn.qkv_proj.weight"] = (9216, 3072)
        shapes[f"{layer}.self_attn.o_proj.weight"] = (3072, 3072)
        shapes[f"{layer}.mlp.gate_up_proj.weight"] = (16384, 3072)
        shapes[f"{layer}.mlp.down_proj.weight"] = (3072, 8192)
        shapes[f"{layer}.input_layernorm.weight"] = (3072,)
        shapes[f"{layer}.post_attention_layernorm.weight"] = (3072,)
    shapes[f"{text}.model.norm.weight"] = (3072,)
    linear(f"{text}.lm_head", 32064, 3072)
    linear(f"{text}.lm_head.additional_fc", 3, 3072)
    return shapes


def on_meta(config: Blip3VideoConfig) -> Blip3VideoForConditionalGeneration:
    with torch.device("meta"):
        return Blip3VideoForConditionalGeneration(config)


def tiny(temporal: str = "grouped_ttm", tokens: int | None = 4, **overrides: object) -> Blip3VideoConfig:
    """Small, with depths and widths that differ, so that a mixed-up one shows; with the pooling head."""
    config = blip3_video_tiny(
        temporal,
        tokens,
        frames=3,
        patch_size=16,
        resampler_depth=3,
        resampler_dim_head=12,
        resampler_ff_mult=3,
        temporal_depth=1,
        temporal_ff_mult=5,
        memory_slots=2,
        additional_vocab_size=5,
        **overrides,
    )
    config.vision_config.vision_use_head = True
    config.vision_config.intermediate_size = 40
    config.text_config.intermediate_size = 56
    config.text_config.num_hidden_layers = 3
    config.text_config.num_key_value_heads = 1
    return config


def random_model(config: Blip3VideoConfig) -> Blip3VideoForConditionalGeneration:
    """Every tensor random, buffers too: initial values would hide a tensor that was never loaded."""
    model = Blip3VideoForConditionalGeneration(config).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in model.state_dict().values():
            value.copy_(torch.rand(value.shape, generator=generator) - 0.5)
    return model


def tensors_in(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for shard in sorted(folder.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return found


def count(shapes: dict[str, tuple[int, ...]], prefix: str) -> int:
    return sum(torch.Size(shape).numel() for name, shape in shapes.items() if name.startswith(prefix))


@pytest.mark.parametrize(("temporal", "tokens"), [("none", 1024), ("grouped_ttm", 128)])
def test_the_4b_model_has_exactly_the_published_tensors(temporal: str, tokens: int) -> None:
    model = on_meta(blip3_video_4b(temporal, tokens))
    ours = {to_published(name): tuple(value.shape) for name, value in model.state_dict().items()}
    assert ours == published_4b_shapes(temporal)


def test_parameter_counts_of_the_4b_model() -> None:
    def parameters(module: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    plain, grouped = on_meta(blip3_video_4b("none", 1024)), on_meta(blip3_video_4b("grouped_ttm", 128))
    assert parameters(plain) == 4_359_257_219
    assert parameters(grouped) == 4_418_604_195
    assert parameters(plain.lang_model) == 3_821_130_051
    assert parameters(plain.vision_encoder) == 428_225_600
    assert parameters(plain.vision_encoder) - parameters(plain.vision_encoder.head) == 412_987_248
    assert parameters(plain.vision_tokenizer) == 109_901_568
    assert parameters(grouped.vision_tokenizer.temporal_encoder) == 59_346_976
    for tokens, expected in ((32, 80_384), (128, 332_288)):
        learner = on_meta(blip3_video_4b("token_learner", tokens)).vision_tokenizer.temporal_encoder
        assert parameters(learner) == expected


def test_the_grouped_ttm_of_the_release_has_50_keys() -> None:
    names = published_4b_shapes("grouped_ttm")
    assert sum(name.startswith("vlm.vision_tokenizer.temporal_encoder.") for name in names) == 50
    assert count(names, "vlm.lang_model.") == 3_821_130_051


@pytest.mark.parametrize(
    ("temporal", "tokens"),
    [("none", 1024), ("grouped_ttm", 128), ("grouped_ttm", 32), ("token_learner", 32)],
)
def test_the_config_of_the_4b_model_is_found_in_its_keys(temporal: str, tokens: int) -> None:
    config = blip3_video_4b(temporal, tokens)
    shapes = {to_published(name): tuple(value.shape) for name, value in on_meta(config).state_dict().items()}
    found = config_from_keys(shapes)
    assert found.video_token_spec() == config.video_token_spec() | {"ttm_output": found.ttm_output}
    if temporal == "grouped_ttm":
        assert found.ttm_output == config.ttm_output
    assert {name: tuple(value.shape) for name, value in on_meta(found).state_dict().items()} == {
        name: tuple(value.shape) for name, value in on_meta(config).state_dict().items()
    }


@pytest.mark.parametrize(("temporal", "tokens"), PUBLISHED_FORMS)
def test_load_and_export_are_bit_identical(temporal: str, tokens: int | None, tmp_path: Path) -> None:
    original = random_model(tiny(temporal, tokens))
    export_released(original, tmp_path / "a", max_shard_size="60KB")
    assert len(list((tmp_path / "a").glob("*.safetensors"))) > 2
    assert (tmp_path / "a" / INDEX).is_file()

    config = config_from_keys(released_shapes(tmp_path / "a"), like=tiny())
    assert (config.temporal_encoder, config.video_tokens) == (temporal, original.config.video_tokens)
    loaded = load_released(tmp_path / "a", config)
    export_released(loaded, tmp_path / "b")
    assert not (tmp_path / "b" / INDEX).exists()  # one shard needs none, and loads without

    first, second = tensors_in(tmp_path / "a"), tensors_in(tmp_path / "b")
    assert first.keys() == second.keys()
    assert any("vision_encoder.head" in name for name in first)
    assert any("read_layer" in name for name in first) == (temporal == "grouped_ttm")
    for name, tensor in first.items():
        assert torch.equal(tensor.view(torch.int32), second[name].view(torch.int32)), name

    ids = torch.tensor([[1] + [64] * config.video_tokens + [5, 6]])
    pixels = torch.randn(1, 3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = original(ids, pixels).logits
        found = load_released(tmp_path / "b", config)(ids, pixels).logits
    # Not bit for bit: tensors mapped from a file are aligned otherwise, and BLAS then sums in another order.
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert not loaded.training


def test_config_values_that_no_tensor_shows_come_from_like(tmp_path: Path) -> None:
    config = tiny()
    export_released(random_model(config), tmp_path)
    found = config_from_keys(released_shapes(tmp_path), like=blip3_video_tiny(frames=5))
    assert found.num_frames == 5
    assert found.text_config.num_attention_heads == config.text_config.num_attention_heads
    skeleton = on_meta(found).state_dict()
    assert {name: value.shape for name, value in skeleton.items()} == {
        name: value.shape for name, value in on_meta(config).state_dict().items()
    }


def test_a_checkpoint_without_pooling_head(tmp_path: Path) -> None:
    config = tiny()
    config.vision_config.vision_use_head = False
    export_released(random_model(config), tmp_path)
    assert not any(".head." in name for name in released_shapes(tmp_path))
    load_released(tmp_path, config_from_keys(released_shapes(tmp_path), like=tiny()))


def test_dtype_and_device_map(tmp_path: Path) -> None:
    original = random_model(tiny())
    export_released(original, tmp_path)
    loaded = load_released(tmp_path, tiny(), torch_dtype=torch.bfloat16, device_map={"": "cpu"})
    weight = loaded.lang_model.lm_head.weight
    assert weight.dtype == torch.bfloat16
    assert torch.equal(weight, original.lang_model.lm_head.weight.bfloat16())
    # What no checkpoint stores must be there all the same: positions and rotary frequencies.
    assert loaded.vision_encoder.embeddings.position_ids.tolist() == [[0, 1, 2, 3]]
    rotary = loaded.lang_model.model.rotary_emb.inv_freq
    assert torch.allclose(rotary.double(), 10000.0 ** (-torch.arange(0, 16, 2).double() / 16), rtol=1e-2)


def test_an_encoder_without_published_form_needs_a_config(tmp_path: Path) -> None:
    config = tiny("transformer", 4)
    original = random_model(config)
    export_released(original, tmp_path)
    with pytest.raises(UserError, match=r"layers.*pass the config"):
        config_from_keys(released_shapes(tmp_path), like=tiny())
    loaded = load_released(tmp_path, config)
    assert all(torch.equal(value, original.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_one_error_lists_all_that_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny()
    tensors = {to_published(name): value for name, value in random_model(config).state_dict().items()}
    gone = ("vlm.lang_model.model.norm.weight", "vlm.vision_tokenizer.projection.bias")
    for name in gone:
        del tensors[name]
    tensors["vlm.extra.weight"] = torch.zeros(2)
    tensors["vlm.vision_tokenizer.norm.bias"] = torch.zeros(7)
    save_file({name: value.clone() for name, value in tensors.items()}, tmp_path / "model.safetensors")
    monkeypatch.setattr(
        Blip3VideoForConditionalGeneration, "from_pretrained", lambda *a, **k: pytest.fail("weights read")
    )
    with pytest.raises(UserError) as caught:
        load_released(tmp_path, config)
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        "2 missing",
        *gone,
        "1 unexpected: vlm.extra.weight",
        "1 of a wrong shape: vlm.vision_tokenizer.norm.bias [7] instead of [32]",
    ):
        assert part in message
    with pytest.raises(UserError, match=r"vlm\.vision_tokenizer\.projection\.bias"):
        load_released(tmp_path, config_from_keys(released_shapes(tmp_path), like=config))


def test_the_wrong_config_is_refused_with_both_sides_named(tmp_path: Path) -> None:
    export_released(random_model(tiny()), tmp_path)
    with pytest.raises(UserError, match=r"'mean_pool' and 8 .*unexpected: .*encoder\.initial_memory"):
        load_released(tmp_path, tiny("mean_pool", 8))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_pickled_weights_are_never_opened(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"vlm.x": torch.zeros(1)}, tmp_path / name)
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("unpickled"))
    with pytest.raises(UserError, match=rf"{name}: pickled files can run any code"):
        load_released(tmp_path)


def test_folders_that_hold_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        load_released(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no \.safetensors file"):
        load_released(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match="no safetensors file"):
        load_released(tmp_path)
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": "model-2.safetensors"}}))
    with pytest.raises(UserError, match=r"lacks model-2\.safetensors"):
        load_released(tmp_path)
    (tmp_path / INDEX).write_text("[]")
    with pytest.raises(UserError, match="is no index"):
        load_released(tmp_path)


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_file({"vlm.x": torch.zeros(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(UserError, match=r"repeats vlm\.x"):
        released_shapes(tmp_path)


def test_an_export_never_touches_existing_weights(tmp_path: Path) -> None:
    model = random_model(tiny())
    export_released(model, tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(UserError, match="already holds weights"):
        export_released(model, tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before
