"""What a call of feed_forward is made of, and what every backend may rely on."""

from __future__ import annotations

from typing import NamedTuple, NoReturn

import torch
from torch import Tensor


class Arguments(NamedTuple):
    """The tensors of a call.

    z [...,D]; w1 [J,D]; w2 [D,J]; residual [...,D]. The weights are in z's dtype or in float32, each for
    itself.
    """

    z: Tensor
    w1: Tensor
    w2: Tensor
    residual: Tensor


NAMES = Arguments._fields


def check(arguments: Arguments, mixed: bool = False) -> None:
    """Raises: ValueError, if shapes, dtypes or devices do not fit together.

    `mixed`: the tensors may have any float types, because autocast is on.
    """
    z, w1, w2, residual = arguments
    if z.ndim < 1 or z.shape[-1] < 1:
        _refuse(f"z has shape {tuple(z.shape)}, need at least one channel")
    if w1.ndim != 2 or w1.shape[0] < 1:
        _refuse(f"w1 has shape {tuple(w1.shape)}, need 2 dimensions: hidden channels, channels")
    width, hidden = z.shape[-1], w1.shape[0]
    for name, tensor, shape in zip(NAMES[1:], arguments[1:], ((hidden, width), (width, hidden), z.shape)):
        if tensor.shape != shape:
            _refuse(f"{name} has shape {tuple(tensor.shape)}, need {tuple(shape)}")
    for name, tensor in zip(NAMES, arguments):
        if not tensor.dtype.is_floating_point:
            _refuse(f"{name} is {tensor.dtype}, need a float type")
        if tensor.device != z.device:
            _refuse(f"{name} is on {tensor.device} and z on {z.device}, need one device")
    if mixed:
        return
    if residual.dtype != z.dtype:
        _refuse(f"residual is {residual.dtype} and z {z.dtype}, need one type")
    for name, weight in (("w1", w1), ("w2", w2)):
        if weight.dtype not in (z.dtype, torch.float32):
            _refuse(f"{name} is {weight.dtype} and z {z.dtype}, need z's type or torch.float32")


def _refuse(what: str) -> NoReturn:
    raise ValueError(f"feed_forward: {what}")


def example(device: str) -> Arguments:
    """One video at the shape of the 4B model in bfloat16: what `blip3v doctor` asks the backends about."""

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.bfloat16, device=device)

    return Arguments(zeros(128, 5, 1152), zeros(4608, 1152), zeros(1152, 4608), zeros(128, 5, 1152))
