"""Triton kernels of `topk_gather`: the k-th largest score bit by bit and the positions at and above it; the copy."""

from __future__ import annotations

import triton.language as tl

from .._triton import jit

LEAST: tl.constexpr = tl.constexpr(-(2**31))


@jit
def topk_positions(scores, mask, out, s_b, s_n, m_b, m_n, n, k, BLOCK: tl.constexpr, HAS_MASK: tl.constexpr):
    """Positions (b, k), ascending, of the k largest scores. Grid (b,), one sample in registers.

    Compared are the bits of the floats, made to order as the floats do; NaN comes next to last, what the mask rules out
    last. `t` grows by one bit at a time to the largest key that at least k keys reach.
    """
    sample = tl.program_id(0).to(tl.int64)
    j = tl.arange(0, BLOCK)
    inside = j < n
    x = tl.load(scores + sample * s_b + j.to(tl.int64) * s_n, inside, 0.0)
    if x.dtype == tl.bfloat16:  # by bits: the interpreter's own widening loses the smallest numbers
        x = (x.to(tl.int16, bitcast=True).to(tl.int32) << 16).to(tl.float32, bitcast=True)
    x = x.to(tl.float32)
    bits = tl.where(x == 0.0, 0.0, x).to(tl.int32, bitcast=True)  # -0.0 equals +0.0
    key = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    key = tl.where(x == x, key, LEAST + 1)
    allowed = inside
    if HAS_MASK:
        allowed = allowed & tl.load(mask + sample * m_b + j.to(tl.int64) * m_n, inside, 0).to(tl.int1)
    key = tl.where(allowed, key, LEAST)

    t = tl.where(tl.sum((key >= 0).to(tl.int32), 0) >= k, 0, LEAST)
    for i in range(31):
        higher = t + (1 << (30 - i))
        t = tl.where(tl.sum((key >= higher).to(tl.int32), 0) >= k, higher, t)
    above = (key > t).to(tl.int32)
    equal = (inside & (key == t)).to(tl.int32)
    missing = k - tl.sum(above, 0)
    take = above + equal * (tl.cumsum(equal, 0) <= missing).to(tl.int32)
    slot = tl.cumsum(take, 0) - 1
    tl.store(out + sample * k + slot, j.to(tl.int64), inside & (take > 0) & (slot < k))


@jit
def gather(
    x,
    positions,
    out,
    x_b,
    x_n,
    x_outer,
    x_inner,
    k,
    size,
    inner,
    R: tl.constexpr,
    BLOCK: tl.constexpr,
    TWO: tl.constexpr,
):
    """Rows of x at `positions` (b, k), as (b, k, size). Grid (row blocks, b).

    An element lies at `x_inner` times its place, or with TWO at `x_outer` times its place divided by `inner`, plus
    `x_inner` times the rest.
    """
    sample = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * R + tl.arange(0, R).to(tl.int64)
    row_in = row < k
    start = sample * x_b + tl.load(positions + sample * k + row, row_in, 0) * x_n
    end = (sample * k + row) * size
    for block in range(0, size, BLOCK):
        e = block + tl.arange(0, BLOCK)
        if TWO:
            lies = (e // inner).to(tl.int64) * x_outer + (e % inner).to(tl.int64) * x_inner
        else:
            lies = e.to(tl.int64) * x_inner
        inside = row_in[:, None] & (e < size)[None, :]
        tl.store(out + end[:, None] + e[None, :], tl.load(x + start[:, None] + lies[None, :], inside, 0), inside)
