"""Triton kernels of the backward of attention and of its column sums; probabilities are computed again from `lse`.

With cotangents dO of the output and g of what a key receives: `dP_ij = dO_i . v_j + g_j`, `dS = P * (dP - delta)`,
`dQ = scale dS K`, `dK = scale dS' Q`, `dV = P' dO`. A program owns what it writes.
"""

from __future__ import annotations

import triton.language as tl

from .._triton import LOG2E, jit
from .._triton.device import (
    dot,
    key_range,
    live_rows,
    load_keys,
    load_rows,
    load_span,
    load_tile,
    masked_scores,
    narrow,
    row_positions,
    row_range,
    segment,
    tile_rows,
)


@jit
def load_values(a, c, batch, group, first, inside, BN: tl.constexpr, EDGE: tl.constexpr):
    """A tile of v, from key `first` on."""
    start = batch * c.v_b + group * c.v_g + first * c.v_n
    return load_span(c.v, start, c.v_n, inside, a.D, a.BLOCK_D, c.ALIGN, BN, EDGE)


@jit
def load_d_out(a, c, batch, head, row, inside):
    """A tile of the output's cotangent."""
    return load_tile(c.d_out, batch * c.d_out_b + head * c.d_out_h, row * c.d_out_m, inside, a.D, a.BLOCK_D, c.ALIGN)


@jit
def weigh(a, q, plus, g, rows, keys, first, last, total, BN: tl.constexpr, EDGE: tl.constexpr):
    """`total`, and what the keys `first` to `last` add to it."""
    group, k0, n, offset = keys
    for block in tl.range(first, last, BN, num_stages=1 if EDGE else None):
        key = block + tl.arange(0, BN).to(tl.int64)
        key_in = key < n
        s = dot(q, tl.trans(load_keys(a, rows[0], group, k0 + block, key_in, BN, EDGE)), a.WIDE)
        s = masked_scores(s, a, a.scale * LOG2E, plus, rows, key, key_in, offset, EDGE, False)
        received = tl.load(g + key, key_in, 0.0) if EDGE else tl.load(g + key)
        total += tl.sum(tl.exp2(s) * received[None, :], 1)
    return total


@jit
def received_sum(a, c, out, out_s, splits, BM: tl.constexpr, BN: tl.constexpr):
    """`sum_j P_ij g_j` of each row over one part of the keys. Grid as `query_gradient`; writes (splits, b, h, m)."""
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
    live, plus = live_rows(a, c.lse, c.lse_b, c.lse_h, batch, head, row, q0, row_in, True)
    rows = (batch, head, row, at, row_in)
    keys = ((head0 // a.share).to(tl.int64), k0, n, offset)
    g = c.received + batch * c.received_b + head0.to(tl.int64) * c.received_h + k0
    first, whole, last = key_range(a, m, n, offset, at, row_in, tl.program_id(1), splits, BN)
    total = tl.zeros([BM], tl.float32)
    total = weigh(a, q, plus, g, rows, keys, first, whole, total, BN, False)
    total = weigh(a, q, plus, g, rows, keys, whole, last, total, BN, True)
    place = out + tl.program_id(1) * out_s + batch * c.lse_b + head * c.lse_h + q0 + row
    tl.store(place, tl.where(live, total, 0.0), row_in)


@jit
def add_keys(
    a, c, of_rows, rows, keys, first, last, d_q, total, BM: tl.constexpr, BN: tl.constexpr, EDGE: tl.constexpr, STAGES
):
    """dQ / scale and the rows' sums of dS, and what the keys `first` to `last` add to them."""
    q, d_out, plus, delta, g = of_rows
    group, k0, n, offset = keys
    for block in tl.range(first, last, BN, num_stages=STAGES):
        key = block + tl.arange(0, BN).to(tl.int64)
        key_in = key < n
        k = load_keys(a, rows[0], group, k0 + block, key_in, BN, EDGE)
        s = dot(q, tl.trans(k), a.WIDE)
        s = masked_scores(s, a, a.scale * LOG2E, plus, rows, key, key_in, offset, EDGE, False)
        d_p = tl.zeros([BM, BN], tl.float32)
        if c.HAS_OUT:
            v = load_values(a, c, rows[0], group, k0 + block, key_in, BN, EDGE)
            d_p += dot(d_out, tl.trans(v), a.WIDE)
        if c.HAS_RECEIVED:
            d_p += (tl.load(g + key, key_in, 0.0) if EDGE else tl.load(g + key))[None, :]
        d_s = tl.exp2(s) * (d_p - delta[:, None])
        if c.SUM_ROWS:
            total += tl.sum(d_s, 1)
        d_q += dot(narrow(d_s, k.dtype, a.WIDE), k, a.WIDE)
    return d_q, total


@jit
def query_gradient(a, c, out, row_sums, out_s, out_b, out_h, out_m, sums_s, splits, BM: tl.constexpr, BN: tl.constexpr):
    """dQ over one part of the keys, and, with SUM_ROWS, the rows' sums of dS.

    Grid (row blocks, splits, samples x groups of packed heads).
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
    live, plus = live_rows(a, c.lse, c.lse_b, c.lse_h, batch, head, row, q0, row_in, True)
    delta = tl.load(c.delta + batch * c.lse_b + head * c.lse_h + q0 + row, live, 0.0)
    d_out = q
    if c.HAS_OUT:
        d_out = load_d_out(a, c, batch, head, q0 + row, row_in)
    g = c.received + batch * c.received_b + head0.to(tl.int64) * c.received_h + k0
    of_rows = (q, d_out, plus, delta, g)
    rows = (batch, head, row, at, row_in)
    keys = ((head0 // a.share).to(tl.int64), k0, n, offset)
    first, whole, last = key_range(a, m, n, offset, at, row_in, tl.program_id(1), splits, BN)
    d_q = tl.zeros([BM, a.BLOCK_D], tl.float32)
    total = tl.zeros([BM], tl.float32)
    if a.HAS_BIAS or a.HAS_HEAD_BIAS or a.q.dtype.element_ty == tl.float32:  # two copies of the loop would spill
        d_q, total = add_keys(a, c, of_rows, rows, keys, first, last, d_q, total, BM, BN, True, None)
    else:
        d_q, total = add_keys(a, c, of_rows, rows, keys, first, whole, d_q, total, BM, BN, False, None)
        d_q, total = add_keys(a, c, of_rows, rows, keys, whole, last, d_q, total, BM, BN, True, 1)
    d_q = tl.where(live[:, None], d_q * a.scale, 0.0)
    d = tl.arange(0, a.BLOCK_D)
    place = out + tl.program_id(1) * out_s + batch * out_b + head[:, None] * out_h + (q0 + row)[:, None] * out_m
    inside = row_in[:, None] & (d < a.D)[None, :]
    tl.store(place + d[None, :], narrow(d_q, out.dtype.element_ty, a.WIDE), inside)
    if c.SUM_ROWS:
        place = row_sums + tl.program_id(1) * sums_s + batch * c.lse_b + head * c.lse_h + q0 + row
        tl.store(place, tl.where(live, total, 0.0), row_in)


@jit
def add_rows(
    a, c, of_keys, rows, keys, first, last, d_keys, d_values, BM: tl.constexpr, BN: tl.constexpr, EDGE: tl.constexpr
):
    """dK / scale and dV, and what the rows `first` to `last` add to them."""
    k, v, g = of_keys
    batch, head0, q0, m = rows
    key, key_in, offset = keys
    for start in range(first, last, BM):
        head, row, row_in = tile_rows(a, start, head0, m, BM)
        q = load_rows(a, batch, head, q0 + row, row_in)
        at = row_positions(a, batch, row, row_in)
        live, plus = live_rows(a, c.lse, c.lse_b, c.lse_h, batch, head, row, q0, row_in, EDGE)
        delta = tl.load(c.delta + batch * c.lse_b + head * c.lse_h + q0 + row, live, 0.0)
        tile = (batch, head, row, at, row_in)
        s = dot(k, tl.trans(q), a.WIDE)
        s = masked_scores(s, a, a.scale * LOG2E, plus, tile, key, key_in, offset, EDGE, True)
        p = tl.where(live[None, :], tl.exp2(s), 0.0)
        d_p = tl.zeros([BN, BM], tl.float32)
        if c.HAS_OUT:
            d_out = load_d_out(a, c, batch, head, q0 + row, row_in)
            d_values += dot(narrow(p, d_out.dtype, a.WIDE), d_out, a.WIDE)
            d_p += dot(v, tl.trans(d_out), a.WIDE)
        if c.HAS_RECEIVED:
            d_p += g[:, None]
        d_s = tl.where(live[None, :], p * (d_p - delta[None, :]), 0.0)
        d_keys += dot(narrow(d_s, q.dtype, a.WIDE), q, a.WIDE)
    return d_keys, d_values


@jit
def key_gradient(a, c, d_k, d_v, out_b, out_g, out_n, BM: tl.constexpr, BN: tl.constexpr):
    """dK and dV of one block of keys, over all rows of all query heads that read them. Scores lie as (keys, rows).

    Grid (key blocks, samples x key heads).
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
    v = k
    d_keys = tl.zeros([BN, a.BLOCK_D], tl.float32)
    d_values = d_keys
    if c.HAS_OUT:
        v = load_values(a, c, batch, group, k0 + block, key_in, BN, True)
        d_values = tl.zeros([BN, a.BLOCK_D], tl.float32)
    g = tl.zeros([BN], tl.float32)
    for part in range(a.share // a.pack):
        head0 = group * a.share + part * a.pack
        if c.HAS_RECEIVED:
            g = tl.load(c.received + batch * c.received_b + head0 * c.received_h + k0 + key, key_in, 0.0)
        of_keys, rows, keys = (k, v, g), (batch, head0, q0, m), (key, key_in, offset)
        first, seen, whole = row_range(a, m, offset, block, BM, BN)
        if a.CAUSAL or a.HAS_BIAS or a.HAS_HEAD_BIAS or a.D != a.BLOCK_D:  # two copies of the loop would spill
            d_keys, d_values = add_rows(a, c, of_keys, rows, keys, first, m * a.pack, d_keys, d_values, BM, BN, True)
        else:
            d_keys, d_values = add_rows(a, c, of_keys, rows, keys, seen, whole, d_keys, d_values, BM, BN, False)
            d_keys, d_values = add_rows(a, c, of_keys, rows, keys, whole, m * a.pack, d_keys, d_values, BM, BN, True)
    d = tl.arange(0, a.BLOCK_D)
    place = batch * out_b + group * out_g + (k0 + key)[:, None] * out_n + d[None, :]
    inside = key_in[:, None] & (d < a.D)[None, :]
    tl.store(d_k + place, narrow(d_keys * a.scale, d_k.dtype.element_ty, a.WIDE), inside)
    if c.HAS_OUT:
        tl.store(d_v + place, narrow(d_values, d_v.dtype.element_ty, a.WIDE), inside)
