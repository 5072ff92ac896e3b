"""What a call of ttm_write is made of, and what every backend may rely on."""

from __future__ import annotations

from typing import NamedTuple, NoReturn

import torch
from torch import Tensor

EPS = 1e-5
"""Of all LayerNorms, in the published models."""


class Arguments(NamedTuple):
    """The tensors of a call.

    memory [B,S,G,D]; processed [B,S,n,D]; norm1_weight, norm1_bias, norm2_weight, norm2_bias [D]; w1 [J,D];
    w2 [G,J]. With a next step also frame [B,S,D], stamp [D] or None, norm_weight, norm_bias [D]; otherwise
    all four are None. memory, processed and frame are of one dtype, each of the others of this or float32.
    """

    memory: Tensor
    processed: Tensor
    norm1_weight: Tensor
    norm1_bias: Tensor
    norm2_weight: Tensor
    norm2_bias: Tensor
    w1: Tensor
    w2: Tensor
    frame: Tensor | None = None
    stamp: Tensor | None = None
    norm_weight: Tensor | None = None
    norm_bias: Tensor | None = None


NAMES = Arguments._fields
ROWS = ("memory", "processed", "frame")
"""Those that autocast casts."""


def check(arguments: Arguments, eps: float = EPS, mixed: bool = False) -> None:
    """Raises: ValueError, if shapes, dtypes or devices do not fit together, or eps is not positive.

    `mixed`: dtypes may differ, because autocast is on.
    """
    if not 0 < eps < float("inf"):
        _refuse(f"eps is {eps}, need a finite number above 0")
    memory, processed, w1 = arguments.memory, arguments.processed, arguments.w1
    for name, rows, wanted in (("memory", memory, "[B,S,G,D]"), ("processed", processed, "[B,S,n,D]")):
        if rows.ndim != 4 or min(rows.shape) < 1:
            _refuse(f"{name} has shape {tuple(rows.shape)}, need {wanted} with at least one of each")
    if not memory.dtype.is_floating_point:
        _refuse(f"memory is {memory.dtype}, need a float type")
    if w1.ndim != 2 or w1.shape[0] < 1:
        _refuse(f"w1 has shape {tuple(w1.shape)}, need [J,D] with at least one of each")
    with_frame = (
        arguments.frame is not None,
        arguments.norm_weight is not None,
        arguments.norm_bias is not None,
    )
    if any(with_frame) != all(with_frame):
        _refuse("frame, norm_weight and norm_bias come together or not at all")
    if arguments.stamp is not None and arguments.frame is None:
        _refuse("there is a stamp and no frame")
    videos, positions, slots, width = memory.shape
    shapes = (
        (videos, positions, processed.shape[2], width),
        *[(width,)] * 4,
        (w1.shape[0], width),
        (slots, w1.shape[0]),
        (videos, positions, width),
        *[(width,)] * 3,
    )
    for name, tensor, shape in zip(NAMES[1:], arguments[1:], shapes):
        if tensor is None:
            continue
        if tensor.shape != shape:
            _refuse(f"{name} has shape {tuple(tensor.shape)}, need {shape}")
        allowed = (memory.dtype,) if name in ROWS else (memory.dtype, torch.float32)
        if tensor.dtype not in allowed and not (mixed and tensor.dtype.is_floating_point):
            wanted = " or ".join(map(str, dict.fromkeys(allowed)))
            _refuse(f"{name} is {tensor.dtype} and memory {memory.dtype}, need {wanted}")
        if tensor.device != memory.device:
            _refuse(f"{name} is on {tensor.device} and memory on {memory.device}, need one device")
    if arguments.stamp is not None and arguments.stamp.requires_grad:
        _refuse("stamp requires a gradient and has none: detach it, or add it to the frame beforehand")


def _refuse(what: str) -> NoReturn:
    raise ValueError(f"ttm_write: {what}")


def example(device: str) -> Arguments:
    """One step of the 4B model in bfloat16: what `blip3v doctor` asks the backends about."""
    rows = ((1, 128, 4, 1152), (1, 128, 5, 1152))
    shapes = (*rows, *[(1152,)] * 4, (8, 1152), (4, 8), (1, 128, 1152), *[(1152,)] * 3)
    return Arguments(*(torch.zeros(shape, dtype=torch.bfloat16, device=device) for shape in shapes))
