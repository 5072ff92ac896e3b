"""Triton kernels of token_learner: logits and pooling forward; through the MLP and the norms backward.

A program owns whole rows, or a slice of channels of one video, and writes what nobody else writes: no
atomics, the same bits in every run. Weights and x enter matrix products in their own type; statistics, logits
and sums are float32. Needs triton; `triton.py` beside this file decides whether it may be used.

They have run in Triton's interpreter and been compiled for sm_80 and sm_90, not yet run on a GPU.
"""

# mypy: disable-error-code="no-untyped-def"
# (the compiler reads these functions as Triton, not as Python: an annotation other than constexpr is noise)

from __future__ import annotations

import triton
import triton.language as tl

SQRT_HALF = tl.constexpr(0.7071067811865476)
DENSITY = tl.constexpr(0.3989422804014327)
"""1 / sqrt(2 pi)."""

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
def _place(parts):
    """The video this program works on, and which of its `parts`: only the first grid axis is long enough."""
    return (tl.program_id(0) // parts).to(tl.int64), tl.program_id(0) % parts


@triton.jit
def _load_tile(base, row_stride, rows, end, columns, last):
    """[len(rows), len(columns)] of base; zeros from row `end` and from column `last` on."""
    inside = (rows[:, None] < end) & (columns[None, :] < last)
    return tl.load(base + rows[:, None].to(tl.int64) * row_stride + columns[None, :], mask=inside, other=0.0)


@triton.jit
def _store_tile(base, row_stride, rows, end, columns, last, values):
    inside = (rows[:, None] < end) & (columns[None, :] < last)
    address = base + rows[:, None].to(tl.int64) * row_stride + columns[None, :]
    tl.store(address, values.to(base.dtype.element_ty), mask=inside)


@triton.jit
def _load_channels(base, columns, width):
    return tl.load(base + columns, mask=columns < width, other=0.0).to(tl.float32)


@triton.jit
def _row_statistics(
    x, x_row, gamma1, beta1, rows, tokens, width, eps, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr
):
    """-> mean and rstd of the rows of x, mean and rstd of LN1(x). Three passes, so that nothing cancels."""
    total = tl.zeros([BLOCK_N], tl.float32)
    for start in range(0, _bound(width), BLOCK_D):
        columns = start + tl.arange(0, BLOCK_D)
        total += tl.sum(_load_tile(x, x_row, rows, tokens, columns, width).to(tl.float32), 1)
    mean1 = total / width

    squares = tl.zeros([BLOCK_N], tl.float32)
    weighted = tl.zeros([BLOCK_N], tl.float32)
    shift = 0.0
    for start in range(0, _bound(width), BLOCK_D):
        columns = start + tl.arange(0, BLOCK_D)
        tile = _load_tile(x, x_row, rows, tokens, columns, width).to(tl.float32)
        centred = tl.where(columns[None, :] < width, tile - mean1[:, None], 0.0)
        squares += tl.sum(centred * centred, 1)
        weighted += tl.sum(centred * _load_channels(gamma1, columns, width)[None, :], 1)
        shift += tl.sum(_load_channels(beta1, columns, width), 0)
    rstd1 = 1 / tl.sqrt(squares / width + eps)
    mean2 = (rstd1 * weighted + shift) / width

    squares = tl.zeros([BLOCK_N], tl.float32)
    for start in range(0, _bound(width), BLOCK_D):
        columns = start + tl.arange(0, BLOCK_D)
        tile = _load_tile(x, x_row, rows, tokens, columns, width).to(tl.float32)
        scale, bias = _load_channels(gamma1, columns, width), _load_channels(beta1, columns, width)
        y = (tile - mean1[:, None]) * rstd1[:, None] * scale[None, :] + bias[None, :]
        centred = tl.where(columns[None, :] < width, y - mean2[:, None], 0.0)
        squares += tl.sum(centred * centred, 1)
    rstd2 = 1 / tl.sqrt(squares / width + eps)
    return mean1, rstd1, mean2, rstd2


@triton.jit
def logits_kernel(
    x, gamma1, beta1, gamma2, beta2, w1, w2, keep, logits, hidden,
    tokens, width, inner, made, x_video, x_row, eps,
    HAS_KEEP: tl.constexpr, STORES_HIDDEN: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_N tokens of one video -> logits [B,N,k], and where asked h [B,N,J], both float32."""
    video, tile_of_rows = _place(tl.cdiv(tokens, BLOCK_N))
    rows, outputs = tile_of_rows * BLOCK_N + tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_K)
    x += video * x_video
    mean1, rstd1, mean2, rstd2 = _row_statistics(
        x, x_row, gamma1, beta1, rows, tokens, width, eps, BLOCK_N, BLOCK_D
    )
    result = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
    for first in range(0, _bound(inner), BLOCK_J):
        units = first + tl.arange(0, BLOCK_J)
        h = tl.zeros([BLOCK_N, BLOCK_J], tl.float32)
        for start in range(0, _bound(width), BLOCK_D):
            columns = start + tl.arange(0, BLOCK_D)
            tile = _load_tile(x, x_row, rows, tokens, columns, width).to(tl.float32)
            scale, bias = _load_channels(gamma1, columns, width), _load_channels(beta1, columns, width)
            y = (tile - mean1[:, None]) * rstd1[:, None] * scale[None, :] + bias[None, :]
            scale, bias = _load_channels(gamma2, columns, width), _load_channels(beta2, columns, width)
            z = (y - mean2[:, None]) * rstd2[:, None] * scale[None, :] + bias[None, :]
            weights = _load_tile(w1, width, units, inner, columns, width)
            h += tl.dot(z.to(w1.dtype.element_ty), tl.trans(weights), input_precision="ieee")
        if STORES_HIDDEN:
            _store_tile(hidden + video * tokens * inner, inner, rows, tokens, units, inner, h)
        a = 0.5 * h * (1 + tl.erf(h * SQRT_HALF))
        weights = _load_tile(w2, inner, outputs, made, units, inner)
        result += tl.dot(a.to(w2.dtype.element_ty), tl.trans(weights), input_precision="ieee")
    if HAS_KEEP:
        kept = tl.load(keep + video * tokens + rows, mask=rows < tokens, other=0) != 0
        result = tl.where(kept[:, None], result, float("-inf"))
    _store_tile(logits + video * tokens * made, made, rows, tokens, outputs, made, result)


@triton.jit
def pool_kernel(
    x, logits, out, lse, tokens, width, made, x_video, x_row,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_D channels of out [B,k,D] of one video, by an online softmax over all its tokens.

    Every program of a video comes to the same lse [B,k]; the first writes it.
    """
    video, part = _place(tl.cdiv(width, BLOCK_D))
    columns, outputs = part * BLOCK_D + tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_K)
    x += video * x_video
    logits += video * tokens * made
    total = tl.zeros([BLOCK_K, BLOCK_D], tl.float32)
    maximum = tl.full([BLOCK_K], float("-inf"), tl.float32)
    mass = tl.zeros([BLOCK_K], tl.float32)
    for start in range(0, _bound(tokens), BLOCK_N):
        rows = start + tl.arange(0, BLOCK_N)
        scores = _load_tile(logits, made, rows, tokens, outputs, made)
        scores = tl.where(rows[:, None] < tokens, scores, float("-inf"))
        tile = _load_tile(x, x_row, rows, tokens, columns, width)
        new_maximum = tl.maximum(maximum, tl.max(scores, 0))
        # Nothing seen yet: subtract 0, so that -inf - -inf never happens.
        shift = tl.where(new_maximum == float("-inf"), 0.0, new_maximum)
        p = tl.exp(scores - shift[None, :])
        correction = tl.exp(maximum - shift)
        mass = mass * correction + tl.sum(p, 0)
        total = total * correction[:, None] + tl.dot(
            tl.trans(p.to(x.dtype.element_ty)), tile, input_precision="ieee"
        )
        maximum = new_maximum
    # A video that shows nothing: maximum -inf, mass 0, total 0 -> lse -inf, out 0.
    mass = tl.where(mass == 0.0, 1.0, mass)
    if part == 0:
        tl.store(lse + video * made + outputs, maximum + tl.log(mass), mask=outputs < made)
    _store_tile(out + video * made * width, width, outputs, made, columns, width, total / mass[:, None])


@triton.jit
def mlp_gradient_kernel(
    x, w2, dout, logits, hidden, lse, delta, weights, dlogits, dhidden, activation,
    tokens, width, inner, made, x_video, x_row,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_N tokens of one video, from dout [B,k,D] to the hidden units.

    A = exp(logits - lse);  dl = A (x dout^T - delta);  dh = (dl w2) gelu'(h). Writes A and dl [B,N,k], dh and
    a = gelu(h) [B,N,J].
    """
    video, tile_of_rows = _place(tl.cdiv(tokens, BLOCK_N))
    rows, outputs = tile_of_rows * BLOCK_N + tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_K)
    x += video * x_video
    dout += video * made * width
    slope = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
    for start in range(0, _bound(width), BLOCK_D):
        columns = start + tl.arange(0, BLOCK_D)
        tile = _load_tile(x, x_row, rows, tokens, columns, width)
        towards = _load_tile(dout, width, outputs, made, columns, width)
        slope += tl.dot(tile, tl.trans(towards), input_precision="ieee")
    small = video * tokens * made
    large = video * tokens * inner
    scores = _load_tile(logits + small, made, rows, tokens, outputs, made)
    row_lse = tl.load(lse + video * made + outputs, mask=outputs < made, other=0.0)
    # A video that shows nothing has scores of -inf only: exp(-inf - 0) = 0.
    shift = tl.where(row_lse == float("-inf"), 0.0, row_lse)
    p = tl.exp(scores - shift[None, :])
    centre = tl.load(delta + video * made + outputs, mask=outputs < made, other=0.0)
    dl = p * (slope - centre[None, :])
    _store_tile(weights + small, made, rows, tokens, outputs, made, p)
    _store_tile(dlogits + small, made, rows, tokens, outputs, made, dl)
    for first in range(0, _bound(inner), BLOCK_J):
        units = first + tl.arange(0, BLOCK_J)
        second = _load_tile(w2, inner, outputs, made, units, inner)
        da = tl.dot(dl.to(w2.dtype.element_ty), second, input_precision="ieee")
        h = _load_tile(hidden + large, inner, rows, tokens, units, inner)
        normal = 0.5 * (1 + tl.erf(h * SQRT_HALF))
        dh = da * (normal + h * DENSITY * tl.exp(-0.5 * h * h))
        _store_tile(dhidden + large, inner, rows, tokens, units, inner, dh)
        _store_tile(activation + large, inner, rows, tokens, units, inner, h * normal)


@triton.jit
def _standardise(values, inside, width, eps):
    """Rows with mean 0 and deviation 1, zeros outside, and what they were multiplied by."""
    centred = tl.where(inside, values - (tl.sum(values, 1) / width)[:, None], 0.0)
    rstd = 1 / tl.sqrt(tl.sum(centred * centred, 1) / width + eps)
    return centred * rstd[:, None], rstd


@triton.jit
def _standardise_backward(gradient, xhat, rstd, inside, width):
    """The gradient of what was standardised; `gradient` and `xhat` are zero outside."""
    mean, slope = tl.sum(gradient, 1) / width, tl.sum(gradient * xhat, 1) / width
    return tl.where(inside, (gradient - mean[:, None] - xhat * slope[:, None]) * rstd[:, None], 0.0)


@triton.jit
def norms_gradient_kernel(
    x, gamma1, beta1, gamma2, beta2, dnormed, pooled, dx, normed, partials,
    all_rows, tokens, width, x_video, x_row, eps,
    ROWS: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    """One program: every so many-th tile of ROWS rows of [B*N,D], from dz to dx through both norms.

    dnormed holds dz, pooled A dout, which is added to dx. Writes z to normed for the gradient of w1, and this
    program's part of the gradients of gamma1, beta1, gamma2, beta2 to partials [programs,4,D].
    """
    columns = tl.arange(0, PADDED)
    scale1, bias1 = _load_channels(gamma1, columns, width), _load_channels(beta1, columns, width)
    scale2, bias2 = _load_channels(gamma2, columns, width), _load_channels(beta2, columns, width)
    dscale1, dbias1 = tl.zeros([PADDED], tl.float32), tl.zeros([PADDED], tl.float32)
    dscale2, dbias2 = tl.zeros([PADDED], tl.float32), tl.zeros([PADDED], tl.float32)
    for tile in range(_bound(tl.program_id(0)), _bound(tl.cdiv(all_rows, ROWS)), _bound(tl.num_programs(0))):
        rows = tile * ROWS + tl.arange(0, ROWS)
        inside = (rows[:, None] < all_rows) & (columns[None, :] < width)
        address = (rows // tokens).to(tl.int64) * x_video + (rows % tokens).to(tl.int64) * x_row
        values = tl.load(x + address[:, None] + columns[None, :], mask=inside, other=0.0).to(tl.float32)
        xhat1, rstd1 = _standardise(values, inside, width, eps)
        y = tl.where(inside, xhat1 * scale1[None, :] + bias1[None, :], 0.0)
        xhat2, rstd2 = _standardise(y, inside, width, eps)
        _store_tile(normed, width, rows, all_rows, columns, width, xhat2 * scale2[None, :] + bias2[None, :])
        dz = _load_tile(dnormed, width, rows, all_rows, columns, width).to(tl.float32)
        dscale2 += tl.sum(dz * xhat2, 0)
        dbias2 += tl.sum(dz, 0)
        dy = _standardise_backward(dz * scale2[None, :], xhat2, rstd2, inside, width)
        dscale1 += tl.sum(dy * xhat1, 0)
        dbias1 += tl.sum(dy, 0)
        gradient = _standardise_backward(dy * scale1[None, :], xhat1, rstd1, inside, width)
        gradient += _load_tile(pooled, width, rows, all_rows, columns, width).to(tl.float32)
        _store_tile(dx, width, rows, all_rows, columns, width, gradient)
    partials += tl.program_id(0).to(tl.int64) * 4 * width + columns
    tl.store(partials, dscale1, mask=columns < width)
    tl.store(partials + width, dbias1, mask=columns < width)
    tl.store(partials + 2 * width, dscale2, mask=columns < width)
    tl.store(partials + 3 * width, dbias2, mask=columns < width)
