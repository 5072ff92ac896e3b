"""feed_forward in float64, and how far rounding can carry a correct kernel away from it.

A kernel that sums in float32 and rounds h, a = gelu(h), dh and its outputs to a narrow type of unit roundoff
u is off by at most u * (|x| + terms), element by element. `terms` holds what the roundings before x carry
into it: that of h through the slope of what is computed from it, that of a and dh as they stand; and that of
what is computed in float32, by the factor by which its roundoff is smaller than u: sums, and the normal
distribution, which is off by that much of 1 and not of its value (1 + erf cancels far below zero).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from blip3v.ops.feed_forward import reference
from blip3v.ops.feed_forward.arguments import Arguments
from blip3v.rounding import UNIT


class Exact(NamedTuple):
    """A result in float64, and the sum of the absolute values of its rounded terms."""

    value: Tensor
    terms: Tensor


def exact(arguments: Arguments, dout: Tensor | None = None) -> dict[str, Exact]:
    """`out`, `h`, `a`; with dout also `dz`, `dh`, `dw1`, `dw2`."""
    unit = UNIT[arguments.z.dtype]
    sums = min(1.0, UNIT[torch.float32] / unit)  # roundoff of float32, in units of the type's
    z, w1, w2, residual = (tensor.detach().double() for tensor in arguments)
    out, h = reference.forward(z, w1, w2, residual)
    a, slope = F.gelu(h), reference.dgelu(h).abs()
    # Weights in float32 are rounded to z's type first.
    weights = float(any(weight.dtype != arguments.z.dtype for weight in arguments[1:3]))
    h_terms = F.linear(z.abs(), w1.abs()) * max(sums, weights)
    a_terms = slope * (h.abs() + h_terms) + sums * h.abs()
    out_terms = F.linear(a.abs() * (1 + weights) + a_terms, w2.abs()) + sums * residual.abs()
    results = {"out": Exact(out, out_terms), "h": Exact(h, h_terms), "a": Exact(a, a_terms)}
    if dout is None:
        return results

    dout = dout.detach().double()
    dz, dh, _ = reference.input_backward(dout, w1, w2, h)
    curvature = (2 - h * h).abs() * torch.exp(-h * h / 2) / (2 * torch.pi) ** 0.5  # |gelu''(h)|
    dh_terms = (dout @ w2).abs() * (curvature * (h.abs() + h_terms) + sums)
    dh_terms = dh_terms + max(sums, weights) * slope * (dout.abs() @ w2.abs())
    dh_whole, a_whole = dh.abs() + dh_terms, a.abs() + a_terms
    rows = (tensor.abs().reshape(-1, tensor.shape[-1]) for tensor in (dout, z, dh_whole, a_whole))
    dw1, dw2 = reference.weight_gradients(dout, z, dh, a, w1, w2)
    dout_rows, z_rows, dh_rows, a_rows = rows
    return results | {
        "dz": Exact(dz, (dh_whole + weights * dh.abs()) @ w1.abs()),
        "dh": Exact(dh, dh_terms),
        "dw1": Exact(dw1, dh_rows.t() @ z_rows),
        "dw2": Exact(dw2, dout_rows.t() @ a_rows),
    }
