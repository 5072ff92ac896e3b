"""Triton kernel of feed_forward: a product of matrices with one of three things on its way out.

Every output element is written by exactly one program and every sum is taken in one order: no atomics, and
the same bits in every run. Needs triton; `triton.py` beside this file decides whether it may be used.

It has run in Triton's interpreter and been compiled for sm_80 and sm_90, not yet run on a GPU.
"""

# mypy: disable-error-code="no-untyped-def"
# (the compiler reads these functions as Triton, not as Python: an annotation other than constexpr is noise)

from __future__ import annotations

import triton
import triton.language as tl

GELU = tl.constexpr(0)
RESIDUAL = tl.constexpr(1)
DGELU = tl.constexpr(2)

GROUP = tl.constexpr(8)  # row tiles that go through the columns together, so that they find b in the L2 cache
INVERSE_ROOT_2 = tl.constexpr(0.7071067811865476)
INVERSE_ROOT_2_PI = tl.constexpr(0.3989422804014327)

if triton.knobs.runtime.interpret:

    def _bound(value):
        """Triton 3.6's interpreter takes int() of an array of one element, which numpy 2.4 refuses."""
        return int(value.handle.data.item()) if isinstance(value, tl.tensor) else value

else:

    @triton.jit
    def _bound(value):
        """The end of a loop."""
        return value


@triton.jit
def _below(h):
    """The normal distribution Phi(h)."""
    return 0.5 * (1.0 + tl.erf(h * INVERSE_ROOT_2))


@triton.jit
def product_kernel(
    a, b, read, out, second, rows, columns, depth,
    a_row, a_depth, b_depth, b_column, read_row,
    EPILOGUE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One program: a tile [BLOCK_M, BLOCK_N] of p = a b, a [rows,depth], b [depth,columns].

    GELU: second = p, out = gelu(p as stored). RESIDUAL: out = read + p. DGELU, with read = h:
    out = p * gelu'(h), second = gelu(h). out and second [rows,columns] are contiguous.
    """
    tiles_m, tiles_n = tl.cdiv(rows, BLOCK_M), tl.cdiv(columns, BLOCK_N)
    per_group = GROUP * tiles_n
    first = tl.program_id(0) // per_group * GROUP
    height = tl.minimum(tiles_m - first, GROUP)
    within = tl.program_id(0) % per_group
    m = (first + within % height) * BLOCK_M + tl.arange(0, BLOCK_M).to(tl.int64)
    n = within // height * BLOCK_N + tl.arange(0, BLOCK_N).to(tl.int64)
    k = tl.arange(0, BLOCK_K)
    m_inside, n_inside = m < rows, n < columns

    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start in range(0, _bound(depth), BLOCK_K):
        at = start + k
        a_tile = tl.load(
            a + m[:, None] * a_row + at[None, :] * a_depth,
            m_inside[:, None] & (at < depth)[None, :],
            other=0.0,
        )
        b_tile = tl.load(
            b + at[:, None] * b_depth + n[None, :] * b_column,
            (at < depth)[:, None] & n_inside[None, :],
            other=0.0,
        )
        total = tl.dot(a_tile, b_tile, total, input_precision="ieee")

    inside = m_inside[:, None] & n_inside[None, :]
    own = m[:, None] * columns + n[None, :]
    kind = out.dtype.element_ty
    if EPILOGUE == GELU:
        h = total.to(kind)
        tl.store(second + own, h, mask=inside)
        h = h.to(tl.float32)
        tl.store(out + own, (h * _below(h)).to(kind), mask=inside)
    else:
        other = tl.load(read + m[:, None] * read_row + n[None, :], mask=inside, other=0.0).to(tl.float32)
        if EPILOGUE == RESIDUAL:
            tl.store(out + own, (other + total).to(kind), mask=inside)
        else:
            below = _below(other)
            slope = below + other * INVERSE_ROOT_2_PI * tl.exp(-0.5 * other * other)
            tl.store(second + own, (other * below).to(kind), mask=inside)
            tl.store(out + own, (total * slope).to(kind), mask=inside)
