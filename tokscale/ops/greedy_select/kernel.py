"""Triton kernels of `greedy_select`: the whole selection in one launch, one sample a program, state in registers."""

from __future__ import annotations

import triton.language as tl

from .._triton import jit


@jit
def nearest(matrix, mask, out, s_b, s_i, s_j, m_b, m_n, n, BI: tl.constexpr, BJ: tl.constexpr, HAS_MASK: tl.constexpr):
    """min over allowed i != j of D_ij for each j; inf where there is no other. Grid (blocks of j, b)."""
    sample = tl.program_id(1).to(tl.int64)
    j = tl.program_id(0) * BJ + tl.arange(0, BJ).to(tl.int64)
    least = tl.full([BJ], float("inf"), tl.float32)
    for first in range(0, n, BI):
        i = first + tl.arange(0, BI).to(tl.int64)
        seen = (i < n)[:, None] & (j < n)[None, :] & (i[:, None] != j[None, :])
        if HAS_MASK:
            seen = seen & tl.load(mask + sample * m_b + i * m_n, i < n, 0).to(tl.int1)[:, None]
        d = tl.load(matrix + sample * s_b + i[:, None] * s_i + j[None, :] * s_j, seen, float("inf")).to(tl.float32)
        least = tl.minimum(least, tl.min(d, 0))
    tl.store(out + sample * n + j, least, j < n)


@jit
def pick(value, free, j, n, BLOCK: tl.constexpr):
    """(index, value) of the largest among the free; ties, and -inf everywhere, to the lowest index."""
    top = tl.max(tl.where(free, value, -float("inf")), 0)
    best = tl.min(tl.where(free & (value == top), j, BLOCK), 0)
    return tl.minimum(best, n - 1).to(tl.int64), top


@jit
def load_row(matrix, offset, stride, j, inside):
    """One row of a matrix in fp32."""
    return tl.load(matrix + offset + j.to(tl.int64) * stride, inside, 0.0).to(tl.float32)


@jit
def max_min(
    matrix,
    first,
    start,
    relevance,
    mask,
    positions,
    gains,
    s_b,
    s_i,
    s_j,
    r_b,
    r_n,
    m_b,
    m_n,
    n,
    k,
    BLOCK: tl.constexpr,
    HAS_START: tl.constexpr,
    HAS_RELEVANCE: tl.constexpr,
    HAS_MASK: tl.constexpr,
):
    """`argmax w_j + min_{i in S} D_ij`, k times. `first` (b, n): the values of the first pick. Grid (b,)."""
    sample = tl.program_id(0).to(tl.int64)
    j = tl.arange(0, BLOCK)
    inside = j < n
    free = inside
    if HAS_MASK:
        free = free & tl.load(mask + sample * m_b + j.to(tl.int64) * m_n, inside, 0).to(tl.int1)
    weight = tl.zeros([BLOCK], tl.float32)
    if HAS_RELEVANCE:
        weight = load_row(relevance, sample * r_b, r_n, j, inside)
    if HAS_START:
        best = tl.load(start + sample).to(tl.int64)
        gain = tl.max(tl.full([BLOCK], float("inf"), tl.float32), 0)
    elif HAS_RELEVANCE:
        best, gain = pick(weight, free, j, n, BLOCK)
    else:
        best, gain = pick(load_row(first, sample * n, 1, j, inside), free, j, n, BLOCK)
    least = tl.full([BLOCK], float("inf"), tl.float32)
    for step in range(k):
        tl.store(positions + sample * k + step, best)
        tl.store(gains + sample * k + step, gain)
        free = free & (j != best)
        least = tl.minimum(least, load_row(matrix, sample * s_b + best * s_i, s_j, j, inside))
        best, gain = pick(weight + least, free, j, n, BLOCK)


@jit
def dpp(
    matrix,
    fallback,
    other,
    mask,
    factor,
    positions,
    gains,
    s_b,
    s_i,
    s_j,
    f_b,
    f_i,
    f_j,
    m_b,
    m_n,
    n,
    k,
    exhausted,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    HAS_FALLBACK: tl.constexpr,
    HAS_MASK: tl.constexpr,
):
    """The token with the largest squared distance from the span of the chosen, k times; rows of the incremental
    Cholesky factor (b, k, n) lie in memory. Once none is left the rest follows `other` (b, n). Grid (b,)."""
    sample = tl.program_id(0).to(tl.int64)
    j = tl.arange(0, BLOCK)
    inside = j < n
    free = inside
    if HAS_MASK:
        free = free & tl.load(mask + sample * m_b + j.to(tl.int64) * m_n, inside, 0).to(tl.int1)
    left = load_row(matrix, sample * s_b, s_i + s_j, j, inside)
    rest = load_row(other, sample * n, 1, j, inside)
    limit = exhausted * tl.max(tl.where(free, left, -float("inf")), 0)
    alive = limit == limit
    rows = factor + sample * k * n
    for step in range(k):
        best, gain = pick(left, free, j, n, BLOCK)
        alive = alive & (gain > limit)
        if alive:
            e = load_row(matrix, sample * s_b + best * s_i, s_j, j, inside)
            for before in range(0, step, ROWS):
                s = before + tl.arange(0, ROWS).to(tl.int64)
                share = tl.load(rows + s * n + best, s < step, 0.0)
                spanned = tl.load(rows + s[:, None] * n + j[None, :], (s < step)[:, None] & inside[None, :], 0.0)
                e -= tl.sum(share[:, None] * spanned, 0)
            e = e / tl.sqrt(gain)
            tl.store(rows + step * n + j, e, inside)
            left = tl.maximum(left - e * e, 0.0)
        else:
            best, gain = pick(rest, free, j, n, BLOCK)
            gain = gain * 0.0
        tl.debug_barrier()  # other threads read the new row at the next step
        tl.store(positions + sample * k + step, best)
        tl.store(gains + sample * k + step, tl.where(alive, gain, 0.0))
        free = free & (j != best)
        if HAS_FALLBACK:
            near = load_row(fallback, sample * f_b + best * f_i, f_j, j, inside)
            rest = tl.where(step == 0, near, tl.minimum(rest, near))
