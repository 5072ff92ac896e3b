"""What a call of grouped_ttm is made of, and what every backend may rely on."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple, NoReturn

import torch
from torch import Tensor


class Layer(NamedTuple):
    """One transformer layer: pre-LayerNorm attention without output projection, then the feed-forward.

    norm_weight, norm_bias, ff_norm_weight, ff_norm_bias [D]; qkv_weight [3D,D], the rows of q, k and v one
    after the other, each head by head; w1 [J,D], w2 [D,J].
    """

    norm_weight: Tensor
    norm_bias: Tensor
    qkv_weight: Tensor
    ff_norm_weight: Tensor
    ff_norm_bias: Tensor
    w1: Tensor
    w2: Tensor


class Write(NamedTuple):
    """The TokenLearner that writes the memory: norm* [D], w1 [2G,D], w2 [G,2G]."""

    norm1_weight: Tensor
    norm1_bias: Tensor
    norm2_weight: Tensor
    norm2_bias: Tensor
    w1: Tensor
    w2: Tensor


class Weights(NamedTuple):
    """Everything that is learned but the initial memory. An operator of torch takes it as a flat list."""

    layers: tuple[Layer, ...]
    write: Write

    def flat(self) -> list[Tensor]:
        return [*chain.from_iterable(self.layers), *self.write]

    @classmethod
    def of(cls, flat: Sequence[Tensor]) -> Weights:
        split = len(flat) - len(Write._fields)
        width = len(Layer._fields)
        layers = tuple(Layer(*flat[first : first + width]) for first in range(0, split, width))
        return cls(layers, Write(*flat[split:]))


class Arguments(NamedTuple):
    """The tensors of a call.

    frames [B,T,S,D]; memory [B,S,G,D]; stamps [T,D] or None; weights: those of `Weights`; heads: a number.
    """

    frames: Tensor
    memory: Tensor
    stamps: Tensor | None
    weights: list[Tensor]
    heads: int


def check(arguments: Arguments) -> None:
    """Raises: ValueError, if shapes, dtypes or devices do not fit together."""
    frames, memory, stamps, flat, heads = arguments
    if frames.ndim != 4 or memory.ndim != 4:
        _refuse(
            f"frames {tuple(frames.shape)} and memory {tuple(memory.shape)}, need [B,T,S,D] and [B,S,G,D]"
        )
    videos, steps, positions, width = frames.shape
    if min(frames.shape) < 1 or memory.shape[2] < 1:
        _refuse(f"frames {tuple(frames.shape)} and memory {tuple(memory.shape)}, need at least one of each")
    if memory.shape != (videos, positions, memory.shape[2], width):
        _refuse(f"memory has shape {tuple(memory.shape)}, need {(videos, positions, 'G', width)}")
    if heads < 1 or width % heads:
        _refuse(f"width {width} does not divide into {heads} heads")
    if stamps is not None and stamps.shape != (steps, width):
        _refuse(f"stamps has shape {tuple(stamps.shape)}, need {(steps, width)}")
    weights = Weights.of(flat)
    if not weights.layers:
        _refuse("there is no layer, need at least one")
    for number, layer in enumerate(weights.layers):
        hidden = layer.w1.shape[0]
        vector = (width,)
        shapes = (vector, vector, (3 * width, width), vector, vector, (hidden, width), (width, hidden))
        _check_shapes(f"layer {number}: ", layer, shapes)
    hidden, slots = weights.write.w1.shape[0], memory.shape[2]
    write_shapes = (*[(width,)] * 4, (hidden, width), (slots, hidden))
    _check_shapes("write: ", weights.write, write_shapes)
    for tensor in (memory, *flat) if stamps is None else (memory, stamps, *flat):
        if not tensor.dtype.is_floating_point or tensor.device != frames.device:
            _refuse(f"a tensor is {tensor.dtype} on {tensor.device}, need a float type on {frames.device}")
    if not frames.dtype.is_floating_point:
        _refuse(f"frames is {frames.dtype}, need a float type")


def _check_shapes(where: str, tensors: Layer | Write, shapes: Sequence[tuple[int, ...]]) -> None:
    for name, tensor, shape in zip(tensors._fields, tensors, shapes):
        if tuple(tensor.shape) != shape:
            _refuse(f"{where}{name} has shape {tuple(tensor.shape)}, need {shape}")


def _refuse(what: str) -> NoReturn:
    raise ValueError(f"grouped_ttm: {what}")


def example(device: str) -> Arguments:
    """One frame at the width of the 4B model, one layer: what `blip3v doctor` asks the backends about."""
    width, slots, hidden = 1152, 4, 4608

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.bfloat16, device=device)

    vector = zeros(width)
    w1, w2 = zeros(hidden, width), zeros(width, hidden)
    layer = Layer(vector, vector, zeros(3 * width, width), vector, vector, w1, w2)
    write = Write(vector, vector, vector, vector, zeros(2 * slots, width), zeros(slots, 2 * slots))
    weights = Weights((layer,), write).flat()
    return Arguments(zeros(1, 1, 2, width), zeros(1, 2, slots, width), zeros(1, width), weights, 8)
