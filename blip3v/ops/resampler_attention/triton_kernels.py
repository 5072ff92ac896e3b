"""Triton kernels of resampler_attention: forward, gradient of the queries, gradients of keys and values.

The two key segments are walked one after the other, each through its own pointers and strides, so nothing is
concatenated. Every output element is written by exactly one program: no atomics, and the same bits in every
run. Inside, scores are in base 2 (`exp2` is the instruction the hardware has); the log-sum-exp in memory is
natural. Needs triton; `triton.py` beside this file decides whether it may be used.

They have run in Triton's interpreter and been compiled for sm_80 and sm_90, not yet run on a GPU.
"""

# mypy: disable-error-code="no-untyped-def"
# (the compiler reads these functions as Triton, not as Python: an annotation other than constexpr is noise)

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)

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
def _load_rows(base, row_stride, rows, end, columns, dim):
    """[len(rows), len(columns)] of base; zeros from row `end` and from column `dim` on."""
    inside = (rows[:, None] < end) & (columns[None, :] < dim)
    return tl.load(base + rows[:, None] * row_stride + columns[None, :], mask=inside, other=0.0)


@triton.jit
def _store_rows(base, row_stride, rows, end, columns, dim, values):
    inside = (rows[:, None] < end) & (columns[None, :] < dim)
    address = base + rows[:, None] * row_stride + columns[None, :]
    tl.store(address, values.to(base.dtype.element_ty), mask=inside)


@triton.jit
def _masked_scores(q, k, scale, keys, seen_end, keep, MASKED: tl.constexpr):
    """scale * q k^T in base 2, -inf from key `seen_end` on and where `keep` is zero."""
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * (scale * LOG2_E)
    seen = keys < seen_end
    if MASKED:
        seen = seen & (tl.load(keep + keys, mask=seen, other=0) != 0)
    return tl.where(seen[None, :], scores, float("-inf"))


@triton.jit
def _seen_end(lengths, frame, media, HAS_LENGTHS: tl.constexpr):
    """How many of the media keys of this frame count."""
    end = media
    if HAS_LENGTHS:
        end = tl.minimum(tl.maximum(tl.load(lengths + frame), 0), media)
    return end


@triton.jit
def _see_segment(
    q, k_base, v_base, k_row, v_row, seen_end, keep, scale, total, maximum, mass, columns, dim,
    BLOCK_K: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Online softmax over one segment: the running (total of p v, row maximum, row sum), updated."""
    for start in range(0, _bound(seen_end), BLOCK_K):
        keys = start + tl.arange(0, BLOCK_K)
        k = _load_rows(k_base, k_row, keys, seen_end, columns, dim)
        v = _load_rows(v_base, v_row, keys, seen_end, columns, dim)
        scores = _masked_scores(q, k, scale, keys, seen_end, keep, MASKED)
        new_maximum = tl.maximum(maximum, tl.max(scores, 1))
        # Nothing seen yet: subtract 0, so that -inf - -inf never happens.
        shift = tl.where(new_maximum == float("-inf"), 0.0, new_maximum)
        p = tl.exp2(scores - shift[:, None])
        correction = tl.exp2(maximum - shift)
        mass = mass * correction + tl.sum(p, 1)
        total = total * correction[:, None] + tl.dot(p.to(v.dtype), v, input_precision="ieee")
        maximum = new_maximum
    return total, maximum, mass


@triton.jit
def forward_kernel(
    q, k_media, v_media, k_latents, v_latents, lengths, keep, out, lse,
    scale, heads, queries, media, latents, dim,
    q_frame, q_row, q_head, km_frame, km_row, km_head, vm_frame, vm_row, vm_head,
    kl_frame, kl_row, kl_head, vl_frame, vl_row, vl_head, keep_frame,
    HAS_LENGTHS: tl.constexpr, HAS_KEEP: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_Q queries of one (frame, head). out [F,Q,H,d] and lse [F,H,Q] are contiguous."""
    frame, head = (tl.program_id(0) // heads).to(tl.int64), (tl.program_id(0) % heads).to(tl.int64)
    rows = tl.program_id(1) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    columns = tl.arange(0, BLOCK_D)
    asking = _load_rows(q + frame * q_frame + head * q_head, q_row, rows, queries, columns, dim)

    total = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)
    maximum = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    mass = tl.zeros([BLOCK_Q], tl.float32)
    total, maximum, mass = _see_segment(
        asking, k_media + frame * km_frame + head * km_head, v_media + frame * vm_frame + head * vm_head,
        km_row, vm_row, _seen_end(lengths, frame, media, HAS_LENGTHS), keep + frame * keep_frame, scale,
        total, maximum, mass, columns, dim, BLOCK_K, HAS_KEEP,
    )  # fmt: skip
    total, maximum, mass = _see_segment(
        asking, k_latents + frame * kl_frame + head * kl_head, v_latents + frame * vl_frame + head * vl_head,
        kl_row, vl_row, latents, keep, scale, total, maximum, mass, columns, dim, BLOCK_K, False,
    )  # fmt: skip

    # A row that saw nothing: maximum -inf, mass 0, total 0 -> lse -inf, out 0.
    mass = tl.where(mass == 0.0, 1.0, mass)
    row_sums = lse + (frame * heads + head) * queries + rows
    tl.store(row_sums, (maximum + tl.log2(mass)) * LN_2, mask=rows < queries)
    base = out + (frame * queries * heads + head) * dim
    _store_rows(base, heads * dim, rows, queries, columns, dim, total / mass[:, None])


@triton.jit
def _probabilities(scores, lse):
    """exp(s - lse) from scores in base 2; zeros in a row that saw nothing."""
    return tl.exp2(scores - tl.where(lse == float("-inf"), 0.0, lse)[:, None] * LOG2_E)


@triton.jit
def _query_gradient_of_segment(
    q, dout, lse, delta, k_base, v_base, k_row, v_row, seen_end, keep, scale, dq, columns, dim,
    BLOCK_K: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    for start in range(0, _bound(seen_end), BLOCK_K):
        keys = start + tl.arange(0, BLOCK_K)
        k = _load_rows(k_base, k_row, keys, seen_end, columns, dim)
        v = _load_rows(v_base, v_row, keys, seen_end, columns, dim)
        p = _probabilities(_masked_scores(q, k, scale, keys, seen_end, keep, MASKED), lse)
        ds = p * (tl.dot(dout, tl.trans(v), input_precision="ieee") - delta[:, None])
        dq += tl.dot(ds.to(k.dtype), k, input_precision="ieee")
    return dq


@triton.jit
def query_gradient_kernel(
    q, k_media, v_media, k_latents, v_latents, lengths, keep, out, lse, dout, delta, dq,
    scale, heads, queries, media, latents, dim,
    q_frame, q_row, q_head, km_frame, km_row, km_head, vm_frame, vm_row, vm_head,
    kl_frame, kl_row, kl_head, vl_frame, vl_row, vl_head, keep_frame, dout_frame, dout_row, dout_head,
    HAS_LENGTHS: tl.constexpr, HAS_KEEP: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One program: dq of BLOCK_Q queries, and delta [F,H,Q] = rowsum(dout * out) for the other kernel."""
    frame, head = (tl.program_id(0) // heads).to(tl.int64), (tl.program_id(0) % heads).to(tl.int64)
    rows = tl.program_id(1) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    columns = tl.arange(0, BLOCK_D)
    own_rows = (frame * queries * heads + head) * dim  # in out and dq, which are contiguous
    asking = _load_rows(q + frame * q_frame + head * q_head, q_row, rows, queries, columns, dim)
    slope = _load_rows(dout + frame * dout_frame + head * dout_head, dout_row, rows, queries, columns, dim)
    answer = _load_rows(out + own_rows, heads * dim, rows, queries, columns, dim)
    row_delta = tl.sum(slope.to(tl.float32) * answer.to(tl.float32), 1)
    row_sums = (frame * heads + head) * queries + rows
    tl.store(delta + row_sums, row_delta, mask=rows < queries)
    row_lse = tl.load(lse + row_sums, mask=rows < queries, other=float("inf"))

    gradient = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)
    gradient = _query_gradient_of_segment(
        asking, slope, row_lse, row_delta,
        k_media + frame * km_frame + head * km_head, v_media + frame * vm_frame + head * vm_head,
        km_row, vm_row, _seen_end(lengths, frame, media, HAS_LENGTHS), keep + frame * keep_frame, scale,
        gradient, columns, dim, BLOCK_K, HAS_KEEP,
    )  # fmt: skip
    gradient = _query_gradient_of_segment(
        asking, slope, row_lse, row_delta,
        k_latents + frame * kl_frame + head * kl_head, v_latents + frame * vl_frame + head * vl_head,
        kl_row, vl_row, latents, keep, scale, gradient, columns, dim, BLOCK_K, False,
    )  # fmt: skip
    _store_rows(dq + own_rows, heads * dim, rows, queries, columns, dim, gradient * scale)


@triton.jit
def _key_gradients_of_tile(
    q_base, dout_base, lse, delta, k_base, v_base, dk_base, dv_base, q_row, dout_row, k_row, v_row,
    start, size, seen_end, keep, scale, heads, queries, dim,
    MASKED: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    keys, columns = start + tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_D)
    k = _load_rows(k_base, k_row, keys, seen_end, columns, dim)
    v = _load_rows(v_base, v_row, keys, seen_end, columns, dim)
    dk = tl.zeros([BLOCK_K, BLOCK_D], tl.float32)
    dv = tl.zeros([BLOCK_K, BLOCK_D], tl.float32)
    for first in range(0, _bound(queries), BLOCK_Q):
        rows = first + tl.arange(0, BLOCK_Q)
        q = _load_rows(q_base, q_row, rows, queries, columns, dim)
        dout = _load_rows(dout_base, dout_row, rows, queries, columns, dim)
        # A row past the end has p = exp(0 - inf) = 0.
        row_lse = tl.load(lse + rows, mask=rows < queries, other=float("inf"))
        row_delta = tl.load(delta + rows, mask=rows < queries, other=0.0)
        p = _probabilities(_masked_scores(q, k, scale, keys, seen_end, keep, MASKED), row_lse)
        dv += tl.dot(tl.trans(p.to(dout.dtype)), dout, input_precision="ieee")
        ds = p * (tl.dot(dout, tl.trans(v), input_precision="ieee") - row_delta[:, None])
        dk += tl.dot(tl.trans(ds.to(q.dtype)), q, input_precision="ieee")
    _store_rows(dk_base, heads * dim, keys, size, columns, dim, dk * scale)
    _store_rows(dv_base, heads * dim, keys, size, columns, dim, dv)


@triton.jit
def key_gradients_kernel(
    q, k_media, v_media, k_latents, v_latents, lengths, keep, lse, dout, delta,
    dk_media, dv_media, dk_latents, dv_latents,
    scale, heads, queries, media, latents, dim,
    q_frame, q_row, q_head, km_frame, km_row, km_head, vm_frame, vm_row, vm_head,
    kl_frame, kl_row, kl_head, vl_frame, vl_row, vl_head, keep_frame, dout_frame, dout_row, dout_head,
    HAS_LENGTHS: tl.constexpr, HAS_KEEP: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One program: dk and dv, contiguous, of BLOCK_K keys of one segment of one (frame, head)."""
    frame, head = (tl.program_id(0) // heads).to(tl.int64), (tl.program_id(0) % heads).to(tl.int64)
    tile, media_tiles = tl.program_id(1), tl.cdiv(media, BLOCK_K)
    q_base, dout_base = q + frame * q_frame + head * q_head, dout + frame * dout_frame + head * dout_head
    lse_base, delta_base = (
        lse + (frame * heads + head) * queries,
        delta + (frame * heads + head) * queries,
    )
    if tile < media_tiles:
        own = (frame * media * heads + head) * dim
        _key_gradients_of_tile(
            q_base, dout_base, lse_base, delta_base,
            k_media + frame * km_frame + head * km_head, v_media + frame * vm_frame + head * vm_head,
            dk_media + own, dv_media + own, q_row, dout_row, km_row, vm_row,
            tile * BLOCK_K, media, _seen_end(lengths, frame, media, HAS_LENGTHS), keep + frame * keep_frame,
            scale, heads, queries, dim, HAS_KEEP, BLOCK_Q, BLOCK_K, BLOCK_D,
        )  # fmt: skip
    else:
        own = (frame * latents * heads + head) * dim
        _key_gradients_of_tile(
            q_base, dout_base, lse_base, delta_base,
            k_latents + frame * kl_frame + head * kl_head, v_latents + frame * vl_frame + head * vl_head,
            dk_latents + own, dv_latents + own, q_row, dout_row, kl_row, vl_row,
            (tile - media_tiles) * BLOCK_K, latents, latents, keep,
            scale, heads, queries, dim, False, BLOCK_Q, BLOCK_K, BLOCK_D,
        )  # fmt: skip
