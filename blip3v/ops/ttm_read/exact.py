"""ttm_read in float64, and how far rounding carries a correct kernel away from it.

A kernel may compute exactly except that it rounds some values to a type of unit roundoff u. What that does to
a result is measured: the formula is computed `SAMPLES` times, forward and backward, with each of these
values, and each gradient that goes back through them, off by its own random part of u; `terms` is `TAIL`
deviations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from blip3v.ops.ttm_read.arguments import EPS, Arguments
from blip3v.rounding import UNIT

SAMPLES = 6
TAIL = 3.0
"""Errors drawn evenly within u deviate by 0.58 u, those of rounding by 0.4 u at most: four of a kernel's
deviations."""


class Rounding(Protocol):
    def __call__(self, values: Tensor, forward: bool = True) -> Tensor:
        """values, rounded; without `forward` only the gradient is that goes back through them."""


Formula = Callable[[tuple[Any, ...], Rounding], dict[str, Tensor]]


class Exact(NamedTuple):
    """A result in float64, and how far it may be off in units of the type that it is returned in."""

    value: Tensor
    terms: Tensor


class _Round(torch.autograd.Function):
    """Multiplies by 1 + u * (-1 to 1), backward and perhaps forward, each element by its own."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, unit: float, generator: torch.Generator, also: bool) -> Tensor:
        ctx.unit, ctx.generator = unit, generator
        return values * _near_one(values, unit, generator) if also else values.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        return gradient * _near_one(gradient, ctx.unit, ctx.generator), None, None, None


def _near_one(values: Tensor, unit: float, generator: torch.Generator) -> Tensor:
    even = torch.rand(values.shape, generator=generator, dtype=values.dtype, device=values.device)
    return 1 + unit * (2 * even - 1)


def measure(
    formula: Formula,
    tensors: Mapping[str, Tensor | None],
    dtypes: Mapping[str, torch.dtype],
    outputs: Mapping[str, Tensor],
    narrow: torch.dtype,
) -> dict[str, Exact]:
    """What `formula(tensors, rounding)` gives, and the gradients of `tensors`, by name.

    tensors: float64 or None. dtypes: of all results. outputs: the gradients of those results that have one;
    without any, nothing is differentiated. narrow: the type that `rounding` stands for.
    """

    def run(rounding: Rounding) -> dict[str, Tensor]:
        leaves = {n: None if t is None else t.detach().double().requires_grad_() for n, t in tensors.items()}
        results = formula(tuple(leaves.values()), rounding)
        if outputs:
            asked = {name: leaf for name, leaf in leaves.items() if leaf is not None}
            gradients = torch.autograd.grad(
                [results[name] for name in outputs],
                list(asked.values()),
                [gradient.double() for gradient in outputs.values()],
                allow_unused=True,
            )
            results |= {f"d{name}": g for name, g in zip(asked, gradients) if g is not None}
        return {name: result.detach() for name, result in results.items() if name in dtypes}

    def exactly(values: Tensor, forward: bool = True) -> Tensor:
        return values

    values = run(exactly)
    device = next(iter(values.values())).device
    generator = torch.Generator(device).manual_seed(1)

    def roughly(values: Tensor, forward: bool = True) -> Tensor:
        rounded: Tensor = _Round.apply(values, UNIT[narrow], generator, forward)
        return rounded

    squares = {name: torch.zeros_like(value) for name, value in values.items()}
    for _ in range(SAMPLES):
        for name, value in run(roughly).items():
            squares[name] += (value - values[name]).square() / SAMPLES
    # A few samples say little of one element: its row's mean counts as much.
    spread = {name: (square + square.mean(-1, keepdim=True)).sqrt() for name, square in squares.items()}
    return {n: Exact(value, TAIL / UNIT[dtypes[n]] * spread[n]) for n, value in values.items()}


def normalise(group: Tensor, weight: Tensor, bias: Tensor, eps: float) -> dict[str, Tensor]:
    """`normed`, `mean` and `rstd` of a group."""
    mean = group.mean(-1)
    rstd = (group.var(-1, correction=0) + eps).rsqrt()
    return {"normed": F.layer_norm(group, group.shape[-1:], weight, bias, eps), "mean": mean, "rstd": rstd}


def exact(
    arguments: Arguments, dgroup: Tensor | None = None, dnormed: Tensor | None = None, eps: float = EPS
) -> dict[str, Exact]:
    """`group`, `normed`, `mean`, `rstd`; with gradients also `dmemory`, `dframe`, `dnorm_weight`,
    `dnorm_bias`."""
    narrow = arguments.memory.dtype
    precise = torch.promote_types(narrow, torch.float32)
    dtypes = {"group": narrow, "normed": narrow, "mean": precise, "rstd": precise}
    outputs = {}
    if dgroup is not None and dnormed is not None:
        outputs = {"group": dgroup, "normed": dnormed}
        dtypes |= {
            f"d{name}": t.dtype
            for name, t in arguments._asdict().items()
            if t is not None and name != "stamp"
        }

    def formula(tensors: tuple[Any, ...], rounding: Rounding) -> dict[str, Tensor]:
        memory, frame, stamp, weight, bias = tensors
        if stamp is not None:
            # Rounded to memory's type by definition.
            frame = frame + stamp.detach().to(narrow).double()
        group = torch.cat([memory, rounding(frame)[:, :, None]], 2)
        results = normalise(group, weight, bias, eps)
        return {"group": group, **results, "normed": rounding(results["normed"])}

    return with_statistics(measure(formula, arguments._asdict(), dtypes, outputs, narrow), narrow)


def with_statistics(results: dict[str, Exact], narrow: torch.dtype) -> dict[str, Exact]:
    """The bounds of mean and rstd: numbers of which a row has one, so that samples say too little.

    What a group's rounding makes of them, with the tail of the others doubled, and their own arithmetic.
    """
    group, mean, rstd = results["group"].value, results["mean"], results["rstd"]
    ratio = (
        2 * TAIL * UNIT[narrow] / UNIT[torch.promote_types(narrow, torch.float32)] * group.shape[-1] ** -0.5
    )
    centred = group - mean.value[..., None]
    of_mean = group.abs().mean(-1) + ratio * group.square().mean(-1).sqrt()
    of_rstd = rstd.value + ratio * rstd.value**3 * (group * centred).square().mean(-1).sqrt()
    mean, rstd = (
        result._replace(terms=result.terms + more) for result, more in ((mean, of_mean), (rstd, of_rstd))
    )
    return results | {"mean": mean, "rstd": rstd}
