"""token_learner in float64, and how far rounding carries a correct kernel away from it.

A kernel may compute exactly except that it rounds to a type of unit roundoff u: z, or w1 with gamma folded
into it; w1, w2 and a = gelu(h) where they enter products; A where it multiplies x or dout; dl and dh; dz and
A dout where they are stored; and its outputs. What that does to a result is not a bound but a deviation. Here
it is measured, by computing the formula `SAMPLES` times with each of these values off by its own random part
of u; `terms` is `TAIL` deviations. A bound that adds up absolute values through four products in a row would
be ten to fifty times as wide, and would not notice a missing term.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from blip3v.ops.token_learner import reference
from blip3v.ops.token_learner.arguments import EPS, NAMES, Arguments
from blip3v.rounding import UNIT

SAMPLES = 8
TAIL = 4.0
"""Errors drawn evenly within u deviate by 0.58 u, those of rounding by 0.4 u, and a deviation counts its
row's as well: where rows are even this makes eight deviations of a kernel's, of a million elements."""


class Exact(NamedTuple):
    """A result in float64, and how far it may be off in units of the type that it is returned in."""

    value: Tensor
    terms: Tensor


def exact(arguments: Arguments, dout: Tensor | None = None, eps: float = EPS) -> dict[str, Exact]:
    """`out` and `lse`; with dout also the gradients, `dx`, `dnorm1_weight`, ... `dw2`."""
    narrow = arguments.x.dtype
    wide = arguments.with_floating(*(tensor.detach().double() for tensor in arguments.floating))
    dtypes = {"out": narrow, "lse": torch.promote_types(narrow, torch.float32)}
    out, lse = reference.forward(*wide, eps)
    values = {"out": out, "lse": lse}
    if dout is not None:
        dtypes |= {f"d{name}": tensor.dtype for name, tensor in zip(NAMES, arguments.floating)}
        dout = dout.double()
        values |= zip([f"d{name}" for name in NAMES[:7]], reference.backward(dout, *wide, out, lse, eps))

    noise = _Noise(UNIT[narrow], torch.Generator(lse.device).manual_seed(1))
    squares = {name: torch.zeros_like(value) for name, value in values.items()}
    for _ in range(SAMPLES):
        for name, value in _rounded(wide, dout, eps, noise).items():
            error = (value - values[name]).masked_fill(values[name].isinf(), 0)
            squares[name] += error.square() / SAMPLES
    terms = {name: TAIL / UNIT[dtypes[name]] * _deviation(squares[name]) for name in values}
    return {name: Exact(value, terms[name]) for name, value in values.items()}


def _deviation(squares: Tensor) -> Tensor:
    """A few samples say little of one element: its row's mean counts as much."""
    return (squares + squares.mean(-1, keepdim=True)).sqrt()


class _Noise:
    """Multiplies by 1 + u * (-1 to 1), each element by its own."""

    def __init__(self, unit: float, generator: torch.Generator) -> None:
        self.unit, self.generator = unit, generator

    def __call__(self, values: Tensor) -> Tensor:
        even = torch.rand(values.shape, generator=self.generator, dtype=values.dtype, device=values.device)
        return values * (1 + self.unit * (2 * even - 1))


def _rounded(wide: Arguments, dout: Tensor | None, eps: float, noise: _Noise) -> dict[str, Tensor]:
    """The formula of `reference`, with noise wherever a kernel may round."""
    x, gamma1, _, gamma2, _, w1, w2, keep = wide
    between = reference.hidden(wide, eps)
    z, rounded_w2 = noise(between.z), noise(w2)
    h = z @ noise(w1).T
    a = noise(F.gelu(h))
    logits = a @ rounded_w2.T
    if keep is not None:
        logits = logits.masked_fill(~keep[..., None], -torch.inf)
    lse = logits.logsumexp(1)
    weights = reference.softmax(logits, lse)
    out = noise(weights).transpose(1, 2) @ x
    results = {"out": out, "lse": lse}
    if dout is None:
        return results

    delta = (dout * noise(out)).sum(-1)
    dl = noise(weights * (x @ dout.transpose(1, 2) - delta[:, None]))
    dh = noise(dl @ rounded_w2 * reference.gelu_slope(h))
    dz = noise(dh @ noise(w1))
    dy = reference.standardise_backward(dz * gamma2, between.xhat2, between.rstd2)
    dx = reference.standardise_backward(dy * gamma1, between.xhat1, between.rstd1)
    gradients = (
        dx + noise(noise(weights) @ dout),
        (dy * between.xhat1).sum((0, 1)),
        dy.sum((0, 1)),
        (dz * between.xhat2).sum((0, 1)),
        dz.sum((0, 1)),
        torch.einsum("bnj,bnd->jd", dh, z),
        torch.einsum("bnk,bnj->kj", dl, a),
    )
    return results | dict(zip([f"d{name}" for name in NAMES[:7]], gradients))
