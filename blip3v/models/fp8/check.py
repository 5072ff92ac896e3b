"""Before a GPU is trusted with FP8: its results against the formulas, on a small layer's worth of numbers."""

from __future__ import annotations

import functools

import torch

from blip3v.errors import UserError
from blip3v.models.fp8 import fused, rows
from blip3v.models.fp8.linear import OLDEST, Fp8Linear, emulated_product

ROWS, INPUTS, OUTPUTS = 729, 1152, 144
"""One frame of SigLIP, and no multiple of a tile."""

ALLOWED = 0.01
"""Relative error in norm: bfloat16 rounds the result by 2^-9, and fast accumulation loses as much again. A
wrong layout or scale is off by about 1."""


@functools.cache
def check_gpu(device: torch.device) -> None:
    """Once a process and device.

    Raises:
        UserError: a GPU without FP8, or one whose results differ.
    """
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST:
        raise UserError(
            f"FP8 needs a GPU of compute capability {OLDEST[0]}.{OLDEST[1]} or newer (Ada, Hopper), this one "
            f"has {capability[0]}.{capability[1]}: leave vision_fp8 off"
        )
    generator = torch.Generator(device).manual_seed(0)
    x = torch.randn(ROWS, INPUTS, device=device, generator=generator).bfloat16()
    weight, bias = torch.randn(2, INPUTS, device=device, generator=generator)
    pairs = {
        "rounding": (fused.quantised(x), rows.quantised(x)),
        "LayerNorm and rounding": (
            fused.norm_quantised(x, weight, bias, 1e-6),
            rows.norm_quantised(x, weight, bias, 1e-6),
        ),
        "GELU and rounding": (fused.gelu_quantised(x), rows.gelu_quantised(x)),
    }
    results = {name: (got.dequantised(), want.dequantised()) for name, (got, want) in pairs.items()}
    linear = torch.nn.Linear(INPUTS, OUTPUTS, device=device)
    product = Fp8Linear([linear], torch.bfloat16, device)
    tokens = rows.quantised(x)
    results["the product"] = (
        product(tokens),
        emulated_product(tokens, product.values, product.scale, product.bias),
    )
    for name, (got, want) in results.items():
        error = float((got.float() - want.float()).norm() / want.float().norm())
        # Written so that NaN is refused.
        if not error <= ALLOWED:
            raise UserError(
                f"FP8: {name} on {torch.cuda.get_device_name(device)} is off by {error:.1e}, more than "
                f"rounding explains: leave vision_fp8 off, and report it with torch's and triton's versions"
            )
