"""Trained models as `from_pretrained` reads them, written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from blip3v.errors import UserError
from blip3v.models.configuration import Blip3VideoConfig
from blip3v.models.modeling import Blip3VideoForConditionalGeneration
from blip3v.models.processing import Blip3VideoProcessor
from blip3v.models.weights import export_released
from blip3v.train.checkpoint import load_weights, write_aside
from blip3v.train.parallel import Parallel, SingleDevice


def export(folder: str | Path, model: nn.Module, processor: Any, parallel: Parallel | None = None) -> None:
    """Model and processor as `from_pretrained` reads them; an earlier export in `folder` is replaced.

    Args:
        model: plain or sharded, but not wrapped by DDP (which trains the plain model in place).
        parallel: of the run. All ranks call this, the first writes; a sharded model is gathered in its main
            memory.
    """
    parallel = SingleDevice() if parallel is None else parallel
    state: Mapping[str, Any] | None = None
    if parallel.world_size > 1:
        whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state = get_model_state_dict(model, options=whole)
    if parallel.rank == 0:
        _write(Path(folder), model, processor, state)
    parallel.barrier()


def _write(folder: Path, model: Any, processor: Any, state: Mapping[str, Any] | None) -> None:
    def write(aside: Path) -> None:
        model.save_pretrained(aside, state_dict=state)
        processor.save_pretrained(aside)

    write_aside(folder, write)


def export_checkpoint(
    checkpoint: str | Path, model_folder: str | Path, out: str | Path, released: bool = False
) -> None:
    """Turn a checkpoint of a run into a model folder; nothing is trained, nothing but weights is read.

    Args:
        checkpoint: folder of one checkpoint, written by any number of ranks.
        model_folder: with the configuration and the processor that the run was started from.
        released: write the tensors under the names of the released checkpoints, with the tokenizer beside
            them, as those come.

    Raises:
        UserError: a damaged checkpoint, or one of another model.
    """
    model_folder = Path(model_folder)
    if not (model_folder / "config.json").is_file():
        raise UserError(f"no config.json in {model_folder}; give the folder that the run was started with")
    # Every weight is about to be read, so none needs a first value.
    with torch.device("meta"):
        model = Blip3VideoForConditionalGeneration(Blip3VideoConfig.from_pretrained(model_folder))
    model.to_empty(device="cpu")
    load_weights(Path(checkpoint), model)
    processor = Blip3VideoProcessor.from_pretrained(model_folder)
    if not released:
        _write(Path(out), model, processor, None)
        return

    def write(aside: Path) -> None:
        export_released(model, aside)
        processor.tokenizer.save_pretrained(aside)

    write_aside(Path(out), write)
