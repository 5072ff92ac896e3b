"""Triton kernel of the rounding to e4m3 rows: what comes before it, the row's maximum and the cast at once.

One program has one row in registers: x is read once, e4m3 and a scale are written once. Bytes of device
memory, per element of x in bfloat16:

    before      passes of their own                         here
    LayerNorm   2 read + 2 written, 2 for the maximum,      2 read + 1 written
                2 read + 1 written by the cast: 9           3
    GELU        the same: 9                                 3
    nothing     2, 2 + 1: 5                                 3

In SigLIP so400m a layer rounds 1152 numbers of a patch behind each LayerNorm, 4304 behind GELU and 1152
behind attention: 6 * (2304 + 4304) + 2 * 1152 = 42 kB saved a patch and layer, 6.6 GB a video of 8 frames,
1.5 ms at the 4.3 TB/s measured on an H200, where the products that FP8 halves take 6 ms in bfloat16.

Deterministic. It has run in Triton's interpreter and been compiled for sm_89 and sm_90, not run on a GPU.
"""

# mypy: disable-error-code="no-untyped-def"
# (the compiler reads these functions as Triton, not as Python: an annotation other than constexpr is noise)

from __future__ import annotations

import triton
import triton.language as tl

NOTHING = tl.constexpr(0)
LAYER_NORM = tl.constexpr(1)
GELU = tl.constexpr(2)

LARGEST = tl.constexpr(448.0)
SMALLEST_ROW = tl.constexpr(1e-12)


@triton.jit
def _gelu(x):
    """x / 2 (1 + tanh(u)) = x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3)."""
    return x * tl.sigmoid(x * (1.5957691216057308 + 0.07135481282052117 * x * x))


@triton.jit
def rows_kernel(
    x, weight, bias, values, scales, columns, x_row, epsilon,
    BEFORE: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr,
):  # fmt: skip
    """One program: a row of x [R,columns], row stride x_row -> values [R,columns] contiguous, scales [R].

    A row of 1152 or 4304 is far from a power of two, so it is held as HEAD + TAIL, HEAD <= columns.
    """
    row = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, HEAD)
    tail = HEAD + tl.arange(0, TAIL)
    inside = tail < columns
    a = tl.load(x + row * x_row + head).to(tl.float32)
    b = tl.load(x + row * x_row + tail, mask=inside, other=0.0).to(tl.float32)
    if BEFORE == LAYER_NORM:
        mean = (tl.sum(a) + tl.sum(b)) / columns
        a -= mean
        b = tl.where(inside, b - mean, 0.0)
        deviation = tl.sqrt((tl.sum(a * a) + tl.sum(b * b)) / columns + epsilon)
        a = a / deviation * tl.load(weight + head).to(tl.float32) + tl.load(bias + head).to(tl.float32)
        b = b / deviation * tl.load(weight + tail, mask=inside, other=0.0).to(tl.float32)
        b += tl.load(bias + tail, mask=inside, other=0.0).to(tl.float32)
    if BEFORE == GELU:
        a, b = _gelu(a), _gelu(b)
    largest = tl.maximum(tl.maximum(tl.max(tl.abs(a)), tl.max(tl.abs(b))), SMALLEST_ROW)
    # Correctly rounded, so that the numbers are the formula's, bit for bit.
    factor = tl.div_rn(LARGEST, largest)
    kind = values.dtype.element_ty
    tl.store(values + row * columns + head, (a * factor).to(kind))
    tl.store(values + row * columns + tail, (b * factor).to(kind), mask=inside)
    tl.store(scales + row, tl.div_rn(largest, LARGEST))
