"""What a call of grouped_attention is made of, and what every backend may rely on."""

from __future__ import annotations

import math
from typing import NamedTuple, NoReturn

import torch
from torch import Tensor

MOST_TOKENS = 64
"""Of a group."""


class Arguments(NamedTuple):
    """The tensors of a call: x [R,n,D], qkv [R,n,3,H,d] with H*d == D, norm_weight [D], norm_bias [D]."""

    x: Tensor
    qkv: Tensor
    norm_weight: Tensor
    norm_bias: Tensor


NAMES = Arguments._fields


def check(arguments: Arguments, eps: float, mixed: bool = False) -> None:
    """Raises ValueError, if shapes, dtypes or devices do not fit together, or eps is not a positive number.

    mixed: x and qkv may have different dtypes, as under autocast.
    """
    if not 0 < eps < math.inf:
        _refuse(f"eps is {eps}, need a finite number above 0")
    x, qkv, *norm = arguments
    if x.ndim != 3:
        _refuse(f"x has shape {tuple(x.shape)}, need 3 dimensions: groups, tokens, channels")
    groups, tokens, width = x.shape
    if not 1 <= tokens <= MOST_TOKENS:
        _refuse(f"x has {tokens} tokens in a group, need 1 to {MOST_TOKENS}")
    if qkv.ndim != 5 or qkv.shape[:3] != (groups, tokens, 3) or qkv.shape[3] * qkv.shape[4] != width:
        _refuse(f"qkv has shape {tuple(qkv.shape)}, need [{groups}, {tokens}, 3, H, d] with H * d = {width}")
    if width < 1:
        _refuse("x has no channels, need at least one")
    for name, tensor in zip(NAMES[2:], norm):
        if tensor.shape != (width,):
            _refuse(f"{name} has shape {tuple(tensor.shape)}, need [{width}]")
        if tensor.dtype not in (x.dtype, torch.float32) and not mixed:
            _refuse(f"{name} is {tensor.dtype}, need float32 or the {x.dtype} of x")
    if norm[0].dtype != norm[1].dtype:
        _refuse(f"norm_weight is {norm[0].dtype} and norm_bias {norm[1].dtype}, need one dtype")
    for name, tensor in zip(NAMES, arguments):
        if not tensor.dtype.is_floating_point:
            _refuse(f"{name} is {tensor.dtype}, need a float type")
        if tensor.device != x.device:
            _refuse(f"{name} is on {tensor.device} and x on {x.device}, need one device")
    if qkv.dtype != x.dtype and not mixed:
        _refuse(f"qkv is {qkv.dtype} and x {x.dtype}, need one float type")


def _refuse(what: str) -> NoReturn:
    raise ValueError(f"grouped_attention: {what}")


def example(device: str) -> Arguments:
    """One video at the shape of the grouped TTM in bfloat16: what `blip3v doctor` asks the backends about."""
    shapes = [(128, 5, 1152), (128, 5, 3, 8, 144), (1152,), (1152,)]
    return Arguments(*(torch.zeros(shape, dtype=torch.bfloat16, device=device) for shape in shapes))
