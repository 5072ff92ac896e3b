"""Each stage of the small model: what goes through it and what comes out."""

from __future__ import annotations

import pytest
import torch

from blip3v.errors import UserError
from blip3v.profiling.request import Request
from blip3v.profiling.stages import config_of, stage_call, text_tokens_of

FRAMES, TOKENS, BATCH = 2, 32, 3


def request(name: str, **more: object) -> Request:
    return Request("stage", name, frames=FRAMES, batch=BATCH, text_tokens=5, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name, shape",
    [
        ("vision", (BATCH, FRAMES, 144, 128)),
        ("resampler", (BATCH, FRAMES, 128, 128)),
        ("temporal", (BATCH, TOKENS, 128)),
        ("prefill", (BATCH, 1, None)),
        ("decode", (BATCH, 1, None)),
    ],
)
def test_shapes(name: str, shape: tuple[int | None, ...]) -> None:
    config = config_of(request(name))
    vocabulary = config.base_vocab_size + config.additional_vocab_size
    out = stage_call(request(name), "cpu")()
    assert out.shape == tuple(vocabulary if size is None else size for size in shape)
    assert not out.requires_grad and out.isfinite().all()


def test_every_decode_step_is_the_same() -> None:
    call = stage_call(request("decode"), "cpu")
    assert torch.equal(call(), call())


@pytest.mark.parametrize("name", ["vision", "resampler", "temporal", "prefill"])
def test_gradients(name: str) -> None:
    gradients = stage_call(request(name, direction="forward+backward"), "cpu")()
    used = [gradient for gradient in gradients if gradient is not None]
    assert len(used) > len(gradients) // 2 and all(gradient.isfinite().all() for gradient in used)


def test_an_encoder_without_parameters_has_the_gradient_of_its_input() -> None:
    gradients = stage_call(request("temporal", encoder="mean_pool", direction="forward+backward"), "cpu")()
    assert [gradient.shape for gradient in gradients] == [(BATCH, FRAMES, 128, 128)]


@pytest.mark.parametrize(
    "preset, encoder, tokens, expected",
    [
        ("4b", "grouped_ttm", None, (3072, 32)),
        ("4b", "grouped_ttm", 128, (3072, 128)),
        ("small", "grouped_ttm", None, (512, 32)),
        ("small", "mean_pool", None, (512, 128)),
        ("small", "none", None, (512, FRAMES * 128)),
        ("small", "tarsier", None, (512, FRAMES * 144)),
    ],
)
def test_presets(preset: str, encoder: str, tokens: int | None, expected: tuple[int, int]) -> None:
    asked = Request("stage", "vision", preset=preset, encoder=encoder, tokens=tokens, frames=FRAMES)  # type: ignore[arg-type]
    config = config_of(asked)
    assert (config.text_config.hidden_size, config.video_tokens) == expected


def test_text_is_as_long_as_in_the_benchmarks() -> None:
    asked = Request("step"), Request("step", preset="4b"), Request("step", text_tokens=7)
    assert [text_tokens_of(request) for request in asked] == [16, 128, 7]


@pytest.mark.parametrize(
    "asked, reason",
    [
        (request("decode", direction="forward+backward"), "no backward pass"),
        (request("resampler", encoder="joint_perceiver"), "has no resampler"),
        (request("temporal", encoder="lstm"), "lstm"),
        (Request("stage", "prefill", text_tokens=5000), "too many for this language model, which takes 2048"),
    ],
)
def test_refusals(asked: Request, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        stage_call(asked, "cpu")
