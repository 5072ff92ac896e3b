"""Whether a run may go on from a checkpoint: same recipe, same data, same samples in a step."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blip3v.errors import UserError
from blip3v.train.recipe import Recipe


def require_same_run(
    path: Path, state: Mapping[str, Any], recipe: Recipe, fingerprint: str, samples_per_step: int
) -> None:
    """Refuse to go on where the result would be that of no recipe.

    Devices, batch size and accumulation may change as long as a step keeps its samples; so may whatever
    changes speed and memory only.

    Args:
        path: the checkpoint, for the message.
        state: what `Checkpointer.read_state` says of it.
        fingerprint: of the data here.
        samples_per_step: batch size x accumulation x devices here.

    Raises:
        UserError: something that decides the result differs.
    """
    differences = recipe.differences(state["recipe"])
    if differences:
        raise UserError(
            f"cannot resume {path} with another recipe ({'; '.join(differences)}); use its values"
        )
    if state["data"] != fingerprint:
        raise UserError(
            f"cannot resume {path}: the data differ from those it was trained on; use the same file"
        )
    if state["samples_per_step"] != samples_per_step:
        raise UserError(
            f"cannot resume {path}: its steps had {state['samples_per_step']} samples, and batch size x "
            f"accumulation x devices is {samples_per_step} here; choose a batch size and an accumulation "
            "that make as many"
        )
