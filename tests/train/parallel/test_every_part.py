from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from blip3v.train.optimizer import frozen
from blip3v.train.parallel import SingleDevice
from blip3v.train.parallel.every_part import run_every_part
from tests.train.parallel.programs import micro_batches, new_model


def _batch(video: bool) -> dict[str, Tensor]:
    return next(b for b in micro_batches(1) if ("pixel_values_videos" in b) == video)


@pytest.mark.parametrize("trained_vision", [False, True])
def test_text_alone_gives_the_vision_side_zero_gradients_and_changes_nothing_else(
    trained_vision: bool,
) -> None:
    plain = new_model()
    prepared = copy.deepcopy(plain)
    run_every_part(prepared)
    run_every_part(prepared)  # once is enough
    for video in (False, True):
        for model in (plain, prepared):
            with frozen(model, () if trained_vision else ("vision_encoder",)):
                model.zero_grad()
                loss = model(**_batch(video), use_cache=False).loss
                loss.backward()
        expected = dict(plain.named_parameters())
        for name, parameter in prepared.named_parameters():
            gradient = expected[name].grad
            side = "vision_encoder" if trained_vision else "vision_tokenizer"
            read = "read_layer" not in name and ".head." not in name
            if not video and name.startswith((side, "vision_tokenizer")) and read:
                assert gradient is None
                assert parameter.grad is not None, name
                assert not parameter.grad.any(), name
            elif gradient is None:
                assert parameter.grad is None, name
            else:
                assert torch.equal(parameter.grad, gradient), name


def test_without_gradients_and_on_other_models_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = new_model(), _batch(video=False)
    with torch.no_grad():
        expected = model(**batch, use_cache=False).loss
        SingleDevice("cpu").wrap(model)
        monkeypatch.setattr(model.vision_tokenizer, "forward", None)
        assert torch.equal(model(**batch, use_cache=False).loss, expected)
    other = nn.Linear(2, 2)
    run_every_part(other)
    assert not other._forward_pre_hooks


def test_text_alone_can_train_where_the_language_model_is_frozen() -> None:
    model = new_model()
    with frozen(model, ("vision_encoder", "lang_model")):
        wrapped = SingleDevice("cpu").wrap(model)
        loss = wrapped(**_batch(video=False), use_cache=False).loss
        loss.backward()  # of zeros, and no error
    assert not any(p.grad.any() for p in model.parameters() if p.grad is not None)
