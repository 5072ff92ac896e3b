"""No setup is believed: what trains wrong, or sees other features, is found."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.train import right
from benchmarks.train.right import check
from benchmarks.train.setups import SETUPS, Setup
from blip3v.data import packing
from blip3v.models import packed_attention
from blip3v.models.configuration import blip3_video_tiny
from blip3v.models.fp8 import layer
from blip3v.models.modeling import Blip3VideoForConditionalGeneration

FP8 = "blip3v with fp8"


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Blip3VideoForConditionalGeneration:
    # Without torch.compile, which takes a minute.
    monkeypatch.setattr(right, "SETUPS", {**SETUPS, FP8: Setup({"vision_fp8": True})})
    monkeypatch.setattr("benchmarks.train.setups.SETUPS", right.SETUPS)
    torch.manual_seed(0)
    return Blip3VideoForConditionalGeneration(blip3_video_tiny())


def failed(model: Any, name: str) -> list[str]:
    return [verdict.name for verdict in check(model, "small", name) if not verdict.ok]


@pytest.mark.parametrize("name", ["blip3v", "blip3v without packing", "eager reference"])
def test_the_setups_are_right(model: Any, name: str) -> None:
    before = {key: value.clone() for key, value in model.state_dict().items()}
    verdicts = check(model, "small", name)
    assert [verdict.name for verdict in verdicts] == ["loss", "all gradients"]
    assert all(verdict.ok for verdict in verdicts), verdicts
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_segments_that_see_each_other_are_found(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = packed_attention.PackedCausalMask.ends
    monkeypatch.setattr(
        packed_attention.PackedCausalMask, "ends", lambda mask: [ends(mask)[0], ends(mask)[-1]]
    )
    assert "loss" in failed(model, "blip3v")


def test_a_label_at_the_wrong_place_is_found(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(samples: Any, *rest: Any) -> dict[str, Any]:
        batch = packing.pack(samples, *rest)
        return batch | {"logits_to_keep": batch["logits_to_keep"].clone() - 1}

    monkeypatch.setattr("blip3v.profiling.synthetic.pack", wrong)
    assert "loss" in failed(model, "blip3v")


def test_fp8_is_judged_in_three_parts(model: Any) -> None:
    verdicts = check(model, "small", FP8)
    names = ["loss", "all gradients", "FP8 features", "loss with FP8 against bfloat16 features"]
    assert [verdict.name for verdict in verdicts] == names
    assert all(verdict.ok for verdict in verdicts), verdicts
    loss, gradients, features, _ = verdicts
    assert loss.relative < 1e-6 and gradients.relative < 1e-5, "behind the features nothing may be rounded"
    assert 0.01 < features.relative < right.FEATURES


def test_wrong_features_are_found(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    quantised = layer.quantised
    monkeypatch.setattr(layer, "quantised", lambda x: quantised(x.roll(1, -1)))
    found = failed(model, FP8)
    assert "FP8 features" in found and "loss" not in found


def test_a_loss_that_fp8_moves_is_found(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(right, "LOSS", 1e-7)
    assert failed(model, FP8) == ["loss with FP8 against bfloat16 features"]
