"""The Triton backend: the kernels of token_learner over the G + n rows of each position, then those of
ttm_read.

Portable and not fused: the rows are concatenated and the new memory goes through memory once. The interpreter
is a
matter of the process: set TRITON_INTERPRET=1 before anything imports triton.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from blip3v.ops.registry import Answer
from blip3v.ops.token_learner import triton as token_learner
from blip3v.ops.ttm_read import triton as ttm_read
from blip3v.ops.ttm_write.arguments import Arguments
from blip3v.ops.ttm_write.reference import learner_of


def can_run(*arguments: Tensor | None) -> Answer:
    call = Arguments(*arguments)  # type: ignore[arg-type]
    memory, frame = call.memory, call.frame
    # The concatenated rows of one position stand for all: they are what the kernels of token_learner see.
    tokens = memory.new_empty((1, memory.shape[2] + call.processed.shape[2], memory.shape[3]))
    answer = token_learner.can_run(tokens, *call[2:8], None)
    if not answer.ok or frame is None:
        return answer
    return ttm_read.can_run(memory, frame, call.stamp, call.norm_weight, call.norm_bias)


def forward(*inputs_and_eps: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The twelve `Arguments` and eps -> group, normed [B,S,G+1,D]; mean, rstd [B,S,G+1] float32.

    Without a frame the new memory [B,S,G,D] and three empty tensors.
    """
    *inputs, eps = inputs_and_eps
    arguments = Arguments(*inputs)
    memory = token_learner.forward(*learner_of(arguments), eps)[0].unflatten(0, arguments.memory.shape[:2])
    frame, stamp, norm_weight, norm_bias = arguments[8:]
    if frame is None or norm_weight is None or norm_bias is None:
        nothing = (memory.new_empty(0, dtype=dtype) for dtype in (memory.dtype, torch.float32, torch.float32))
        return memory, *nothing  # type: ignore[return-value]
    return ttm_read.forward(memory, frame, stamp, norm_weight, norm_bias, eps)


def backward(dgroup: Tensor, dnormed: Tensor | None, *inputs_and_rest: Any) -> tuple[Tensor | None, ...]:
    """dgroup, dnormed, the twelve `Arguments`, group, mean, rstd, eps -> the gradients of all but the stamp.

    They are contiguous; without a frame dnormed does not count, and the last three are None.
    """
    *inputs, group, mean, rstd, eps = inputs_and_rest
    arguments = Arguments(*inputs)
    slots = arguments.memory.shape[2]
    rest: tuple[Tensor | None, ...] = (None, None, None)
    if arguments.frame is not None:
        assert dnormed is not None and arguments.norm_weight is not None
        dgroup, *rest_of = ttm_read.backward(dgroup, dnormed, group, arguments.norm_weight, mean, rstd)
        rest = tuple(rest_of)
    learner = learner_of(arguments)
    # In float32: token_learner's backward starts from its output, and a rounded one costs the gradients of
    # the parameters, where the parts of so few rows cancel, most of their digits.
    wide = learner.with_floating(*(tensor.float() for tensor in learner.floating))
    made = token_learner.forward(*wide, eps)
    dtokens, *sums = token_learner.backward(dgroup.flatten(0, 1).float(), *wide, *made, eps)
    dtokens = dtokens.to(learner.x.dtype).unflatten(0, arguments.memory.shape[:2])
    dmemory, dprocessed = (part.clone().contiguous() for part in dtokens.tensor_split([slots], dim=2))
    own = (gradient.to(like.dtype) for gradient, like in zip(sums, arguments[2:8]) if like is not None)
    return dmemory, dprocessed, *own, *rest
