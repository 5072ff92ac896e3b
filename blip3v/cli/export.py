"""`blip3v export CHECKPOINT OUT`: a model that can be loaded, from a checkpoint of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from blip3v.errors import UserError


def export(
    checkpoint: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")],
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")],
    model: Path,
    released: bool = False,
) -> None:
    """Write the weights of a checkpoint as safetensors that `from_pretrained` and `blip3v generate` read.

    Args:
        checkpoint: a folder `step-...` under a run's `checkpoints`, or a folder that `blip3v train` wrote.
        out: folder to write; it must not exist.
        model: the folder that the run was started with, for its configuration and processor.
        released: write the weights under the names of the released checkpoints instead.
    """
    if out.exists():
        raise UserError(f"{out} exists already; choose another folder, or remove it")
    if not checkpoint.is_dir():
        raise UserError(f"no such checkpoint: {checkpoint}; a run writes them into OUT/checkpoints")
    from transformers.utils import logging

    from blip3v.train.export import export_checkpoint

    logging.disable_progress_bar()
    logging.set_verbosity_error()

    export_checkpoint(checkpoint, model, out, released)
    print(f"the model is in {out}")
