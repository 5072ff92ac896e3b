from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from blip3v.models.configuration import Blip3VideoConfig, blip3_video_tiny
from blip3v.train.recipe import instruction_tuning
from blip3v.train.run_files import record_start


class _Process:
    device, world_size = torch.device("cpu"), 2

    def __init__(self, rank: int = 0) -> None:
        self.rank = rank

    def total(self, value: int) -> int:
        return value


def _record(out: Path, rank: int = 0, step: int = 0, **overrides: Any) -> None:
    recipe = replace(instruction_tuning(), **overrides)
    record_start(out, recipe, Path("data.jsonl"), "abc", blip3_video_tiny(), _Process(rank), step)


def test_a_run_can_be_understood_from_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["blip3v", "train", "a recipe"])
    out = tmp_path / "new"
    _record(out, seed=7)
    run = json.loads((out / "run.json").read_text())
    assert run["recipe"] == replace(instruction_tuning(), seed=7).to_json()
    assert run["data"] == {"path": str(Path("data.jsonl").resolve()), "fingerprint": "abc"}
    model = Blip3VideoConfig.from_dict(run["model"])
    assert model.video_token_spec() == blip3_video_tiny().video_token_spec()
    assert "recomputation" in run["mfu"]["formula"] and run["mfu"]["peak_flops_per_second"] is None
    (start,) = run["starts"]
    assert (start["command"], start["world_size"], start["device"]) == ("blip3v train 'a recipe'", 2, "CPU")
    assert torch.__version__.startswith(start["versions"]["torch"].split("+")[0])
    assert [path.name for path in out.iterdir()] == ["run.json"]


def test_a_resume_is_added_with_what_it_changed(tmp_path: Path) -> None:
    _record(tmp_path)
    _record(tmp_path, step=40, log_every=3)
    run = json.loads((tmp_path / "run.json").read_text())
    assert [start["step"] for start in run["starts"]] == [0, 40]
    assert run["starts"][1]["recipe_changes"] == {"log_every": [10, 3]}
    assert run["recipe"]["log_every"] == 3


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    _record(tmp_path / "new", rank=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["{", '["a"]', '{"starts": 3}'])
def test_an_unreadable_file_is_kept_aside(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    _record(tmp_path)
    assert (tmp_path / "run.json.unreadable").read_text() == text
    assert len(json.loads((tmp_path / "run.json").read_text())["starts"]) == 1


def test_a_kill_while_writing_leaves_the_file_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _record(tmp_path)
    before = (tmp_path / "run.json").read_text()

    def die(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("blip3v.train.run_files.os.replace", die)
        with pytest.raises(KeyboardInterrupt):
            _record(tmp_path, step=9)
    assert (tmp_path / "run.json").read_text() == before
    _record(tmp_path, step=9)
    assert len(json.loads((tmp_path / "run.json").read_text())["starts"]) == 2
