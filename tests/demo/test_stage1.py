from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from blip3v.data.batches import Place
from blip3v.demo.model import LATENT_GRID, demo_config, demo_processor, stage1_weights
from blip3v.demo.render import SIZE
from blip3v.demo.scenes import still
from blip3v.demo.stage1 import (
    DESCRIBE_IMAGE,
    StillImages,
    balance_tokens,
    build_stage1,
    demo_images,
    save_stage1,
)
from blip3v.models.modeling import Blip3VideoForConditionalGeneration
from blip3v.models.processing import IGNORE
from blip3v.models.vision import encode_frames
from blip3v.video import frames_to_pixels


def test_a_sample_is_an_image_and_its_caption() -> None:
    processor = demo_processor(demo_config("none", LATENT_GRID**2, 1))
    images = StillImages(processor, seed=4)
    sample = images[Place(2, 7)]
    scene = still(np.random.default_rng([4, 2, 7]))
    torch.testing.assert_close(sample["pixel_values_videos"][0], frames_to_pixels(scene.frames(), SIZE))
    answer = processor.tokenizer.decode(
        sample["labels"][sample["labels"] != IGNORE], skip_special_tokens=True
    )
    assert answer.split() == scene.caption.split()
    text = processor.tokenizer.decode(sample["input_ids"], skip_special_tokens=True)
    assert DESCRIBE_IMAGE.removesuffix(" .") in text
    assert (sample["input_ids"] == processor.image_token_id).sum() == LATENT_GRID**2


def test_places_decide_images() -> None:
    images = StillImages(demo_processor(demo_config("none", LATENT_GRID**2, 1)), seed=4)
    places = [Place(epoch, index) for epoch in range(2) for index in range(3)]
    first = [images[place]["pixel_values_videos"] for place in places]
    for place, image in zip(reversed(places), reversed(first), strict=True):
        torch.testing.assert_close(images[place]["pixel_values_videos"], image, rtol=0, atol=0)
    assert len({image.numpy().tobytes() for image in first}) == len(places)


def test_three_steps_train_every_part_and_save_what_the_package_ships(tmp_path: Path) -> None:
    trainer = build_stage1(replace(demo_images(), max_steps=3, warmup_steps=0), tmp_path)
    before = {name: tensor.clone() for name, tensor in trainer.model.named_parameters()}
    result = trainer.run()
    assert result.steps == 3
    still_there = [
        name for name, tensor in trainer.model.named_parameters() if torch.equal(tensor, before[name])
    ]
    # The video's tokens stand in the places of `<image>`, whose own embedding nobody reads.
    assert still_there == ["lang_model.additional_embedding.weight"]
    path = save_stage1(trainer.model, tmp_path / "shipped")
    stored = load_file(path)
    assert set(stored) == set(stage1_weights())
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert path.stat().st_size <= 2 * 2**20


def test_balanced_tokens_have_unit_scale_and_the_same_answers() -> None:
    torch.manual_seed(0)
    model = Blip3VideoForConditionalGeneration(demo_config("none", LATENT_GRID**2, 1)).eval()
    resampler = model.vision_tokenizer.resampler
    with torch.no_grad():
        resampler.latents.mul_(7)
        for layer in resampler.layers:
            layer[0].to_out.weight.mul_(9)
            layer[1][3].weight.mul_(11)
        pixels = torch.randn(4, 1, 3, 48, 48)
        before = model.encode_video(pixels)
        balance_tokens(model, pixels)
        tokens = resampler(encode_frames(model.vision_encoder, pixels))
    assert tokens.square().mean().sqrt().item() == pytest.approx(1, rel=1e-3)
    torch.testing.assert_close(model.encode_video(pixels), before, rtol=1e-3, atol=1e-4)
