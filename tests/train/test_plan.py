from __future__ import annotations

import gc
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from blip3v.errors import UserError
from blip3v.models.configuration import blip3_video_4b, blip3_video_tiny
from blip3v.models.cost import training_flops
from blip3v.models.cost.training_memory import Load, Sharing, count_parameters, training_memory
from blip3v.models.modeling import Blip3VideoForConditionalGeneration
from blip3v.train.activation import checkpoint_activations
from blip3v.train.optimizer import learning_rate
from blip3v.train.plan import Device, Utilisation, measured_utilisation, plan
from blip3v.train.plan_text import plan_text
from blip3v.train.recipe import Recipe, instruction_tuning, video_captions
from tests.models.cost.conftest import Held

H100 = Device.named("H100")


def test_steps_samples_and_checkpoints_of_the_paper_s_second_stage() -> None:
    found = plan(video_captions(), blip3_video_4b(), 900_000, 8, H100)
    assert (found.samples_per_step, found.total_steps) == (128, math.ceil(900_000 / 128))
    assert found.checkpoints == 15  # every 500 of 7032 steps, and the last
    assert found.hours_published == pytest.approx(900_000 / 8.2 / 8 / 3600)
    assert found.parallel == "fsdp"
    # The rate of the last planned step is the end of the cosine.
    assert learning_rate(found.total_steps, found.total_steps, video_captions()) == pytest.approx(0)


def test_a_step_never_crosses_an_epoch_and_max_steps_wins() -> None:
    recipe = replace(instruction_tuning(), epochs=3, accumulation=2)
    assert plan(recipe, blip3_video_tiny(), 17, 2, H100).total_steps == 6  # 17 samples, 16 a step
    assert plan(replace(recipe, max_steps=5), blip3_video_tiny(), 17, 2, H100).total_steps == 5


def test_hours_are_counted_flops_over_what_the_devices_do() -> None:
    recipe = replace(video_captions(), epochs=2)
    found = plan(
        recipe, blip3_video_4b(), 1000, 4, H100, [160] * 1000, utilisation=Utilisation(0.45, "a test")
    )
    flops = training_flops(blip3_video_4b(), 8, 128, 1, logits=64)
    assert found.flops_per_sample == flops
    assert found.hours == pytest.approx(2 * 1000 * flops / (4 * 989.4e12 * 0.45) / 3600)
    assert found.samples_per_second == pytest.approx(4 * 989.4e12 * 0.45 / flops)
    assert "assumption" not in plan_text(found)


def test_without_a_data_sheet_hours_are_unknown() -> None:
    found = plan(instruction_tuning(), blip3_video_tiny(), 100, device=Device("CPU"))
    assert (found.hours, found.samples_per_second, found.utilisation) == (None, None, None)
    assert "unknown: no data sheet of CPU" in plan_text(found)
    with pytest.raises(UserError, match="H200"):
        Device.named("TPU")


def test_assumptions_are_marked() -> None:
    found = plan(instruction_tuning(), blip3_video_4b(), 100, 1, H100)
    assert "128 tokens of text per sample" in found.assumptions
    assert "an assumption" in plan_text(found)
    known = plan(instruction_tuning(), blip3_video_4b(), 100, 1, H100, np.full(100, 200))
    assert known.tokens_per_sample == 200
    assert not any("tokens of text per sample" in text for text in known.assumptions)


def test_long_samples_are_cut_as_the_recipe_cuts_them_and_need_more_memory() -> None:
    recipe = replace(instruction_tuning(), max_length=400)
    lengths = [100] * 96 + [5000] * 4
    found = plan(recipe, blip3_video_4b(), 100, 1, H100, lengths)
    assert found.tokens_per_sample == (96 * 100 + 4 * 400) / 100
    all_long = plan(recipe, blip3_video_4b(), 100, 1, H100, [400] * 100)
    assert found.memory_bytes < found.memory_longest == all_long.memory_bytes
    padded = plan(replace(recipe, packed=False), blip3_video_4b(), 100, 1, H100, lengths)
    assert padded.memory_bytes > found.memory_bytes


@pytest.mark.parametrize(
    ("parallel", "world", "local", "shards"),
    [("single", 1, 1, 1), ("ddp", 8, 8, 1), ("fsdp", 32, 8, 32), ("hybrid", 32, 8, 8), ("auto", 8, 8, 8)],
)
def test_moments_are_shared_by_the_devices_of_a_shard(
    parallel: Any, world: int, local: int, shards: int
) -> None:
    recipe = replace(instruction_tuning(), parallel=parallel)
    found = plan(recipe, blip3_video_4b(), 1000, world, H100, local_world_size=local)
    moments = next(part.bytes for part in found.memory if part.name.startswith("moments"))
    assert moments == pytest.approx(8 * 3_990_126_691 / shards, abs=8)


@pytest.mark.parametrize(
    ("settings", "bytes_each"), [({}, 0), ({"vision": "graph"}, 2), ({"vision_fp8": True}, 1)]
)
def test_the_frozen_vision_encoder_s_copy_is_counted(settings: dict[str, Any], bytes_each: int) -> None:
    found = plan(replace(instruction_tuning(), **settings), blip3_video_4b(), 100, 1, H100)
    copies = [part.bytes for part in found.memory if part.name == "vision encoder, copy"]
    assert sum(copies) == bytes_each * (4_418_684_579 - 3_990_126_691)


def test_a_checkpoint_is_as_large_as_what_it_holds(
    recipe: Callable[..., Recipe], new_model: Callable[..., Blip3VideoForConditionalGeneration]
) -> None:
    model = new_model()
    found = plan(recipe(), model.config, 7)
    model.vision_encoder.requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    states = sum(t.nbytes for s in optimizer.state.values() for name, t in s.items() if name != "step")
    assert found.checkpoint_bytes == sum(p.nbytes for p in model.parameters()) + states
    assert found.disk_bytes > 3 * found.checkpoint_bytes  # two are kept while a third is written


@pytest.mark.parametrize("mode", ["none", "selective", "full"])
def test_what_a_forward_leaves_behind_is_what_is_counted(mode: Any) -> None:
    """On a real model, by the real ways to recompute; all tensors that are alive when the loss is there."""
    config = blip3_video_tiny("transformer", 8, 4, width=64, image_size=64)
    torch.manual_seed(0)
    model = Blip3VideoForConditionalGeneration(config).train()
    model.vision_encoder.requires_grad_(False)
    ids = torch.full((2, 208), 3)
    ids[:, :8] = config.image_token_id
    features = torch.randn(2, 4, config.patch_grid**2, 64)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "video_features": features}
    with checkpoint_activations(model, mode), Held() as alive:
        loss = model(**inputs, labels=ids.clamp(max=9), use_cache=False).loss
        gc.collect()
        left = alive.now
    del loss
    logits = ids.numel() * (config.text_config.vocab_size + 3) * 4
    load = Load(2, 4, ids.numel(), ids.numel(), features_given=True)
    parameters = count_parameters(config, ("vision_encoder",))
    parts = training_memory(config, parameters, load, mode, Sharing(autocast=False))
    counted = sum(part.bytes for part in parts if part.name.startswith("activations")) + logits
    assert 0.75 < counted / left < 1.3


def test_nothing_of_the_model_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    devices = set()
    register = torch.nn.Module.register_parameter

    def noticed(self: Any, name: str, parameter: Any) -> None:
        if parameter is not None:
            devices.add(parameter.device.type)
        register(self, name, parameter)

    monkeypatch.setattr(torch.nn.Module, "register_parameter", noticed)
    plan(instruction_tuning(), blip3_video_4b(), 100, 1, H100)
    assert devices == {"meta"}


def test_a_plan_is_plain_json_and_its_text_names_every_part() -> None:
    found = plan(instruction_tuning(), blip3_video_4b(), 100, 8, H100)
    plain = json.loads(json.dumps(found.to_json()))
    assert plain["memory_bytes"] == sum(part["bytes"] for part in plain["memory"])
    text = plan_text(found)
    for part in found.memory:
        assert part.name in text and part.formula in text


def _results(folder: Path, name: str, gpu: str, rows: list[dict[str, Any]]) -> None:
    (folder / "device").mkdir(exist_ok=True)
    common = {"level": "train", "ok": True, "mfu": 0.1}
    file = {"machine": {"gpu": gpu}, "rows": [common | row for row in rows]}
    (folder / "device" / f"{name}.json").write_text(json.dumps(file))


def test_the_nearest_measurement_of_that_device_is_taken(tmp_path: Path) -> None:
    rows = [
        {"case": "4b_32_tokens_batch_4", "tokens": 32, "batch": 4, "mfu": 0.31},
        {"case": "4b_32_tokens_batch_16", "tokens": 32, "batch": 16, "mfu": 0.44},
        {"case": "4b_128_tokens_batch_16", "tokens": 128, "batch": 16, "mfu": 0.47},
        {"case": "4b_32_tokens_batch_16", "tokens": 32, "batch": 16, "mfu": 0.99, "ok": False},
    ]
    _results(tmp_path, "train", "NVIDIA H200", rows)
    (tmp_path / "device" / "other.json").write_text("[1]")
    found = measured_utilisation(tmp_path, "NVIDIA H200", 32, 12)
    assert found is not None and found.mfu == 0.44
    assert "4b_32_tokens_batch_16 in device/train.json" in found.source
    assert measured_utilisation(tmp_path, "NVIDIA H100", 32, 12) is None
    assert measured_utilisation(tmp_path / "absent", "NVIDIA H200", 32, 12) is None
