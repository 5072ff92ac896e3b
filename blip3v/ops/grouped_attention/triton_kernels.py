"""Triton kernels of grouped_attention: attention with the residual, LayerNorm of rows, and the backward of
both.

The forward is two launches and not one: a program that held all heads of a group, as the LayerNorm wants,
would not fit in registers at any width. Every output element is written by one program: no atomics, and the
same bits in every run. The sums for the LayerNorm's parameters go through one row of partial sums per
program. Needs triton; `triton.py` beside this file decides whether it may be used.

They have run in Triton's interpreter and been compiled for sm_80 and sm_90, not yet run on a GPU.
"""

# mypy: disable-error-code="no-untyped-def"
# (the compiler reads these functions as Triton, not as Python: an annotation other than constexpr is noise)

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _load_head(base, token_stride, tokens, dim, first, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr):
    """[BLOCK_N, BLOCK_D] of one head from channel `first` on; zeros from token `tokens` and from channel
    `dim` on."""
    rows, columns = tl.arange(0, BLOCK_N), first + tl.arange(0, BLOCK_D)
    inside = (rows[:, None] < tokens) & (columns[None, :] < dim)
    return tl.load(base + rows[:, None] * token_stride + columns[None, :], mask=inside, other=0.0)


@triton.jit
def _store_head(base, token_stride, tokens, dim, first, values, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr):
    rows, columns = tl.arange(0, BLOCK_N), first + tl.arange(0, BLOCK_D)
    inside = (rows[:, None] < tokens) & (columns[None, :] < dim)
    address = base + rows[:, None] * token_stride + columns[None, :]
    tl.store(address, values.to(base.dtype.element_ty), mask=inside)


@triton.jit
def _products(
    a, b, a_token, b_token, tokens, dim,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    """a b^T, chunk of channels by chunk."""
    scores = tl.zeros([BLOCK_N, BLOCK_N], tl.float32)
    for chunk in range(CHUNKS):
        left = _load_head(a, a_token, tokens, dim, chunk * BLOCK_D, BLOCK_N, BLOCK_D)
        right = _load_head(b, b_token, tokens, dim, chunk * BLOCK_D, BLOCK_N, BLOCK_D)
        scores += tl.dot(left, tl.trans(right), input_precision="ieee")
    return scores


@triton.jit
def _probabilities(scores, scale, tokens, BLOCK_N: tl.constexpr):
    scores = tl.where((tl.arange(0, BLOCK_N) < tokens)[None, :], scores * (scale * LOG2_E), float("-inf"))
    p = tl.exp2(scores - tl.max(scores, 1)[:, None])
    return p / tl.sum(p, 1)[:, None]


@triton.jit
def attention_kernel(
    x, qkv, y, scale, tokens, heads, dim, x_group, x_token, qkv_group, qkv_token,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    """One program: y = x + attention of one head of one group; y [R,n,D] is contiguous."""
    group, head = (tl.program_id(0) // heads).to(tl.int64), tl.program_id(0) % heads
    width = heads * dim
    q = qkv + group * qkv_group + head * dim
    scores = _products(q, q + width, qkv_token, qkv_token, tokens, dim, BLOCK_N, BLOCK_D, CHUNKS)
    p = _probabilities(scores, scale, tokens, BLOCK_N)
    residual, own = x + group * x_group + head * dim, y + group * tokens * width + head * dim
    for chunk in range(CHUNKS):
        first = chunk * BLOCK_D
        v = _load_head(q + 2 * width, qkv_token, tokens, dim, first, BLOCK_N, BLOCK_D)
        out = tl.dot(p.to(v.dtype), v, input_precision="ieee")
        out += _load_head(residual, x_token, tokens, dim, first, BLOCK_N, BLOCK_D).to(tl.float32)
        _store_head(own, width, tokens, dim, first, out, BLOCK_N, BLOCK_D)


@triton.jit
def norm_kernel(y, norm_weight, norm_bias, z, mean, rstd, width, eps, BLOCK: tl.constexpr):
    """One program: the LayerNorm of one row of y; all contiguous."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    values = tl.load(y + row * width + columns, mask=inside, other=0.0).to(tl.float32)
    row_mean = tl.sum(values, 0) / width
    centred = tl.where(inside, values - row_mean, 0.0)
    row_rstd = 1.0 / tl.sqrt(tl.sum(centred * centred, 0) / width + eps)
    weight = tl.load(norm_weight + columns, mask=inside, other=0.0).to(tl.float32)
    bias = tl.load(norm_bias + columns, mask=inside, other=0.0).to(tl.float32)
    normed = centred * row_rstd * weight + bias
    tl.store(z + row * width + columns, normed.to(z.dtype.element_ty), mask=inside)
    tl.store(mean + row, row_mean)
    tl.store(rstd + row, row_rstd)


@triton.jit
def norm_backward_kernel(
    dy, dz, norm_weight, y, mean, rstd, dx, partials, rows, width, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    """One program: dx of ROWS rows, and what these add to the gradients of the two parameters.

    All contiguous; partials [programs, 2, D] float32.
    """
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    weight = tl.load(norm_weight + columns, mask=inside, other=0.0).to(tl.float32)
    weight_sum, bias_sum = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    first = tl.program_id(0) * ROWS
    for i in range(ROWS):
        row = (first + i).to(tl.int64)
        here = inside & (row < rows)
        at = row * width + columns
        slope = tl.load(dz + at, mask=here, other=0.0).to(tl.float32)
        values = tl.load(y + at, mask=here, other=0.0).to(tl.float32)
        row_mean = tl.load(mean + row, mask=row < rows, other=0.0)
        row_rstd = tl.load(rstd + row, mask=row < rows, other=0.0)
        h = tl.where(here, (values - row_mean) * row_rstd, 0.0)
        g = slope * weight
        through = g - tl.sum(g, 0) / width - h * (tl.sum(g * h, 0) / width)
        total = tl.load(dy + at, mask=here, other=0.0).to(tl.float32) + row_rstd * through
        tl.store(dx + at, total.to(dx.dtype.element_ty), mask=here)
        weight_sum += slope * h
        bias_sum += slope
    own = partials + tl.program_id(0) * 2 * width + columns
    tl.store(own, weight_sum, mask=inside)
    tl.store(own + width, bias_sum, mask=inside)


@triton.jit
def attention_backward_kernel(
    qkv, dx, dqkv, scale, tokens, heads, dim, qkv_group, qkv_token,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    """One program: dq, dk and dv of one head of one group; dx [R,n,D] and dqkv [R,n,3,H,d] are contiguous."""
    group, head = (tl.program_id(0) // heads).to(tl.int64), tl.program_id(0) % heads
    width = heads * dim
    q = qkv + group * qkv_group + head * dim
    slope, own = dx + group * tokens * width + head * dim, dqkv + group * tokens * 3 * width + head * dim
    scores = _products(q, q + width, qkv_token, qkv_token, tokens, dim, BLOCK_N, BLOCK_D, CHUNKS)
    p = _probabilities(scores, scale, tokens, BLOCK_N)
    # Rows that are not there have slope zero, and so add nothing to dk and dv.
    dp = _products(slope, q + 2 * width, width, qkv_token, tokens, dim, BLOCK_N, BLOCK_D, CHUNKS)
    ds = (p * (dp - tl.sum(p * dp, 1)[:, None]) * scale).to(qkv.dtype.element_ty)
    p = p.to(dx.dtype.element_ty)
    for chunk in range(CHUNKS):
        first = chunk * BLOCK_D
        k_part = _load_head(q + width, qkv_token, tokens, dim, first, BLOCK_N, BLOCK_D)
        dq = tl.dot(ds, k_part, input_precision="ieee")
        _store_head(own, 3 * width, tokens, dim, first, dq, BLOCK_N, BLOCK_D)
        q_part = _load_head(q, qkv_token, tokens, dim, first, BLOCK_N, BLOCK_D)
        dk = tl.dot(tl.trans(ds), q_part, input_precision="ieee")
        _store_head(own + width, 3 * width, tokens, dim, first, dk, BLOCK_N, BLOCK_D)
        slope_part = _load_head(slope, width, tokens, dim, first, BLOCK_N, BLOCK_D)
        dv = tl.dot(tl.trans(p), slope_part, input_precision="ieee")
        _store_head(own + 2 * width, 3 * width, tokens, dim, first, dv, BLOCK_N, BLOCK_D)
