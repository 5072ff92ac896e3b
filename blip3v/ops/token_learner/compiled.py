"""What the compiled kernels need and how they are called, the same for the GPU and for the simulator.

The kernels make out, lse, dx and, rounded to bfloat16, the gradients of the hidden layer and of the logits.
The gradients of the parameters follow from these in PyTorch: two matrix products over all tokens, with
float32 sums, and sums of small things. They are the same bits in every run where PyTorch's products are.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from blip3v.ops.native_backend import misfit
from blip3v.ops.registry import Answer
from blip3v.ops.tensor_description import describe
from blip3v.ops.token_learner.arguments import NAMES, Arguments

SPLITS = 0
"""Blocks that share the channels of a tile of tokens: 1, 2, 4 or 8; 0 leaves it to the launcher."""
POOL_SPLITS = 0
"""Blocks that share the tokens of a video in the weighted sum: 1 to 8; 0 leaves it to the launcher."""


def accepts(module: Any, *tensors: Tensor | None) -> Answer:
    """Whether the kernels of `module` take these tensors; the first thing that they do not is the reason."""
    arguments = Arguments(*tensors)  # type: ignore[arg-type]
    x = arguments.x
    if x.dtype != torch.bfloat16:
        return Answer(False, f"{x.dtype}, need bfloat16")
    for name, tensor in zip(NAMES[1:], arguments.floating[1:]):
        if tensor.dtype not in (torch.bfloat16, torch.float32):
            return Answer(False, f"{name} is {tensor.dtype}, need bfloat16 or float32")
    most_made, most_hidden, most_channels = module.token_learner_most
    hidden, channels = arguments.w1.shape
    made = arguments.w2.shape[0]
    for what, size, most in (("channels", channels, most_channels), ("hidden columns", hidden, most_hidden)):
        if size % 8 or size > most:
            return Answer(False, f"{size} {what}, need a multiple of 8 up to {most}")
    if made > most_made:
        return Answer(False, f"{made} tokens made, need at most {most_made}")
    why = misfit(x)
    return Answer(False, f"x: {why}") if why else Answer(True)


class _Scratch(NamedTuple):
    """What lies between the launches of forward and backward; shapes in csrc/token_learner/params.h."""

    folded_w1: Tensor
    folded_w2: Tensor
    constants: Tensor
    channels: Tensor
    moments: Tensor
    logits: Tensor
    parts: Tensor


def _scratch(arguments: Arguments, plan: dict[str, int]) -> _Scratch:
    x = arguments.x
    videos, _, width = x.shape
    made, hidden = plan["made"], plan["hidden"]

    def wide(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=x.device)

    return _Scratch(
        x.new_empty(hidden, width),
        x.new_empty(made, hidden),
        wide(hidden, 4),
        wide(3, width),
        wide(8),
        wide(videos, made, plan["tokens"]),
        wide(videos, plan["parts"], made, 2),
    )


def _prepared(arguments: Arguments) -> Arguments:
    """The parameters and the mask are small: a strided one is copied rather than refused."""
    return Arguments(arguments.x, *(None if t is None else t.contiguous() for t in arguments[1:]))  # type: ignore[arg-type]


def _plan(module: Any, arguments: Arguments) -> dict[str, int]:
    x, w1, w2 = (describe(module, tensor) for tensor in (arguments.x, arguments.w1, arguments.w2))
    plan: dict[str, int] = module.token_learner_plan(x, w1, w2, SPLITS, POOL_SPLITS)
    return plan


def forward(module: Any, stream: int, *tensors_and_eps: Any) -> tuple[Tensor, Tensor]:
    """The eight `Arguments` and eps -> out [B,k,D] bfloat16, lse [B,k] float32."""
    *inputs, eps = tensors_and_eps
    arguments = _prepared(Arguments(*inputs))
    x, made = arguments.x, arguments.w2.shape[0]
    videos, _, width = x.shape
    plan = _plan(module, arguments)
    out = x.new_empty(videos, made, width)
    lse = torch.empty((videos, made), dtype=torch.float32, device=x.device)
    tensors = (
        *arguments,
        *_scratch(arguments, plan),
        out,
        lse,
    )  # the name keeps copies alive until the launch
    described = [describe(module, tensor) for tensor in tensors]
    module.token_learner_forward(*described, eps, plan["splits"], plan["pool_splits"], stream)
    return out, lse


def backward(module: Any, stream: int, dout: Tensor, *tensors_and_rest: Any) -> tuple[Tensor, ...]:
    """dout, the eight `Arguments`, out, lse, eps -> the seven gradients, contiguous."""
    *inputs, out, lse, eps = tensors_and_rest
    arguments = _prepared(Arguments(*inputs))
    x, w1, w2 = arguments.x, arguments.w1, arguments.w2
    videos, tokens, width = x.shape
    hidden, made = w1.shape[0], w2.shape[0]
    made_out = -(-made // 8) * 8
    if misfit(dout):
        dout = dout.contiguous()
    plan = _plan(module, arguments)
    delta = (out.float() * dout.float()).sum(-1)

    def wide(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=x.device)

    h, rows, coefficients = (wide(videos, tokens, size) for size in (hidden, 8, 8))
    activated, dhidden = (x.new_empty(videos, tokens, hidden) for _ in range(2))
    weights, dlogits = (x.new_empty(videos, tokens, made_out) for _ in range(2))
    dx = x.new_empty(x.shape)
    partials = wide(plan["partials"], 3, width)
    tensors = (
        *(dout, *arguments, lse.contiguous(), delta, *_scratch(arguments, plan)),
        *(h, activated, rows, weights, dlogits, dhidden, coefficients, dx, partials),
    )
    described = [describe(module, tensor) for tensor in tensors]
    module.token_learner_backward(*described, eps, plan["splits"], stream)

    dw2 = _over_tokens(dlogits, activated)[:made]
    parameters = _of_parameters(arguments, dhidden, coefficients, partials.sum(0))
    gradients = (dx, *parameters, dw2)
    return tuple(
        gradient.to(tensor.dtype).contiguous() for gradient, tensor in zip(gradients, arguments.floating)
    )


def _over_tokens(left: Tensor, right: Tensor) -> Tensor:
    """left^T right over all tokens: [B,N,I] and [B,N,K] -> [I,K] float32."""
    left, right = left.flatten(0, 1).t(), right.flatten(0, 1)
    if left.is_cuda:
        return torch.mm(left, right, out_dtype=torch.float32)
    return left.float() @ right.float()


def _of_parameters(
    arguments: Arguments, dhidden: Tensor, coefficients: Tensor, columns: Tensor
) -> tuple[Tensor, ...]:
    """-> dnorm1_weight, dnorm1_bias, dnorm2_weight, dnorm2_bias, dw1, in float32.

    With y = r1 (x - mu) g1 + b1, yhat = r2 (y - m2), z = g2 yhat + b2, h = w1 z, the gradient dh of h gives

        V   = sum_n dh yhat = g1 sum_n dh' (x - mu) + b1 sum_n r2 dh - sum_n r2 m2 dh,   dh' = r1 r2 dh
        dw1 = g2 V + b2 sum_n dh        dg2 = sum_j w1 V        db2 = sum_j w1 sum_n dh

    and the gradient of y, which is r2 (w1 g2)^T dh + (e1 + e2 y) / r1 with the coefficients of
    csrc/token_learner/slopes.cuh, gives dg1 and db1. `columns` [3,D]: sums of e2 v, e1 v, e2 r1 v^2 with
    v = x - mu.
    """
    g1, b1, g2, b2 = (tensor.float() for tensor in arguments[1:5])
    w1 = arguments.w1.float()
    mu, r1, e1, e2, _, _, r2, m2 = coefficients.flatten(0, 1).unbind(1)
    by = torch.stack((mu, 1 / r1, m2 / r1, 1 / (r1 * r2)))
    # Sums over the tokens of dh' mu, r2 dh, r2 m2 dh and dh.
    of_mu, of_r2, of_m2, of_one = (by @ dhidden.flatten(0, 1).float())[:, :, None]
    centred = _over_tokens(dhidden, arguments.x) - of_mu
    v = g1 * centred + b1 * of_r2 - of_m2
    scaled = w1 * g2
    return (
        (scaled * centred).sum(0) + columns[1] + g1 * columns[2] + b1 * columns[0],
        (scaled * of_r2).sum(0) + (e1 / r1).sum() + g1 * columns[0] + b1 * (e2 / r1).sum(),
        (w1 * v).sum(0),
        (w1 * of_one).sum(0),
        g2 * v + b2 * of_one,
    )
