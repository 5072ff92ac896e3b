from __future__ import annotations

import shutil
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
# What a line of the log says of the machine, not of the training.
TIMING = {
    "samples_per_second", "tokens_per_second", "mfu", "stall_share", "memory_bytes", "seconds", "eta_seconds",
}  # fmt: skip


class Stopped(Exception):
    pass


class Run:
    """Training in `folder`, whose dropout and frames are random."""

    def __init__(self, folder: Path, model: Any, recipe: Any, dataset: VideoDataset, collate: Any) -> None:
        self.losses: dict[int, float] = {}
        self.stop_after, self.model = -1, model
        self.skipped: list[str] = []
        self.checkpoints = Checkpointer(folder / "checkpoints", asynchronous=recipe.asynchronous_checkpoints)
        self.trainer = Trainer(
            model,
            recipe,
            dataset,
            collate,
            parallel=SingleDevice("cpu"),
            checkpoints=self.checkpoints,
            metrics=Metrics(folder / "log.jsonl", Silent()),
            on_step=self._on_step,
            on_skip=lambda place, reason: self.skipped.append(reason),
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
            self.checkpoints.close()
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


def _lines(folder: Path) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in line.items() if key not in TIMING}
        for line in read_log(folder / "log.jsonl")
    ]


def test_stopped_after_any_step_a_run_goes_on_bit_for_bit(
    tmp_path: Path, new_run: Callable[..., Run]
) -> None:
    straight = new_run(tmp_path / "straight")
    straight.go()
    assert len(set(straight.losses.values())) == 8
    lines = _lines(tmp_path / "straight")
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
        assert _lines(folder) == lines


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
    with pytest.raises(UserError, match=r"learning_rate: 0\.01 -> 0\.5; frozen: .* -> \[\]"):
        new_run(tmp_path, learning_rate=0.5, frozen=()).go(resume=True)
    with pytest.raises(UserError, match=r"its steps had 6 samples.*is 4 here; choose a batch size"):
        new_run(tmp_path, batch_size=2).go(resume=True)
    new_run(tmp_path, keep_checkpoints=1, log_every=1).go(resume=True, stop_after=6)  # changes no result
    dataset.records = [replace(record, turns=(Turn("what moves ?", "blue"),)) for record in dataset.records]
    with pytest.raises(UserError, match="the data differ"):
        new_run(tmp_path).go(resume=True)


@pytest.mark.parametrize("workers", [0, 2])
def test_corrupt_videos_cost_their_samples_and_not_the_run(
    tmp_path: Path,
    new_run: Callable[..., Run],
    annotations: Path,
    dataset: VideoDataset,
    workers: int,
) -> None:
    shutil.copytree(annotations.parent, tmp_path / "clips")
    for clip, name in ((2, "4.png"), (5, "0.png")):
        (tmp_path / "clips" / f"clip{clip}" / name).write_bytes(b"\x89PNG torn")
    dataset.records = [
        replace(record, video=tmp_path / "clips" / record.video.name)
        for record in dataset.records
        if record.video is not None
    ]
    straight = new_run(tmp_path / "straight")
    straight.go()
    new_run(tmp_path / "stopped").go(stop_after=3)
    resumed = new_run(tmp_path / "stopped", workers=workers)
    resumed.go(resume=True)
    assert _same(straight, resumed)
    assert all("png" in reason for reason in straight.skipped)
    last = read_log(tmp_path / "stopped" / "log.jsonl")[-1]
    assert last["skipped"] == len(straight.skipped) >= 3  # counted over both parts
