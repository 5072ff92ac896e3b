"""Triton kernels of ttm_read: the group and its LayerNorm, and the way back.

A program of the forward makes one row; a program of the backward goes through every so many-th row and adds
up the gradients of the LayerNorm's parameters on the way, so there are no atomics and every run gives the
same bits. Needs triton; `triton.py` beside this file decides whether it may be used.

They have run in Triton's interpreter, not yet on a GPU.
"""

# mypy: disable-error-code="no-untyped-def"
# (the compiler reads these functions as Triton, not as Python: an annotation other than constexpr is noise)

from __future__ import annotations

import triton
import triton.language as tl

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
def layer_norm_row(x, inside, gamma, beta, width, eps):
    """One row in float32 -> normed, mean, rstd; `inside`: which columns there are."""
    mean = tl.sum(x, 0) / width
    centred = tl.where(inside, x - mean, 0.0)
    rstd = 1.0 / tl.sqrt(tl.sum(centred * centred, 0) / width + eps)
    return centred * rstd * gamma + beta, mean, rstd


@triton.jit
def forward_kernel(
    memory, frame, stamp, gamma, beta, group, normed, mean, rstd,
    positions, slots, width, eps,
    memory_video, memory_position, memory_row, frame_video, frame_position,
    HAS_STAMP: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One program: one row of a group. Outputs are contiguous."""
    row = tl.program_id(0).to(tl.int64)
    item, slot = row // (slots + 1), row % (slots + 1)
    video, position = item // positions, item % positions
    columns = tl.arange(0, BLOCK_D)
    inside = columns < width
    is_memory = slot < slots
    memory_at = memory + video * memory_video + position * memory_position + slot * memory_row
    frame_at = frame + video * frame_video + position * frame_position
    x = tl.load(memory_at + columns, mask=inside & is_memory, other=0.0).to(tl.float32)
    x += tl.load(frame_at + columns, mask=inside & (slot == slots), other=0.0).to(tl.float32)
    if HAS_STAMP:
        x += tl.load(stamp + columns, mask=inside & (slot == slots), other=0.0).to(tl.float32)
    rounded = x.to(group.dtype.element_ty)
    tl.store(group + row * width + columns, rounded, mask=inside)
    g = tl.load(gamma + columns, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(beta + columns, mask=inside, other=0.0).to(tl.float32)
    out, row_mean, row_rstd = layer_norm_row(rounded.to(tl.float32), inside, g, b, width, eps)
    tl.store(normed + row * width + columns, out.to(normed.dtype.element_ty), mask=inside)
    tl.store(mean + row, row_mean)
    tl.store(rstd + row, row_rstd)


@triton.jit
def backward_kernel(
    dgroup, dnormed, group, gamma, mean, rstd, dmemory, dframe, partial,
    rows, slots, width,
    BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One program: every so many-th row of all groups, and a row of `partial` [programs,2,D]."""
    columns = tl.arange(0, BLOCK_D)
    inside = columns < width
    g = tl.load(gamma + columns, mask=inside, other=0.0).to(tl.float32)
    dgamma = tl.zeros([BLOCK_D], tl.float32)
    dbeta = tl.zeros([BLOCK_D], tl.float32)
    for index in range(_bound(tl.program_id(0)), _bound(rows), _bound(tl.num_programs(0))):
        row = tl.cast(index, tl.int64)
        at = row * width + columns
        given = tl.load(dnormed + at, mask=inside, other=0.0).to(tl.float32)
        x = tl.load(group + at, mask=inside, other=0.0).to(tl.float32)
        spread = tl.load(rstd + row)
        xhat = tl.where(inside, (x - tl.load(mean + row)) * spread, 0.0)
        dgamma += given * xhat
        dbeta += given
        scaled = given * g
        average, slope = tl.sum(scaled, 0) / width, tl.sum(scaled * xhat, 0) / width
        dx = tl.load(dgroup + at, mask=inside, other=0.0).to(tl.float32)
        dx += spread * (scaled - average - xhat * slope)
        item, slot = row // (slots + 1), row % (slots + 1)
        if slot < slots:
            to = dmemory + (item * slots + slot) * width
        else:
            to = dframe + item * width
        tl.store(to + columns, dx.to(dmemory.dtype.element_ty), mask=inside)
    own = partial + tl.program_id(0).to(tl.int64) * 2 * width + columns
    tl.store(own, dgamma, mask=inside)
    tl.store(own + width, dbeta, mask=inside)
