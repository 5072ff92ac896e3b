"""How much one rounding may be off, by type: what comparisons with float64 are made of."""

from __future__ import annotations

import torch

UNIT = {
    torch.bfloat16: 2.0**-8,
    torch.float16: 2.0**-11,
    # Not the roundoff of float32, 2^-24, but what sums of a thousand terms, exponentials and another order of
    # summation make of it.
    torch.float32: 2.0**-18,
    torch.float64: 2.0**-44,
}
"""Relative error that one rounded term may carry, by type."""
