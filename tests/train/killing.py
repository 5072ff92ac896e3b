"""Trains a tiny model and kills it; a program of its own, which imports once and forks every life.

    python killing.py FOLDER KILLS SEED

trains in FOLDER/straight without being disturbed, and in FOLDER/killed with `kill -9` at KILLS random
moments, every fourth while a checkpoint is being written. Prints, as JSON, how many lives ended in the middle
of a write.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from blip3v.train.checkpoint import Checkpointer
from blip3v.train.loop import Trainer
from blip3v.train.metrics import Metrics
from blip3v.train.parallel import SingleDevice
from blip3v.train.progress import Silent
from blip3v.train.recipe import Recipe

STEPS, EVERY, LEAP = 200, 3, 6
RECIPE = Recipe(
    "numbers", batch_size=3, max_steps=STEPS, log_every=1, checkpoint_every=EVERY, warmup_steps=5,
    learning_rate=0.01, frozen=(), packed=False, balanced=False,
)  # fmt: skip


class Numbers:
    fingerprint = "numbers"

    def __len__(self) -> int:
        return 20

    def __getitem__(self, place: Any) -> torch.Tensor:
        return torch.tensor([place.sample, place.epoch, 1, place.sample])


class Output(NamedTuple):
    """FSDP looks for tensors in tuples and dictionaries, not in objects of any kind."""

    loss: torch.Tensor


class Model(nn.Module):
    """With dropout, so that the random state matters; remembers the samples of the step at hand."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 64), nn.Dropout(0.5), nn.Linear(64, 1))
        self.samples: list[int] = []

    def forward(self, input_ids: torch.Tensor, **others: Any) -> Output:
        self.samples = input_ids[:, 0].tolist()
        return Output(loss=self.layers(input_ids / 20).square().mean())


def collate(rows: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: torch.stack(rows) for key in ("input_ids", "attention_mask", "labels")}


def live(folder: Path, asynchronous: bool, most: int) -> None:
    """A life of the run in `folder`: at most `most` steps, then it waits to be killed."""
    torch.manual_seed(0)
    model, taken = Model(), 0

    def note(step: int, loss: torch.Tensor) -> None:
        nonlocal taken
        taken += 1
        line = f"{step} {model.samples} {loss.item().hex()}\n"
        descriptor = os.open(folder / "steps.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, line.encode())
        os.close(descriptor)
        if taken >= most:
            time.sleep(600)

    parallel = SingleDevice("cpu")
    checkpoints = Checkpointer(folder / "checkpoints", parallel=parallel, asynchronous=asynchronous)
    metrics = Metrics(folder / "log.jsonl", Silent())
    parts: dict[str, Any] = {"parallel": parallel, "checkpoints": checkpoints, "metrics": metrics}
    Trainer(model, RECIPE, Numbers(), collate, on_step=note, **parts).run(resume=True)


def fork(folder: Path, asynchronous: bool = True, most: int = 10**9) -> int:
    child = os.fork()
    if child == 0:
        try:
            live(folder, asynchronous, most)
            os._exit(0)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
    return child


def finish(child: int) -> None:
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == 0, code


def lines(folder: Path) -> int:
    path = folder / "steps.txt"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def writing(folder: Path) -> bool:
    return any(True for _ in (folder / "checkpoints").glob(".unfinished-step-*"))


def kill_one(folder: Path, number: int, dice: random.Random) -> bool:
    """Start a life and end it; whether it was writing a checkpoint."""
    leap = dice.randrange(LEAP + 1)
    wanted = lines(folder) + leap
    child = fork(folder, most=LEAP + EVERY)
    deadline = time.monotonic() + 60
    while lines(folder) < wanted and time.monotonic() < deadline:
        time.sleep(0.0005)
    if number % 4 == 0:
        while not writing(folder) and time.monotonic() < deadline:
            pass
        time.sleep(dice.uniform(0, 0.003))
    else:
        time.sleep(dice.uniform(0, 0.03))
    os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    return writing(folder)


def main(folder: Path, kills: int, seed: int) -> None:
    straight, killed = folder / "straight", folder / "killed"
    for part in (straight, killed):
        part.mkdir(parents=True)
    finish(fork(straight, asynchronous=False))
    dice = random.Random(seed)
    in_writes = sum(kill_one(killed, number, dice) for number in range(kills))
    finish(fork(killed))
    print(json.dumps({"in_writes": in_writes}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
