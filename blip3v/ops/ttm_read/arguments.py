"""What a call of ttm_read is made of, and what every backend may rely on."""

from __future__ import annotations

from typing import NamedTuple, NoReturn

import torch
from torch import Tensor

EPS = 1e-5
"""Of the LayerNorm, in the published models."""


class Arguments(NamedTuple):
    """The tensors of a call.

    memory [B,S,G,D]; frame [B,S,D] in memory's dtype; stamp [D] or None; norm_weight, norm_bias [D]. The last
    three are in memory's dtype or in float32, each for itself.
    """

    memory: Tensor
    frame: Tensor
    stamp: Tensor | None
    norm_weight: Tensor
    norm_bias: Tensor


NAMES = Arguments._fields


def check(arguments: Arguments, eps: float = EPS, mixed: bool = False) -> None:
    """Raises: ValueError, if shapes, dtypes or devices do not fit together, or eps is not positive.

    `mixed`: dtypes may differ, because autocast is on.
    """
    if not 0 < eps < float("inf"):
        _refuse(f"eps is {eps}, need a finite number above 0")
    memory, frame, stamp, _, _ = arguments
    if memory.ndim != 4 or min(memory.shape) < 1:
        _refuse(f"memory has shape {tuple(memory.shape)}, need [B,S,G,D] with at least one of each")
    if not memory.dtype.is_floating_point:
        _refuse(f"memory is {memory.dtype}, need a float type")
    videos, positions, _, width = memory.shape
    shapes = ((videos, positions, width), *[(width,)] * 3)
    for name, tensor, shape in zip(NAMES[1:], arguments[1:], shapes):
        if tensor is None:
            continue
        if tensor.shape != shape:
            _refuse(f"{name} has shape {tuple(tensor.shape)}, need {shape}")
        allowed = (memory.dtype,) if tensor is frame else (memory.dtype, torch.float32)
        if tensor.dtype not in allowed and not (mixed and tensor.dtype.is_floating_point):
            wanted = " or ".join(map(str, dict.fromkeys(allowed)))
            _refuse(f"{name} is {tensor.dtype} and memory {memory.dtype}, need {wanted}")
        if tensor.device != memory.device:
            _refuse(f"{name} is on {tensor.device} and memory on {memory.device}, need one device")
    if stamp is not None and stamp.requires_grad:
        _refuse("stamp requires a gradient and has none: detach it, or add it to the frame beforehand")


def _refuse(what: str) -> NoReturn:
    raise ValueError(f"ttm_read: {what}")


def example(device: str) -> Arguments:
    """One frame of the 4B model in bfloat16: what `blip3v doctor` asks the backends about."""
    shapes = ((1, 128, 4, 1152), (1, 128, 1152), *[(1152,)] * 3)
    return Arguments(*(torch.zeros(shape, dtype=torch.bfloat16, device=device) for shape in shapes))
