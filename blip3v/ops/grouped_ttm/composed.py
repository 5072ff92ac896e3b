"""The backends of grouped_ttm: the recurrence over the same-named backends of its ops.

`use_backend("triton", op="feed_forward")` or BLIP3V_BACKEND=feed_forward=triton exchanges one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from blip3v.ops import registry
from blip3v.ops.grouped_ttm import recurrence
from blip3v.ops.grouped_ttm.arguments import Arguments, Weights
from blip3v.ops.registry import Answer

Functions = tuple[Callable[..., Answer], Callable[..., Any], Callable[..., Any]]


def composed_of(name: str) -> Functions:
    """-> can_run, forward, backward of the backend `name`."""

    def backend_of(op: str) -> registry.Backend:
        return registry.backend_named(op, registry.wished_of_one(op) or name)

    def ops() -> recurrence.Ops:
        return recurrence.Ops(*(backend_of(op).load() for op in recurrence.Ops._fields))

    def can_run(*arguments: Any) -> Answer:
        for op, call in _first_group(Arguments(*arguments)):
            ok, reason = backend_of(op).can_run(*call)
            if not ok:
                return Answer(False, f"{op}: {reason}")
        return Answer(True)

    def forward(*arguments_and_rest: Any) -> tuple[Tensor, list[Tensor]]:
        """`Arguments`, eps, keep -> the final memory, and what the backward wants."""
        *arguments, eps, keep = arguments_and_rest
        return recurrence.forward(ops(), Arguments(*arguments), eps, keep)

    def backward(dmemory: Tensor, *arguments_and_rest: Any) -> tuple[Tensor, Tensor, list[Tensor]]:
        """dmemory, `Arguments`, kept, eps, keep -> the gradients of frames, memory and weights."""
        *arguments, kept, eps, keep = arguments_and_rest
        return recurrence.backward(ops(), dmemory, Arguments(*arguments), kept, eps, keep)

    return can_run, forward, backward


def _first_group(arguments: Arguments) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """The calls that one group of the first step leads to, to ask the backends about."""
    frames, memory, stamps, flat, heads = arguments
    layers, write = Weights.of(flat)
    slots, width = memory.shape[2:]
    layer, frame = layers[0], frames[:1, 0, :1]
    stamp = None if stamps is None else stamps[0]
    norm = layer.norm_weight, layer.norm_bias
    tokens = frames.new_empty(1, 1, slots + 1, width)
    group = tokens[0]
    qkv = frames.new_empty(1, slots + 1, 3, heads, width // heads)
    w1, w2 = layer.w1.to(frames.dtype), layer.w2.to(frames.dtype)
    yield "ttm_read", (memory[:1, :1], frame, stamp, *norm)
    yield "grouped_attention", (group, qkv, layer.ff_norm_weight, layer.ff_norm_bias)
    yield "feed_forward", (group, w1, w2, group)
    yield "ttm_write", (tokens[:, :, :slots], tokens, *write, frame, stamp, *norm)
