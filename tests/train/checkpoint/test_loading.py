from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from blip3v.errors import UserError
from blip3v.train.checkpoint import Checkpointer, load_weights
from blip3v.train.checkpoint.loading import read_state


def test_other_formats_say_so(tmp_path: Path) -> None:
    for text, complaint in (
        ('{"format": 1, "step": 3}', r"format 1, this version reads 2; finish that run with the version"),
        ("{", r"no readable state\.json; remove this folder"),
    ):
        (tmp_path / "state.json").write_text(text)
        with pytest.raises(UserError, match=complaint):
            read_state(tmp_path)


def test_weights_alone_for_use_or_export(tmp_path: Path, trained: Callable[..., Any]) -> None:
    model, optimizer = trained(0)
    path = Checkpointer(tmp_path).save(1, model, optimizer, {})
    other, _ = trained(1)
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    load_weights(path, other)
    assert torch.equal(torch.rand(2), expected)  # no generator is touched
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in other.state_dict().items())


def test_another_number_of_ranks_starts_the_generators_from_seed_step_and_rank(
    tmp_path: Path, trained: Callable[..., Any]
) -> None:
    model, optimizer = trained(7)
    checkpoints = Checkpointer(tmp_path)
    drawn = []
    for number in (1, 2):
        path = checkpoints.save(number, model, optimizer, {})
        state = json.loads((path / "state.json").read_text())
        assert (state["seed"], state["ranks"]) == (7, 1)
        (path / "state.json").write_text(json.dumps(state | {"ranks": 3}))
        for _ in range(2):
            checkpoints.load(path, model, optimizer)
            drawn.append(torch.rand(2).tolist())
    assert drawn[0] == drawn[1] != drawn[2] == drawn[3]
