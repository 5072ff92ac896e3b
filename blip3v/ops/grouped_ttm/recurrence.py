"""The recurrence and its back-propagation through time, from the ops of one step.

    group_0 = [memory ; frame_0 + stamp_0]                               ttm_read
    for every layer:  qkv = LN(x) Wqkv^T                                 one product
                      y = x + attention(qkv), z = LN(y)                  grouped_attention
                      x = y + gelu(z W1^T) W2^T                          feed_forward
    group_t+1 = [TL(memory_t ; processed) ; frame_t+1 + stamp_t+1]       ttm_write

What the backward needs is kept in one of two ways. `passes` keeps what a matrix product made, and recomputes
what one pass over memory gives: per step and layer x, qkv, y and h, with J = 4D nine times the tokens of a
group, 54.6 MB a frame of the 4B model in bf16 (128 positions, 5 tokens, 4 layers). `steps` keeps each
step's group, 1.5 MB a frame, and computes the step again, a third more work.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from blip3v.ops.grouped_ttm.arguments import Arguments, Layer, Weights, Write
from blip3v.ops.grouped_ttm.weight_gradients import WeightGradients

KEEP = ("nothing", "steps", "passes")


class Ops(NamedTuple):
    """The backend modules that compute a step."""

    ttm_read: ModuleType
    grouped_attention: ModuleType
    feed_forward: ModuleType
    ttm_write: ModuleType


class Group(NamedTuple):
    """A step's tokens [B,S,G+1,D]; normed: after the first layer's LayerNorm; its statistics [B,S,G+1]."""

    tokens: Tensor
    mean: Tensor
    rstd: Tensor


class Passed(NamedTuple):
    """What a layer leaves for the backward.

    qkv [R,n,3,H,d]; y, out [R,n,D]; mean, rstd [R,n], of y; h [R,n,J].
    """

    qkv: Tensor
    y: Tensor
    mean: Tensor
    rstd: Tensor
    h: Tensor
    out: Tensor


def forward(ops: Ops, arguments: Arguments, eps: float, keep: str) -> tuple[Tensor, list[Tensor]]:
    """-> the memory after the last frame [B,S,G,D], and what `backward` wants to see again."""
    frames, memory, stamps, flat, heads = arguments
    layers, write = _in_type_of(frames, Weights.of(flat))
    slots = memory.shape[2]
    norm = layers[0].norm_weight, layers[0].norm_bias
    kept: list[Tensor] = []
    tokens, normed, mean, rstd = ops.ttm_read.forward(memory, frames[:, 0], _stamp(stamps, 0), *norm, eps)
    for step in range(frames.shape[1]):
        if keep != "nothing":
            kept += [tokens, mean, rstd]
        processed, passed = _process(ops, tokens, normed, layers, heads, eps)
        if keep == "passes":
            for layer in passed:
                kept += layer
        frame, stamp = _next(frames, stamps, step)
        norm_or_none = norm if frame is not None else (None, None)
        tokens, normed, mean, rstd = ops.ttm_write.forward(
            tokens[:, :, :slots], processed, *write, frame, stamp, *norm_or_none, eps
        )
    return tokens, kept


def backward(
    ops: Ops, dmemory: Tensor, arguments: Arguments, kept: Sequence[Tensor], eps: float, keep: str
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """-> the gradients of frames, memory and weights; `kept` is what `forward` returned for this `keep`."""
    frames, memory, stamps, flat, heads = arguments
    layers, write = _in_type_of(frames, Weights.of(flat))
    slots = memory.shape[2]
    norm = layers[0].norm_weight, layers[0].norm_bias
    gradients = WeightGradients(Weights.of(flat))
    dframes = torch.empty_like(frames, memory_format=torch.contiguous_format)
    # What reached the group that this step wrote; for the last step, the memory itself.
    dtokens, dnormed, written = dmemory.contiguous(), None, Group(*[frames.new_empty(0)] * 3)
    for step in reversed(range(frames.shape[1])):
        group, passed = _recall(ops, kept, step, layers, heads, slots, eps, keep)
        frame, stamp = _next(frames, stamps, step)
        norm_or_none = norm if frame is not None else (None, None)
        before = group.tokens[:, :, :slots]
        processed = passed[-1].out.view_as(group.tokens)
        dbefore, dprocessed, *dwrite, dframe, dweight, dbias = ops.ttm_write.backward(
            dtokens, dnormed, before, processed, *write, frame, stamp, *norm_or_none, *written, eps
        )
        gradients.add_write(dwrite)
        if frame is not None:
            dframes[:, step + 1] = dframe
            gradients.add_norm(0, dweight, dbias)
        dtokens, dnormed = _unprocess(ops, dprocessed, group, passed, layers, eps, gradients)
        dtokens[:, :, :slots] += dbefore
        written = group
    dmemory, dframe, dweight, dbias = ops.ttm_read.backward(
        dtokens, dnormed, written.tokens, norm[0], written.mean, written.rstd
    )
    dframes[:, 0] = dframe
    gradients.add_norm(0, dweight, dbias)
    return dframes, dmemory, gradients.finish()


def _in_type_of(frames: Tensor, weights: Weights) -> tuple[list[Layer], Write]:
    """Matrices in the type of the frames, which the products want; LayerNorm parameters as they are."""
    dtype = frames.dtype
    layers = [
        layer._replace(qkv_weight=layer.qkv_weight.to(dtype), w1=layer.w1.to(dtype), w2=layer.w2.to(dtype))
        for layer in weights.layers
    ]
    return layers, weights.write


def _stamp(stamps: Tensor | None, step: int) -> Tensor | None:
    return None if stamps is None else stamps[step]


def _next(frames: Tensor, stamps: Tensor | None, step: int) -> tuple[Tensor | None, Tensor | None]:
    """The frame that the write of `step` reads on, with its time-stamp; after the last there is none."""
    if step + 1 == frames.shape[1]:
        return None, None
    return frames[:, step + 1], _stamp(stamps, step + 1)


def _process(
    ops: Ops, tokens: Tensor, normed: Tensor, layers: Sequence[Layer], heads: int, eps: float
) -> tuple[Tensor, list[Passed]]:
    """All layers of a step: tokens [B,S,n,D] -> processed [B,S,n,D]."""
    x, normed = tokens.flatten(0, 1), normed.flatten(0, 1)
    passed = []
    for number, layer in enumerate(layers):
        if number:
            normed = _layer_norm(x, layer.norm_weight, layer.norm_bias, eps)
        qkv = F.linear(normed, layer.qkv_weight).unflatten(-1, (3, heads, -1))
        y, z, mean, rstd = ops.grouped_attention.forward(
            x, qkv, layer.ff_norm_weight, layer.ff_norm_bias, eps
        )
        x, h = ops.feed_forward.forward(z, layer.w1, layer.w2, y)
        passed.append(Passed(qkv, y, mean, rstd, h, x))
    return x.view_as(tokens), passed


def _recall(
    ops: Ops,
    kept: Sequence[Tensor],
    step: int,
    layers: Sequence[Layer],
    heads: int,
    slots: int,
    eps: float,
    keep: str,
) -> tuple[Group, list[Passed]]:
    """A step's group and what its layers left, out of what was kept or computed again."""
    if keep == "passes":
        width = len(Group._fields) + len(layers) * len(Passed._fields)
        own = kept[step * width : (step + 1) * width]
        rest = iter(own[len(Group._fields) :])
        return Group(*own[: len(Group._fields)]), [Passed(*_take(rest)) for _ in layers]
    group = Group(*kept[step * len(Group._fields) : (step + 1) * len(Group._fields)])
    # The op that made `normed`, on the tokens that it made: the same bits as the first time.
    memory, frame = group.tokens[:, :, :slots], group.tokens[:, :, slots]
    normed = ops.ttm_read.forward(memory, frame, None, layers[0].norm_weight, layers[0].norm_bias, eps)[1]
    return group, _process(ops, group.tokens, normed, layers, heads, eps)[1]


def _take(tensors: Iterator[Tensor]) -> list[Tensor]:
    return [next(tensors) for _ in Passed._fields]


def _unprocess(
    ops: Ops,
    dprocessed: Tensor,
    group: Group,
    passed: Sequence[Passed],
    layers: Sequence[Layer],
    eps: float,
    gradients: WeightGradients,
) -> tuple[Tensor, Tensor]:
    """-> the gradients of a step's group and of its normed tokens, for the op that made the group."""
    dx = dprocessed.flatten(0, 1)
    dnormed = dx
    for number in reversed(range(len(layers))):
        layer, own = layers[number], passed[number]
        x = (passed[number - 1].out if number else group.tokens).view_as(own.y)
        dz, dh, a = ops.feed_forward.input_backward(dx, layer.w1, layer.w2, own.h)
        z = _layer_norm(own.y, layer.ff_norm_weight, layer.ff_norm_bias, eps)
        gradients.add_product(number, "w2", dx, a)
        gradients.add_product(number, "w1", dh, z)
        dx, dqkv, dweight, dbias = ops.grouped_attention.backward(
            dx, dz, own.qkv, layer.ff_norm_weight, own.y, own.mean, own.rstd
        )
        gradients.add_ff_norm(number, dweight, dbias)
        dqkv = dqkv.flatten(-3)
        normed = _layer_norm(x, layer.norm_weight, layer.norm_bias, eps)
        gradients.add_product(number, "qkv_weight", dqkv, normed)
        dnormed = dqkv @ layer.qkv_weight
        if number:
            through_norm, dweight, dbias = _layer_norm_backward(dnormed, x, layer, eps)
            dx = dx + through_norm
            gradients.add_norm(number, dweight, dbias)
    return dx.view_as(group.tokens), dnormed.view_as(group.tokens)


def _layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], weight.to(x.dtype), bias.to(x.dtype), eps)


def _layer_norm_backward(
    dnormed: Tensor, x: Tensor, layer: Layer, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    weight, bias = layer.norm_weight.to(x.dtype), layer.norm_bias.to(x.dtype)
    shape = x.shape[-1:]
    _, mean, rstd = torch.native_layer_norm(x, shape, weight, bias, eps)
    return torch.ops.aten.native_layer_norm_backward(
        dnormed, x, shape, mean, rstd, weight, bias, [True, True, True]
    )
