from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from blip3v.errors import UserError
from blip3v.train.checkpoint import Checkpointer, export, random_state, set_random_state, write_aside
from blip3v.train.optimizer import build_adamw
from blip3v.train.recipe import Recipe


class Tied(nn.Module):
    """Two names for one weight, one parameter that never has a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5)
        self.head.weight = self.embedding.weight
        self.unused = nn.Linear(2, 2)

    def forward(self) -> torch.Tensor:
        return self.head(self.embedding.weight).square().sum()


def _trained(seed: int, steps: int = 3) -> tuple[Tied, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = Tied()
    optimizer = build_adamw(model, Recipe("t", learning_rate=0.1))
    for _ in range(steps):
        optimizer.zero_grad()
        model().backward()
        optimizer.step()
    return model, optimizer


def _step(model: Tied, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    optimizer.zero_grad()
    model().backward()
    optimizer.step()
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_a_loaded_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    model, optimizer = _trained(0)
    checkpoints = Checkpointer(tmp_path)
    path = checkpoints.save(3, model, optimizer, {"note": [1, "x"]})
    random = torch.rand(3)
    other, other_optimizer = _trained(1, steps=1)
    checkpoints.load(path, other, other_optimizer)
    assert torch.equal(torch.rand(3), random)
    expected, found = _step(model, optimizer), _step(other, other_optimizer)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert other.head.weight is other.embedding.weight
    assert checkpoints.read_state(path) == {"format": 1, "step": 3, "note": [1, "x"]}
    assert {file.suffix for file in path.iterdir()} == {".safetensors", ".json"}


def test_the_last_ones_are_kept_in_the_order_of_their_steps(tmp_path: Path) -> None:
    model, optimizer = _trained(0)
    checkpoints = Checkpointer(tmp_path / "new" / "folder", keep=2)
    assert checkpoints.latest() is None
    for step in (5, 90, 100, 1000):
        checkpoints.save(step, model, optimizer, {})
    assert [path.name for path in checkpoints.all()] == ["step-00000100", "step-00001000"]
    assert checkpoints.latest() == checkpoints.all()[-1]
    assert len(list(checkpoints.folder.iterdir())) == 2


def test_a_half_written_checkpoint_is_never_picked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, optimizer = _trained(0)
    checkpoints = Checkpointer(tmp_path)
    checkpoints.save(1, model, optimizer, {})

    def die(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    # Killed before each of the files, and after all of them but before the rename.
    for target in ("save_model", "save_file", "json.dumps", "_flush"):
        with monkeypatch.context() as patch:
            patch.setattr(f"blip3v.train.checkpoint.{target}", die)
            with pytest.raises(KeyboardInterrupt):
                checkpoints.save(2, model, optimizer, {})
        assert len(list(tmp_path.iterdir())) == 2  # something is left over
        assert [path.name for path in checkpoints.all()] == ["step-00000001"]
    checkpoints.save(2, model, optimizer, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", "step-00000002"]


def test_damaged_or_foreign_checkpoints_are_clear_errors(tmp_path: Path) -> None:
    model, optimizer = _trained(0)
    checkpoints = Checkpointer(tmp_path)
    path = checkpoints.save(1, model, optimizer, {})
    (path / "model.safetensors").write_bytes((path / "model.safetensors").read_bytes()[:-9])
    with pytest.raises(UserError, match=r"cannot resume from .*remove it"):
        checkpoints.load(path, model, optimizer)
    path = checkpoints.save(2, model, optimizer, {})
    with pytest.raises(UserError, match="cannot resume"):
        other = nn.Linear(3, 3)
        checkpoints.load(path, other, build_adamw(other, Recipe("t")))
    model.head.bias.requires_grad_(False)
    with pytest.raises(UserError, match=r"head\.bias, which is frozen"):
        checkpoints.load(path, model, build_adamw(model, Recipe("t")))
    (path / "state.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(UserError, match="format 99"):
        checkpoints.read_state(path)
    (path / "state.json").write_text("{")
    with pytest.raises(UserError, match=r"no readable state\.json"):
        checkpoints.read_state(path)


def test_random_state_round_trip() -> None:
    state = random_state()
    assert all(value.dtype == torch.uint8 for value in state.values())
    first = torch.rand(4)
    set_random_state(state)
    assert torch.equal(torch.rand(4), first)


def test_export_replaces_the_last_one_only_when_it_is_complete(tmp_path: Path) -> None:
    class Part:
        def __init__(self, name: str, text: str | None) -> None:
            self.name, self.text = name, text

        def save_pretrained(self, folder: Path) -> None:
            if self.text is None:
                raise KeyboardInterrupt
            (folder / self.name).write_text(self.text)

    target = tmp_path / "model"
    export(target, Part("m", "1"), Part("p", "1"))
    with pytest.raises(KeyboardInterrupt):
        export(target, Part("m", "2"), Part("p", None))
    assert (target / "m").read_text() == "1"
    export(target, Part("m", "3"), Part("p", "3"))
    assert {file.name: file.read_text() for file in target.iterdir()} == {"m": "3", "p": "3"}
    assert list(tmp_path.iterdir()) == [target]


def test_write_aside_leaves_other_folders_alone(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    write_aside(tmp_path / "new", lambda folder: (folder / "x").touch())
    assert (tmp_path / "other").is_dir()
    shutil.rmtree(tmp_path / "new")
