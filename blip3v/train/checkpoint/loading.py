"""Reading checkpoints."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict

from blip3v.errors import UserError
from blip3v.train.checkpoint.storage import SafetensorsReader
from blip3v.train.checkpoint.tensors import (
    MODEL,
    RANDOM,
    device_of,
    empty_optimizer_tensors,
    load_optimizer_tensors,
    model_tensors,
    seed_generators,
    set_generator_states,
)

FORMAT = 2
STATE = "state.json"


def read_state(path: Path) -> dict[str, Any]:
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
            f"{path} has format {state.get('format')}, this version reads {FORMAT}; "
            "finish that run with the version that began it, or start afresh in another folder"
        )
    return state


def load_training(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    rank: int,
    world_size: int,
    group: dist.ProcessGroup | None,
) -> None:
    """A checkpoint's tensors into the model and the optimizer, and the random generators set.

    Raises:
        UserError: a damaged file, or tensors that do not fit the model.
    """
    state = read_state(path)
    with _explained(path):
        stored = SafetensorsReader(path).read_metadata()
        weights = _matching_weights(model, stored.state_dict_metadata)
        moments = empty_optimizer_tensors(model, stored)
        mine = f"{RANDOM}{rank}."
        random = {
            key: torch.empty(stored.state_dict_metadata[key].size, dtype=torch.uint8)
            for key in stored.state_dict_metadata
            if key.startswith(mine) and state["ranks"] == world_size
        }
        _read_into({**weights, **moments, **random}, path, group)
        # In place already; this tells wrappers that keep more than their weights.
        set_model_state_dict(model, get_model_state_dict(model))
        load_optimizer_tensors(model, optimizer, moments)
        if random:
            states = {key.removeprefix(mine): value for key, value in random.items()}
            set_generator_states(states, device_of(model))
        else:
            seed_generators((state["seed"], state["step"], rank))


def load_weights(path: Path, model: nn.Module) -> None:
    """A checkpoint's weights into a plain model, in this process alone, to use or export it.

    Raises:
        UserError: a damaged file, or tensors that do not fit the model.
    """
    read_state(path)
    with _explained(path):
        stored = SafetensorsReader(path).read_metadata()
        _read_into(_matching_weights(model, stored.state_dict_metadata), path, None)


def silence_single_process() -> None:
    """No warning from torch, at every call, that one process is taken for one process."""
    warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")


def _read_into(tensors: dict[str, Tensor], path: Path, group: dist.ProcessGroup | None) -> None:
    silence_single_process()
    dcp.load(
        dict(tensors), storage_reader=SafetensorsReader(path), process_group=group, no_dist=group is None
    )


def _matching_weights(model: nn.Module, stored: Mapping[str, Any]) -> dict[str, Tensor]:
    weights = model_tensors(model)
    names = {name for name in stored if name.startswith(MODEL)}
    different = sorted(names ^ set(weights))
    if different:
        first = different[0]
        lacking = "the model" if first in names else "the checkpoint"
        raise ValueError(f"{lacking} lacks {first.removeprefix(MODEL)}; {len(different)} names differ")
    return weights


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Within: whatever goes wrong while reading `path` becomes one sentence."""
    try:
        yield
    except (Exception, CheckpointException) as error:
        cause: BaseException = error
        if isinstance(error, CheckpointException):
            cause = next(iter(error.failures.values()))[0]
        reason = " ".join(str(cause).split())[:300]
        raise UserError(
            f"cannot resume from {path}: {reason}; remove it to resume from an older one"
        ) from error
