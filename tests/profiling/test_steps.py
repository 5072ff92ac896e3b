from __future__ import annotations

import pytest
import torch

from blip3v.errors import UserError
from blip3v.profiling.request import Request
from blip3v.profiling.steps import TrainingSteps

REQUEST = Request("step", frames=2, batch=2, text_tokens=6, encoder="mean_pool")


def test_steps_train_all_but_the_vision_encoder() -> None:
    torch.manual_seed(0)
    steps = TrainingSteps(REQUEST, "cpu")
    before = {name: tensor.clone() for name, tensor in steps.model.state_dict().items()}
    done: list[int] = []
    steps.run(2, done.append)
    assert done == [1, 2]
    moved = {
        name for name, tensor in steps.model.state_dict().items() if not torch.equal(tensor, before[name])
    }
    for part in ("vision_tokenizer.resampler", "vision_tokenizer.projection", "lang_model.model"):
        assert any(name.startswith(part) for name in moved), part
    assert not any(name.startswith("vision_encoder") for name in moved)


def test_the_published_model_is_not_trained_on_a_cpu() -> None:
    with pytest.raises(UserError, match="needs a GPU of 80 GB"):
        TrainingSteps(Request("step", preset="4b"), "cpu")
