"""Triton kernels of `attention_importance`: the rows' log-sum-exp, then the column sums that it normalises."""

from __future__ import annotations

import triton.language as tl

from .._triton import LN2, LOG2E, jit
from .._triton.device import (
    dot,
    key_range,
    live_rows,
    load_keys,
    load_rows,
    load_span,
    masked_scores,
    row_positions,
    row_range,
    segment,
    tile_rows,
    unit,
)


@jit
def online_sum(a, q, rows, keys, first, last, top, total, BN: tl.constexpr, EDGE: tl.constexpr):
    """The keys `first` to `last` join the running maximum and sum of each row's exponentials. Needs a scale > 0."""
    factor = a.scale * LOG2E
    group, k0, n, offset = keys
    for block in tl.range(first, last, BN, num_stages=1 if EDGE else None):
        key = block + tl.arange(0, BN).to(tl.int64)
        k = load_keys(a, rows[0], group, k0 + block, key < n, BN, EDGE)
        s = masked_scores(dot(q, tl.trans(k), a.WIDE), a, factor, None, rows, key, key < n, offset, EDGE, False)
        new = tl.maximum(top, tl.max(s, 1) * unit(a, factor))
        safe = tl.where(new == -float("inf"), 0.0, new)
        p = tl.exp2(tl.fma(s, unit(a, factor), -safe[:, None]))
        total = total * tl.exp2(top - safe) + tl.sum(p, 1)
        top = new
    return top, total


@jit
def row_lse(a, lse, lse_s, lse_b, lse_h, splits, BM: tl.constexpr, BN: tl.constexpr):
    """Natural log-sum-exp of each row's scores over one part of the keys; -inf for a row that sees none of them.

    Grid (row blocks, splits, samples x groups of packed heads). Writes (splits, b, h, m).
    """
    tiles = a.heads // a.pack
    batch = (tl.program_id(2) // tiles).to(tl.int64)
    head0 = tl.program_id(2) % tiles * a.pack
    q0, k0, m, n, offset = segment(a, batch)
    start = tl.program_id(0) * BM
    if start >= m * a.pack:
        return
    head, row, row_in = tile_rows(a, start, head0, m, BM)
    q = load_rows(a, batch, head, q0 + row, row_in)
    at = row_positions(a, batch, row, row_in)
    rows = (batch, head, row, at, row_in)
    keys = ((head0 // a.share).to(tl.int64), k0, n, offset)

    first, whole, last = key_range(a, m, n, offset, at, row_in, tl.program_id(1), splits, BN)
    top = tl.full([BM], -float("inf"), tl.float32)
    total = tl.zeros([BM], tl.float32)
    top, total = online_sum(a, q, rows, keys, first, whole, top, total, BN, False)
    top, total = online_sum(a, q, rows, keys, whole, last, top, total, BN, True)
    none = total == 0.0
    out = tl.where(none, -float("inf"), (top + tl.log2(tl.where(none, 1.0, total))) * LN2)
    tl.store(lse + tl.program_id(1) * lse_s + batch * lse_b + head * lse_h + q0 + row, out, row_in)


@jit
def receive(
    a,
    lse,
    lse_b,
    lse_h,
    k,
    received,
    rows,
    keys,
    first,
    last,
    BM: tl.constexpr,
    GIVEN: tl.constexpr,
    EDGE: tl.constexpr,
):
    """`received`, and what the rows `first` to `last` give."""
    batch, head0, q0, m = rows
    key, key_in, offset = keys
    for start in tl.range(first, last, BM, num_stages=1 if EDGE else None):
        head, row, row_in = tile_rows(a, start, head0, m, BM)
        if a.PACKED:
            q = load_rows(a, batch, head, q0 + row, row_in)
        else:
            place = batch * a.q_b + head0 * a.q_h + (q0 + start) * a.q_m
            q = load_span(a.q, place, a.q_m, row_in, a.D, a.BLOCK_D, a.ALIGN, BM, EDGE)
        at = row_positions(a, batch, row, row_in)
        live, plus = live_rows(a, lse, lse_b, lse_h, batch, head, row, q0, row_in, EDGE)
        s = dot(k, tl.trans(q), a.WIDE)
        tile = (batch, head, row, at, row_in)
        p = tl.exp2(masked_scores(s, a, a.scale * LOG2E, plus, tile, key, key_in, offset, EDGE, True))
        if a.HAS_VOTES or GIVEN or EDGE:  # products of rows that do not vote may be NaN
            p = tl.where(live[None, :], p, 0.0)
        received += tl.sum(p, 1)
    return received


@jit
def column_sum(
    a,
    lse,
    out,
    lse_b,
    lse_h,
    out_b,
    out_h,
    BM: tl.constexpr,
    BN: tl.constexpr,
    PER_HEAD: tl.constexpr,
    GIVEN: tl.constexpr,
):
    """What each key receives from the voting rows: their probabilities, summed over the heads of a key head.

    Grid (key blocks, samples x key heads): a program owns its keys, so nothing is added across programs. Scores lie as
    (keys, rows), with the keys' tile kept. Writes (b, key heads, n), or with PER_HEAD (pack = 1) (b, heads, n). With
    GIVEN, `lse` is not of these scores: a row of lse -inf may see keys.
    """
    groups = a.heads // a.share
    batch = (tl.program_id(1) // groups).to(tl.int64)
    group = (tl.program_id(1) % groups).to(tl.int64)
    q0, k0, m, n, offset = segment(a, batch)
    block = tl.program_id(0) * BN
    if block >= n:
        return
    key = block + tl.arange(0, BN).to(tl.int64)
    key_in = key < n
    k = load_keys(a, batch, group, k0 + block, key_in, BN, True)
    keys = (key, key_in, offset)

    received = tl.zeros([BN], tl.float32)
    for part in range(a.share // a.pack):
        head0 = group * a.share + part * a.pack
        rows = (batch, head0, q0, m)
        first, seen, whole = row_range(a, m, offset, block, BM, BN)
        if a.CAUSAL:
            received = receive(a, lse, lse_b, lse_h, k, received, rows, keys, first, seen, BM, GIVEN, True)
        received = receive(a, lse, lse_b, lse_h, k, received, rows, keys, seen, whole, BM, GIVEN, False)
        received = receive(a, lse, lse_b, lse_h, k, received, rows, keys, whole, m * a.pack, BM, GIVEN, True)
        if PER_HEAD:
            tl.store(out + batch * out_b + head0 * out_h + k0 + key, received, key_in)
            received = tl.zeros([BN], tl.float32)
    if not PER_HEAD:
        tl.store(out + batch * out_b + group * out_h + k0 + key, received, key_in)


@jit
def column_sum_tile(a, out, out_h, BM: tl.constexpr, BN: tl.constexpr, PER_HEAD: tl.constexpr):
    """`column_sum` of packed segments that fit one tile: scores, softmax and sums at once.

    Grid (segments, key heads). Writes (key heads, total), or with PER_HEAD (heads, total).
    """
    batch = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1).to(tl.int64)
    q0, k0, m, n, offset = segment(a, batch)
    row, key = tl.arange(0, BM).to(tl.int64), tl.arange(0, BN).to(tl.int64)
    row_in, key_in = row < m, key < n
    k = load_keys(a, batch, group, k0, key_in, BN, True)
    factor = a.scale * LOG2E
    received = tl.zeros([BN], tl.float32)
    for part in range(a.share):
        head = group * a.share + part
        q = load_rows(a, batch, head, q0 + row, row_in)
        rows = (batch, row * 0 + head, row, row, row_in)
        s = dot(q, tl.trans(k), a.WIDE)
        s = masked_scores(s, a, factor, tl.zeros([BM], tl.float32), rows, key, key_in, offset, True, False)
        top = tl.max(s, 1)
        p = tl.exp2(s - tl.where(top == -float("inf"), 0.0, top)[:, None])
        total = tl.sum(p, 1)
        received += tl.sum(p / tl.where(total == 0.0, 1.0, total)[:, None], 0)
        if PER_HEAD:
            tl.store(out + head * out_h + k0 + key, received, key_in)
            received = tl.zeros([BN], tl.float32)
    if not PER_HEAD:
        tl.store(out + group * out_h + k0 + key, received, key_in)
