"""Triton kernels of `fusion_attention`: two segments under one softmax, and the gradient of the position bias."""

from __future__ import annotations

import triton.language as tl

from .._triton import LN2, LOG2E, jit
from .._triton.device import dot, key_range, live_rows, load_keys, load_rows, masked_scores, narrow, tile_rows, unit
from ..attention_backward.kernel import load_d_out, load_values


@jit
def attend(a, v, q, group, rows, first, last, acc, top, total, BN: tl.constexpr, EDGE: tl.constexpr):
    """The keys `first` to `last` of one segment join the running softmax (acc, top, total). Needs a scale > 0."""
    factor = a.scale * LOG2E
    batch = rows[0]
    for block in tl.range(first, last, BN, num_stages=1 if EDGE else None):
        key = block + tl.arange(0, BN).to(tl.int64)
        key_in = key < a.n
        k = load_keys(a, batch, group, batch * 0 + block, key_in, BN, EDGE)
        s = masked_scores(dot(q, tl.trans(k), a.WIDE), a, factor, None, rows, key, key_in, 0, EDGE, False)
        new = tl.maximum(top, tl.max(s, 1) * unit(a, factor))
        safe = tl.where(new == -float("inf"), 0.0, new)
        shrink = tl.exp2(top - safe)
        p = tl.exp2(tl.fma(s, unit(a, factor), -safe[:, None]))
        total = total * shrink + tl.sum(p, 1)
        values = load_values(a, v, batch, group, batch * 0 + block, key_in, BN, EDGE)
        acc = acc * shrink[:, None] + dot(narrow(p, values.dtype, a.WIDE), values, a.WIDE)
        top = new
    return acc, top, total


@jit
def forward(
    a,
    v,
    text,
    v_text,
    out,
    lse,
    out_s,
    out_b,
    out_h,
    out_m,
    lse_s,
    splits,
    BM: tl.constexpr,
    BN: tl.constexpr,
    HAS_TEXT: tl.constexpr,
):
    """Output and natural log-sum-exp over one part of the vision keys; the last part also takes the question.

    Grid (row blocks, splits, samples x groups of packed heads). With several splits `out` is fp32 and partial, each
    normalised by its own sum.
    """
    tiles = a.heads // a.pack
    batch = (tl.program_id(2) // tiles).to(tl.int64)
    head0 = tl.program_id(2) % tiles * a.pack
    group = (head0 // a.share).to(tl.int64)
    head, row, row_in = tile_rows(a, tl.program_id(0) * BM, head0, a.m, BM)
    q = load_rows(a, batch, head, row, row_in)
    acc = tl.zeros([BM, a.BLOCK_D], tl.float32)
    top = tl.full([BM], -float("inf"), tl.float32)
    total = tl.zeros([BM], tl.float32)
    first, whole, last = key_range(a, a.m, a.n, 0, row, row_in, tl.program_id(1), splits, BN)
    rows = (batch, head, row, row, row_in)
    acc, top, total = attend(a, v, q, group, rows, first, whole, acc, top, total, BN, False)
    acc, top, total = attend(a, v, q, group, rows, whole, last, acc, top, total, BN, True)
    if HAS_TEXT:
        end = tl.where(tl.program_id(1) == splits - 1, text.n, 0)
        acc, top, total = attend(text, v_text, q, group, rows, 0, end, acc, top, total, BN, True)

    none = total == 0.0  # a row that sees no key
    full = tl.where(none, 1.0, total)
    d = tl.arange(0, a.BLOCK_D)
    place = out + tl.program_id(1) * out_s + batch * out_b + head[:, None] * out_h + row[:, None] * out_m + d[None, :]
    tl.store(place, narrow(acc / full[:, None], out.dtype.element_ty, a.WIDE), row_in[:, None] & (d < a.D)[None, :])
    norm = tl.where(none, -float("inf"), (top + tl.log2(full)) * LN2)
    tl.store(lse + tl.program_id(1) * lse_s + (batch * a.heads + head) * a.m + row, norm, row_in)


@jit
def combine(
    parts,
    part_lse,
    out,
    lse,
    rows,
    splits,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    SPLITS: tl.constexpr,
    R: tl.constexpr,
    WIDE: tl.constexpr,
):
    """The parts of R rows under one softmax: `sum_s w_s out_s / sum_s w_s`, `w_s = exp(lse_s - max)`. Grid (blocks)."""
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    s, d = tl.arange(0, SPLITS), tl.arange(0, BLOCK_D)
    inside = (s < splits)[:, None] & (row < rows)[None, :]
    norms = tl.load(part_lse + s[:, None] * rows + row[None, :], inside, -float("inf"))
    top = tl.max(norms, 0)
    w = tl.exp(norms - tl.where(top == -float("inf"), 0.0, top)[None, :])
    total = tl.sum(w, 0)
    none = total == 0.0
    full = tl.where(none, 1.0, total)
    places = (s[:, None, None] * rows + row[None, :, None]) * D + d[None, None, :]
    part = tl.load(parts + places, inside[:, :, None] & (d < D)[None, None, :], 0.0)
    mean = tl.sum(part * w[:, :, None], 0) / full[:, None]
    place = out + row[:, None] * D + d[None, :]
    tl.store(place, narrow(mean, out.dtype.element_ty, WIDE), (row < rows)[:, None] & (d < D)[None, :])
    tl.store(lse + row, tl.where(none, -float("inf"), top + tl.log(full)), row < rows)


@jit
def bias_gradient(a, c, out, loops, BM: tl.constexpr, BN: tl.constexpr, SHARED: tl.constexpr):
    """`sum_b dS` of one tile of the position bias, (h, m, n) or with SHARED (1, m, n), samples in order.

    Grid (key blocks, row blocks, heads or 1).
    """
    key = tl.program_id(0) * BN + tl.arange(0, BN).to(tl.int64)
    key_in = key < a.n
    row = tl.program_id(1) * BM + tl.arange(0, BM).to(tl.int64)
    row_in = row < a.m
    total = tl.zeros([BM, BN], tl.float32)
    zero = (tl.program_id(0) * 0).to(tl.int64)
    for i in range(loops):
        if SHARED:
            batch, head0 = zero + i // a.heads, zero + i % a.heads
        else:
            batch, head0 = zero + i, zero + tl.program_id(2)
        head = row * 0 + head0
        group = head0 // a.share
        q = load_rows(a, batch, head, row, row_in)
        live, plus = live_rows(a, c.lse, c.lse_b, c.lse_h, batch, head, row, 0, row_in, True)
        delta = tl.load(c.delta + batch * c.lse_b + head * c.lse_h + row, live, 0.0)
        first = zero + tl.program_id(0) * BN
        s = dot(q, tl.trans(load_keys(a, batch, group, first, key_in, BN, True)), a.WIDE)
        rows = (batch, head, row, row, row_in)
        s = masked_scores(s, a, a.scale * LOG2E, plus, rows, key, key_in, 0, True, False)
        d_p = tl.zeros([BM, BN], tl.float32)
        if c.HAS_OUT:
            d_out = load_d_out(a, c, batch, head, row, row_in)
            d_p += dot(d_out, tl.trans(load_values(a, c, batch, group, first, key_in, BN, True)), a.WIDE)
        if c.HAS_RECEIVED:
            d_p += tl.load(c.received + batch * c.received_b + key, key_in, 0.0)[None, :]
        total += tl.where(live[:, None], tl.exp2(s) * (d_p - delta[:, None]), 0.0)
    place = out + (tl.program_id(2) * a.m + row[:, None]) * a.n + key[None, :]
    tl.store(place, narrow(total, out.dtype.element_ty, a.WIDE), row_in[:, None] & key_in[None, :])
