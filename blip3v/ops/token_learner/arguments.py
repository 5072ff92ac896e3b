"""What a call of token_learner is made of, and what every backend may rely on."""

from __future__ import annotations

from typing import NamedTuple, NoReturn

import torch
from torch import Tensor

EPS = 1e-5
"""Of both LayerNorms, in the published models."""


class Arguments(NamedTuple):
    """The tensors of a call.

    x [B,N,D]; norm1_weight, norm1_bias, norm2_weight, norm2_bias [D]; w1 [J,D]; w2 [k,J]; keep [B,N] bool or
    None. The parameters are in x's dtype or in float32, each for itself.
    """

    x: Tensor
    norm1_weight: Tensor
    norm1_bias: Tensor
    norm2_weight: Tensor
    norm2_bias: Tensor
    w1: Tensor
    w2: Tensor
    keep: Tensor | None = None

    @property
    def floating(self) -> tuple[Tensor, ...]:
        """Those that have gradients."""
        return self[:7]

    def with_floating(self, *tensors: Tensor) -> Arguments:
        return self._replace(**dict(zip(NAMES, tensors)))


NAMES = Arguments._fields


def check(arguments: Arguments, eps: float = EPS, mixed: bool = False) -> None:
    """Raises: ValueError, if shapes, dtypes or devices do not fit together, or eps is not positive.

    `mixed`: parameters may have any float type, because autocast is on.
    """
    if not 0 < eps < float("inf"):
        _refuse(f"eps is {eps}, need a finite number above 0")
    x, w1, w2, keep = arguments.x, arguments.w1, arguments.w2, arguments.keep
    if x.ndim != 3:
        _refuse(f"x has shape {tuple(x.shape)}, need 3 dimensions: videos, tokens, channels")
    if not x.dtype.is_floating_point:
        _refuse(f"x is {x.dtype}, need a float type")
    if w1.ndim != 2 or w2.ndim != 2:
        _refuse(f"w1 has shape {tuple(w1.shape)} and w2 {tuple(w2.shape)}, need 2 dimensions each")
    videos, tokens, width = x.shape
    hidden, made = w1.shape[0], w2.shape[0]
    if min(videos, tokens, width, hidden, made) < 1:
        _refuse(
            f"x is {tuple(x.shape)}, w1 {tuple(w1.shape)}, w2 {tuple(w2.shape)}, need at least one of each"
        )
    shapes = ((width,),) * 4 + ((hidden, width), (made, hidden))
    for name, tensor, shape in zip(NAMES[1:], arguments.floating[1:], shapes):
        if tensor.shape != shape:
            _refuse(f"{name} has shape {tuple(tensor.shape)}, need {shape}")
        if tensor.dtype not in (x.dtype, torch.float32) and not (mixed and tensor.dtype.is_floating_point):
            _refuse(f"{name} is {tensor.dtype} and x {x.dtype}, need {x.dtype} or torch.float32")
        _check_device(name, tensor, x)
    if keep is not None:
        if keep.shape != (videos, tokens) or keep.dtype != torch.bool:
            _refuse(f"keep is {keep.dtype} {tuple(keep.shape)}, need bool {(videos, tokens)}")
        _check_device("keep", keep, x)


def _refuse(what: str) -> NoReturn:
    raise ValueError(f"token_learner: {what}")


def _check_device(name: str, tensor: Tensor, x: Tensor) -> None:
    if tensor.device != x.device:
        _refuse(f"{name} is on {tensor.device} and x on {x.device}, need one device")


def example(device: str) -> Arguments:
    """One video at the shape of the 4B model, 1024 -> 32, in bfloat16: what `blip3v doctor` asks about."""
    shapes = [(1, 1024, 1152), *[(1152,)] * 4, (64, 1152), (32, 64)]
    return Arguments(*(torch.zeros(shape, dtype=torch.bfloat16, device=device) for shape in shapes))
