"""resampler_attention in float64, and how far rounding can carry a correct kernel away from it.

A kernel that computes exactly except that it rounds p, ds and its outputs to a type of unit roundoff u is off
by at most u * (|x| + terms), element by element, where `terms` is the sum of the absolute values of what was
added up to x. The row sums `delta` are taken from the rounded output, which adds their error to that of ds.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from blip3v.ops.resampler_attention import reference
from blip3v.ops.resampler_attention.arguments import NAMES, Arguments


class Exact(NamedTuple):
    """A result in float64, and the sum of the absolute values of its rounded terms."""

    value: Tensor
    terms: Tensor


def exact(arguments: Arguments, dout: Tensor | None = None, scale: float | None = None) -> dict[str, Exact]:
    """`out` and `lse`; with dout also `dq`, `dk_media`, `dv_media`, `dk_latents`, `dv_latents`."""
    scale = arguments.q.shape[-1] ** -0.5 if scale is None else scale
    wide = arguments.with_floating(*(tensor.detach().double() for tensor in arguments.floating))
    out, lse = reference.forward(*wide, scale)
    q, k_media, _, k_latents, _, lengths, keep = wide
    p = reference.probabilities(q, k_media, k_latents, lengths, keep, lse, scale)
    k, v = torch.cat((k_media, k_latents), 1), torch.cat((wide.v_media, wide.v_latents), 1)
    out_terms = torch.einsum("fhqk,fkhd->fqhd", p, v.abs())
    # The sum of exponentials is never rounded to the narrow type; 1 stands for its relative error.
    results = {"out": Exact(out, out_terms), "lse": Exact(lse, torch.ones_like(lse))}
    if dout is None:
        return results

    dout = dout.double()
    gradients = reference.backward(dout, *wide, out, lse, scale)
    delta_error = torch.einsum("fqhd,fqhd->fhq", dout.abs(), out.abs() + out_terms)
    slope = torch.einsum("fqhd,fkhd->fhqk", dout, v) - torch.einsum("fqhd,fqhd->fhq", dout, out)[..., None]
    ds_terms = scale * p * (slope.abs() + delta_error[..., None])
    media = k_media.shape[1]
    dk_terms = torch.einsum("fhqk,fqhd->fkhd", ds_terms, q.abs())
    dv_terms = torch.einsum("fhqk,fqhd->fkhd", p, dout.abs())
    terms = (
        torch.einsum("fhqk,fkhd->fqhd", ds_terms, k.abs()),
        dk_terms[:, :media],
        dv_terms[:, :media],
        dk_terms[:, media:],
        dv_terms[:, media:],
    )
    names = (f"d{name}" for name in NAMES[:5])
    return results | {name: Exact(*pair) for name, pair in zip(names, zip(gradients, terms))}
