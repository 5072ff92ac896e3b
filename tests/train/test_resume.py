from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from blip3v.data.conversation import Turn
from blip3v.data.dataset import VideoDataset
from blip3v.errors import UserError
from blip3v.train.checkpoint import Checkpointer
from blip3v.train.loop import Trainer
from blip3v.train.metrics import Metrics, read_log
from blip3v.train.parallel import SingleDevice
from blip3v.train.progress import Silent

DROPOUT = 0.3


class Stopped(Exception):
    pass


class Run:
    """Training in `folder`, whose dropout and frames are random."""

    def __init__(self, folder: Path, model: Any, recipe: Any, dataset: VideoDataset, collate: Any) -> None:
        self.losses: dict[int, float] = {}
        self.stop_after, self.model = -1, model
        self.checkpoints = Checkpointer(folder / "checkpoints")
        self.trainer = Trainer(
            model,
            recipe,
            dataset,
            collate,
            parallel=SingleDevice("cpu"),
            checkpoints=self.checkpoints,
            metrics=Metrics(folder / "log.jsonl", Silent()),
            on_step=self._on_step,
        )

    def _on_step(self, step: int, loss: torch.Tensor) -> None:
        self.losses[step] = loss.item()
        if step == self.stop_after:
            raise Stopped

    def go(self, resume: bool = False, stop_after: int = -1) -> None:
        self.stop_after = stop_after
        if stop_after > 0:
            with pytest.raises(Stopped):
                self.trainer.run(resume)
        else:
            self.trainer.run(resume)


@pytest.fixture
def new_run(
    new_model: Callable[..., Any], recipe: Callable[..., Any], dataset: VideoDataset, processor: Any
) -> Callable[..., Run]:
    def build(folder: Path, **overrides: Any) -> Run:
        settings = recipe(**{"checkpoint_every": 2, "max_steps": 8, "log_every": 3} | overrides)
        return Run(folder, new_model(DROPOUT), settings, dataset, processor.collate)

    return build


def _same(first: Run, second: Run) -> bool:
    states = first.model.state_dict(), second.model.state_dict()
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_stopped_after_any_step_a_run_goes_on_bit_for_bit(
    tmp_path: Path, new_run: Callable[..., Run]
) -> None:
    straight = new_run(tmp_path / "straight")
    straight.go()
    assert len(set(straight.losses.values())) == 8
    timing = {"samples_per_second", "seconds", "eta_seconds"}
    lines = [
        {key: value for key, value in line.items() if key not in timing}
        for line in read_log(tmp_path / "straight" / "log.jsonl")
    ]
    for stop in range(1, 8):
        folder = tmp_path / f"stopped{stop}"
        new_run(folder).go(stop_after=stop)
        torch.manual_seed(stop)  # a new process would not know the old generator either
        resumed = new_run(folder, workers=stop % 2)
        resumed.go(resume=True)
        # A checkpoint of this step is written after the callback that stopped the run.
        first = (stop - 1) // 2 * 2 + 1
        assert resumed.losses == {step: straight.losses[step] for step in range(first, 9)}
        assert _same(straight, resumed)
        found = [
            {key: value for key, value in line.items() if key not in timing}
            for line in read_log(folder / "log.jsonl")
        ]
        assert found == lines


def test_stopped_twice(tmp_path: Path, new_run: Callable[..., Run]) -> None:
    straight, last = new_run(tmp_path / "a"), new_run(tmp_path / "b")
    straight.go()
    new_run(tmp_path / "b").go(stop_after=3)
    new_run(tmp_path / "b").go(resume=True, stop_after=6)
    last.go(resume=True)
    assert _same(straight, last)


def test_the_losses_do_depend_on_dropout_and_frames(
    tmp_path: Path, new_run: Callable[..., Run], new_model: Callable[..., Any], dataset: VideoDataset
) -> None:
    """Without this, equal losses above would prove little."""
    usual = new_run(tmp_path / "a")
    usual.go()
    quiet = new_run(tmp_path / "b")
    quiet.trainer.model = new_model(0.0)
    quiet.go()
    dataset.seed += 1
    other_frames = new_run(tmp_path / "c")
    other_frames.go()
    assert usual.losses[1] != quiet.losses[1]
    assert usual.losses[1] != other_frames.losses[1]


def test_a_finished_run_resumes_to_nothing(tmp_path: Path, new_run: Callable[..., Run]) -> None:
    done = new_run(tmp_path)
    done.go()
    again = new_run(tmp_path)
    again.go(resume=True)
    assert again.losses == {}
    assert _same(done, again)


def test_resume_without_a_checkpoint_starts(tmp_path: Path, new_run: Callable[..., Run]) -> None:
    run = new_run(tmp_path)
    run.go(resume=True)
    assert list(run.losses) == list(range(1, 9))


def test_other_recipes_and_data_are_refused(
    tmp_path: Path, new_run: Callable[..., Run], dataset: VideoDataset
) -> None:
    new_run(tmp_path).go(stop_after=5)
    with pytest.raises(UserError, match="checkpoints of an earlier run; resume it or choose another folder"):
        new_run(tmp_path).go()
    with pytest.raises(UserError, match=r"batch_size: 3 -> 2; learning_rate: 0\.01 -> 0\.5"):
        new_run(tmp_path, batch_size=2, learning_rate=0.5).go(resume=True)
    new_run(tmp_path, keep_checkpoints=1, log_every=1).go(resume=True, stop_after=6)  # changes no result
    dataset.records = [replace(record, turns=(Turn("what moves ?", "blue"),)) for record in dataset.records]
    with pytest.raises(UserError, match="the data differ"):
        new_run(tmp_path).go(resume=True)


PROGRAM = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
import torch
from torch import nn
from blip3v.train.checkpoint import Checkpointer
from blip3v.train.loop import Trainer
from blip3v.train.metrics import Metrics
from blip3v.train.progress import Silent
from blip3v.train.recipe import Recipe

class Numbers:
    fingerprint = "numbers"
    def __len__(self):
        return 20
    def __getitem__(self, place):
        return torch.arange(4) * place.sample + place.epoch

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 64), nn.Dropout(0.5), nn.Linear(64, 1))
    def forward(self, input_ids, labels, use_cache):
        return SimpleNamespace(loss=self.layers(input_ids / 100).square().mean())

torch.manual_seed(0)
folder = Path(sys.argv[1])
recipe = Recipe("numbers", batch_size=3, max_steps=60, log_every=1, checkpoint_every=3, warmup_steps=5,
                learning_rate=0.01, frozen=())
Trainer(Model(), recipe, Numbers(), lambda rows: dict.fromkeys(("input_ids", "labels"), torch.stack(rows)),
        checkpoints=Checkpointer(folder / "checkpoints"), metrics=Metrics(folder / "log.jsonl", Silent()),
        on_step=lambda step, loss: time.sleep(float(sys.argv[2]))).run(resume=True)
"""


def test_killed_at_random_moments_the_log_is_the_one_of_a_straight_run(tmp_path: Path) -> None:
    def start(name: str, pause: float) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path / name), str(pause)])

    straight = start("straight", 0.0)
    log = tmp_path / "killed" / "log.jsonl"
    generator = random.Random()
    for part in range(2):
        process = start("killed", 0.01)
        wanted = generator.randint(25 * part + 3, 25 * part + 25)
        deadline = time.monotonic() + 120
        while not log.exists() or len(log.read_bytes().splitlines()) < wanted:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(generator.uniform(0, 0.03))
        process.kill()
        assert process.wait() == -9
    assert start("killed", 0.0).wait(120) == 0
    assert straight.wait(120) == 0
    runs = [
        [(line["step"], line["loss"]) for line in read_log(tmp_path / name / "log.jsonl")]
        for name in ("straight", "killed")
    ]
    assert [step for step, _ in runs[0]] == list(range(1, 61))
    assert runs[0] == runs[1]
    left = sorted(path.name for path in (tmp_path / "killed" / "checkpoints").iterdir())
    assert left == ["step-00000057", "step-00000060"]
