"""What the processes of the tests do: train something small, save it, load it, fail."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from blip3v.errors import UserError
from blip3v.train.checkpoint import Checkpointer, storage
from blip3v.train.checkpoint.tensors import model_tensors, optimizer_tensors
from blip3v.train.loop import Trainer
from blip3v.train.metrics import Metrics
from blip3v.train.optimizer import build_adamw
from blip3v.train.parallel import parallel_named
from blip3v.train.progress import Silent
from blip3v.train.recipe import Recipe
from tests.train.killing import RECIPE, Model, Numbers, collate

Whole = dict[str, np.ndarray]


class Uneven(nn.Module):
    """Nothing in it divides by two ranks: five rows, one element, a weight of two names, an odd buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5)
        self.head.weight = self.embedding.weight
        self.middle = nn.Linear(3, 1)
        self.register_buffer("scale", torch.tensor(0.7))

    def forward(self) -> Tensor:
        x = self.head(self.embedding.weight).square().sum() + self.middle(self.embedding.weight).sum()
        return x * self.scale


def go_on(name: str, folder: Path, steps: int, asynchronous: bool) -> dict[str, Any]:
    """Load the newest checkpoint if there is one, take steps, save.

    Returns:
        whole weights and moments after loading and after the steps; a random number that is drawn after
        loading, and one after saving.
    """
    parallel = parallel_named(name, Recipe("t"), device="cpu")
    torch.manual_seed(1)
    plain = Uneven().double()
    model = parallel.wrap(plain)
    torch.manual_seed(100 + parallel.rank)
    optimizer = build_adamw(model, Recipe("t", learning_rate=0.1, weight_decay=0.1))
    checkpoints = Checkpointer(folder, parallel=parallel, asynchronous=asynchronous)
    latest = checkpoints.latest()
    step = 0
    if latest is not None:
        step = checkpoints.read_state(latest)["step"]
        checkpoints.load(latest, model, optimizer)
    outcome = {"step": step, "loaded": whole(model, optimizer), "first": torch.rand(1).item()}
    for _ in range(steps):
        optimizer.zero_grad()
        model().backward()
        optimizer.step()
    checkpoints.save(step + steps, model, optimizer, {"note": name})
    outcome |= {"saved": whole(model, optimizer), "next": torch.rand(1).item()}
    checkpoints.wait()
    parallel.close()
    return outcome


def whole(model: nn.Module, optimizer: torch.optim.Optimizer) -> Whole:
    tensors = model_tensors(model) | optimizer_tensors(model, optimizer)
    return {
        name: (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).numpy().copy()
        for name, tensor in tensors.items()
    }


def fail_on_one_rank(folder: Path, asynchronous: bool) -> dict[str, Any]:
    """A good checkpoint, then one that the disk of rank 1 refuses, then another good one."""
    parallel = parallel_named("fsdp", Recipe("t"), device="cpu")
    model = parallel.wrap(Uneven())
    optimizer = build_adamw(model, Recipe("t"))
    checkpoints = Checkpointer(folder, parallel=parallel, asynchronous=asynchronous)
    checkpoints.save(1, model, optimizer, {})
    checkpoints.wait()
    working = storage.write_safetensors

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    if parallel.rank == 1:
        storage.write_safetensors = full
    checkpoints.save(2, model, optimizer, {})
    latest = checkpoints.latest()
    try:
        checkpoints.wait()
        error = ""
    except UserError as caught:
        error = str(caught)
    storage.write_safetensors = working
    checkpoints.save(3, model, optimizer, {}, wait=True)
    parallel.close()
    return {"latest": str(latest), "error": error, "left": sorted(os.listdir(folder))}


def train(
    name: str, folder: Path, accumulation: int, stop_at: int | None = None, **overrides: Any
) -> dict[str, Any]:
    """The loop, without dropout; at step `stop_at` the last rank, and only that, is sent SIGTERM."""
    recipe = replace(RECIPE, max_steps=8, accumulation=accumulation, **overrides)
    parallel = parallel_named(name, recipe, device="cpu")
    torch.manual_seed(0)
    model = Model()
    model.layers[1].p = 0.0
    losses: dict[int, float] = {}

    def note(step: int, loss: Tensor) -> None:
        losses[step] = loss.item()
        if step == stop_at and parallel.rank == parallel.world_size - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    checkpoints = Checkpointer(folder, parallel=parallel, asynchronous=True)
    metrics = Metrics(None, Silent())
    parts: dict[str, Any] = {"parallel": parallel, "checkpoints": checkpoints, "metrics": metrics}
    code = 0
    try:
        Trainer(model, recipe, Numbers(), collate, on_step=note, **parts).run(resume=True)
    except SystemExit as exit_:
        code = int(str(exit_.code))
    names = [path.name for path in checkpoints.all()]
    parallel.close()
    return {"losses": losses, "code": code, "checkpoints": names}
