"""Where a benchmark runs, and which sizes make sense there."""

from __future__ import annotations

import torch

from blip3v.errors import UserError


def device_of(name: str | None) -> str:
    """The device asked for, or the best there is.

    Raises:
        UserError: it is not there.
    """
    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(name).type
    except RuntimeError as error:
        raise UserError(f"no such device: {name}; use cpu, cuda or cuda:<number>") from error
    if kind not in ("cpu", "cuda"):
        raise UserError(f"--device {name}: benchmarks run on cpu and cuda")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device {name}: torch sees no GPU here; `blip3v doctor` says why")
    return name


def preset_of(device: str) -> str:
    """The widths of the 4B model on a GPU, small ones on a CPU."""
    return "4b" if torch.device(device).type == "cuda" else "small"
