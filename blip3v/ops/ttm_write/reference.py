"""The formula of ttm_write in plain PyTorch, and the form of it that is used.

    new memory = TL(G) over [memory ; processed],  group = [new memory ; frame + stamp],  normed = LN(group)

out of the formulas of token_learner and ttm_read. `forward` and `backward` compute in float32 or better. They
are what to read, what the other backends are compared with (in float64), and what the custom operator runs
when it is asked for this backend. `write` is the same in the dtypes of its arguments and of autocast:
differentiable by autograd, and the backend `reference` of the public function.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from blip3v.ops.registry import Answer
from blip3v.ops.token_learner import Arguments as Learner
from blip3v.ops.token_learner import reference as token_learner
from blip3v.ops.ttm_read import reference as ttm_read
from blip3v.ops.ttm_write.arguments import Arguments
from blip3v.ranges import op_range, ranged


def can_run(*arguments: Tensor | None) -> Answer:
    """It runs whatever passed the op's own checks."""
    return Answer(True)


def learner_of(arguments: Arguments) -> Learner:
    """The TokenLearner's call: one "video" of G + n tokens for each position."""
    tokens = torch.cat([arguments.memory, arguments.processed], dim=2)
    return Learner(tokens.flatten(0, 1), *arguments[2:8])


@ranged(op_range, "ttm_write reference")
def write(*inputs_and_eps: Any) -> tuple[Tensor, Tensor] | Tensor:
    """The twelve `Arguments` and eps -> group, normed [B,S,G+1,D], or the new memory [B,S,G,D] without a
    frame."""
    *inputs, eps = inputs_and_eps
    arguments = Arguments(*inputs)
    memory = token_learner.pool(*learner_of(arguments), eps).unflatten(0, arguments.memory.shape[:2])
    frame, stamp, norm_weight, norm_bias = arguments[8:]
    if frame is None or norm_weight is None or norm_bias is None:
        return memory
    return ttm_read.read(memory, frame, stamp, norm_weight, norm_bias, eps)


def forward(*inputs_and_eps: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The twelve `Arguments` and eps -> group, normed [B,S,G+1,D]; mean, rstd [B,S,G+1] in float32 or better.

    Without a frame the new memory [B,S,G,D] and three empty tensors.
    """
    *inputs, eps = inputs_and_eps
    arguments = Arguments(*inputs)
    memory = token_learner.forward(*learner_of(arguments), eps)[0].unflatten(0, arguments.memory.shape[:2])
    frame, stamp, norm_weight, norm_bias = arguments[8:]
    if frame is None or norm_weight is None or norm_bias is None:
        precise = torch.promote_types(memory.dtype, torch.float32)
        nothing = (memory.new_empty(0, dtype=dtype) for dtype in (memory.dtype, precise, precise))
        return memory, *nothing  # type: ignore[return-value]
    return ttm_read.forward(memory, frame, stamp, norm_weight, norm_bias, eps)


def backward(dgroup: Tensor, dnormed: Tensor | None, *inputs_and_rest: Any) -> tuple[Tensor | None, ...]:
    """dgroup, dnormed, the twelve `Arguments`, group, mean, rstd, eps -> the gradients of all but the stamp.

    They are contiguous; without a frame dnormed does not count, and the last three are None.
    """
    *inputs, group, mean, rstd, eps = inputs_and_rest
    arguments = Arguments(*inputs)
    shape = arguments.memory.shape
    rest: tuple[Tensor | None, ...] = (None, None, None)
    if arguments.frame is not None:
        assert dnormed is not None and arguments.norm_weight is not None
        dgroup, *norm = ttm_read.group_backward(dgroup, dnormed, group, arguments.norm_weight, mean, rstd)
        rest = (dgroup[:, :, -1].to(group.dtype).clone(), *norm)
        dgroup = dgroup[:, :, :-1]
    learner = learner_of(arguments)
    precise = torch.promote_types(learner.x.dtype, torch.float32)
    wide = learner.with_floating(*(tensor.to(precise) for tensor in learner.floating))
    made = token_learner.forward(*wide, eps)
    dtokens, *own = token_learner.backward(dgroup.flatten(0, 1).to(precise), *wide, *made, eps)
    dtokens = dtokens.to(learner.x.dtype).unflatten(0, shape[:2])
    dmemory, dprocessed = (part.clone() for part in dtokens.tensor_split([shape[2]], dim=2))
    own = [gradient.to(like.dtype) for gradient, like in zip(own, learner.floating[1:])]
    return dmemory.contiguous(), dprocessed.contiguous(), *own, *rest
