"""Checkpoints: folders of safetensors and JSON, written aside and renamed: one that is seen is complete."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn

from blip3v.errors import UserError
from blip3v.train.optimizer import trainable_parameters

FORMAT = 1
MODEL, OPTIMIZER, RANDOM, STATE = (
    "model.safetensors",
    "optimizer.safetensors",
    "random.safetensors",
    "state.json",
)
_NAME = re.compile(r"step-(\d{8,})")
_ASIDE = ".unfinished-"


class Checkpointer:
    """The checkpoints of one run under `folder`, named `step-00000500`; the last `keep` stay.

    A checkpoint holds the model, the optimizer's moments, the states of the random generators and a JSON file
    of plain values. Nothing is ever unpickled.
    """

    def __init__(self, folder: str | Path, keep: int = 2) -> None:
        self.folder, self.keep = Path(folder), keep

    def all(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        if not self.folder.is_dir():
            return []
        found = [path for path in self.folder.iterdir() if _NAME.fullmatch(path.name)]
        return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))

    def latest(self) -> Path | None:
        """The newest complete checkpoint."""
        return self.all()[-1] if self.all() else None

    def save(
        self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]
    ) -> Path:
        """Write the checkpoint of `step`; one that exists already is left as it is."""
        target = self.folder / f"step-{step:08d}"
        if target.exists():
            return target

        def write(folder: Path) -> None:
            save_model(model, str(folder / MODEL))
            save_file(optimizer_tensors(model, optimizer), folder / OPTIMIZER)
            save_file(random_state(), folder / RANDOM)
            text = json.dumps({"format": FORMAT, "step": step, **state}, indent=1)
            (folder / STATE).write_text(text, encoding="utf-8")

        write_aside(target, write)
        for old in self.all()[: -self.keep]:
            remove(old)
        return target

    def read_state(self, path: Path) -> dict[str, Any]:
        """The plain values of a checkpoint.

        Raises:
            UserError: not a checkpoint of this format.
        """
        try:
            state = json.loads((path / STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path} has no readable {STATE}; remove this folder and resume from an older one"
            ) from error
        if state.get("format") != FORMAT:
            raise UserError(
                f"{path} has format {state.get('format')}, this version reads {FORMAT}; start afresh"
            )
        return state

    def load(self, path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Put a checkpoint's tensors into the model and the optimizer, and set the random generators.

        Raises:
            UserError: a damaged file, or tensors that do not fit the model.
        """
        try:
            load_model(model, str(path / MODEL), device=str(next(model.parameters()).device))
            load_optimizer_tensors(model, optimizer, load_file(path / OPTIMIZER))
            set_random_state(load_file(path / RANDOM))
        except (OSError, KeyError, RuntimeError, ValueError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(
                f"cannot resume from {path}: {reason}; remove it to resume from an older one"
            ) from error


def write_aside(target: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a hidden folder beside `target`, flush it to the disk and rename it to `target`.

    An earlier `target` is replaced. What killed attempts left under hidden names is removed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for leftover in target.parent.glob(f"{_ASIDE}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    aside = target.with_name(_ASIDE + target.name)
    aside.mkdir()
    write(aside)
    for path in [*sorted(aside.rglob("*")), aside]:
        _flush(path)
    if target.exists():
        remove(target)
    aside.rename(target)
    _flush(target.parent)


def remove(folder: Path) -> None:
    """Delete a folder, hiding it first: killed half-way, this leaves no half folder under a good name."""
    doomed = folder.with_name(f"{_ASIDE}old-{folder.name}")
    folder.rename(doomed)
    shutil.rmtree(doomed)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as "what:parameter name" -> tensor, for example "exp_avg:norm.weight"."""
    return {
        f"{key}:{name}": value.contiguous()
        for name, parameter in trainable_parameters(model).items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]
) -> None:
    """Inverse of `optimizer_tensors`; hyper-parameters stay those of the optimizer.

    Raises:
        KeyError: state of a parameter that the model does not train.
    """
    states: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        what, name = key.split(":", 1)
        states.setdefault(name, {})[what] = value
    parameters = trainable_parameters(model)
    unknown = sorted(set(states) - set(parameters))
    if unknown:
        raise KeyError(f"the checkpoint trains {', '.join(unknown[:5])}, which is frozen or absent here")
    names = {parameter: name for name, parameter in parameters.items()}
    order = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
    # A parameter that never had a gradient has no state yet.
    state = {index: states[name] for index, name in enumerate(order) if name in states}
    # The optimizer's own loader moves each tensor to where its parameter lives.
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def random_state() -> dict[str, Tensor]:
    """States of torch's generators, uint8."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states |= {f"cuda:{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def set_random_state(states: dict[str, Tensor]) -> None:
    """Inverse of `random_state`; generators of devices that are not here are left out."""
    torch.set_rng_state(states["cpu"])
    for index in range(torch.cuda.device_count()):
        if f"cuda:{index}" in states:
            torch.cuda.set_rng_state(states[f"cuda:{index}"], index)


def export(folder: str | Path, model: Any, processor: Any) -> None:
    """Model and processor as `from_pretrained` reads them; an earlier export in `folder` is replaced."""

    def write(aside: Path) -> None:
        model.save_pretrained(aside)
        processor.save_pretrained(aside)

    write_aside(Path(folder), write)
