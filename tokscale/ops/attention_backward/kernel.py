"""Triton kernels of the backward of attention and of its column sums; probabilities are computed again from `lse`.

With cotangents dO of the output and g of what a key receives: `dP_ij = dO_i . v_j + g_j`, `dS = P * (dP - delta)`,
`dQ = scale dS K`, `dK = scale dS' Q`, `dV = P' dO`. A program owns what it writes.
"""

from __future__ import annotations

import triton.language as tl

from .._triton import (
    LOG2E,
    dot,
    jit,
    load_keys,
    load_rows,
    load_tile,
    masked_scores,
    narrow,
    row_positions,
    segment,
    tile_rows,
)


@jit
def live_rows(a, c, batch, head, row, q0, row_in):
    """(rows that vote and see a key, their lse)."""
    if a.HAS_VOTES:
        row_in = row_in & tl.load(a.votes + batch * a.votes_b + row * a.votes_m, row_in, 0).to(tl.int1)
    norm = tl.load(c.lse + batch * c.lse_b + head * c.lse_h + q0 + row, row_in, -float("inf"))
    live = row_in & (norm != -float("inf"))  # `>` would drop NaN
    return live, tl.where(live, norm * LOG2E, 0.0)


@jit
def load_values(a, c, batch, group, key, inside):
    """A tile of v."""
    return load_tile(c.v, batch * c.v_b + group * c.v_g, key * c.v_n, inside, a.D, a.BLOCK_D, c.ALIGN)


@jit
def load_d_out(a, c, batch, head, row, inside):
    """A tile of the output's cotangent."""
    return load_tile(c.d_out, batch * c.d_out_b + head * c.d_out_h, row * c.d_out_m, inside, a.D, a.BLOCK_D, c.ALIGN)


@jit
def key_range(a, m, n, offset, at, row_in, splits, BN: tl.constexpr):
    """The part of the keys that this program's rows read: first and last."""
    per = tl.cdiv(tl.cdiv(n, splits), BN) * BN
    first = tl.program_id(1) * per
    last = tl.minimum(first + per, n)
    if a.CAUSAL:
        last = tl.minimum(last, tl.max(tl.where(row_in, at, -n - m), 0).to(tl.int32) + offset + 1)
    return first, last


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
    live, norm = live_rows(a, c, batch, head, row, q0, row_in)
    group = (head0 // a.share).to(tl.int64)
    received = c.received + batch * c.received_b + head0.to(tl.int64) * c.received_h + k0
    first, last = key_range(a, m, n, offset, at, row_in, splits, BN)
    total = tl.zeros([BM], tl.float32)
    for block in range(first, last, BN):
        key = block + tl.arange(0, BN).to(tl.int64)
        key_in = key < n
        s = dot(q, tl.trans(load_keys(a, batch, group, k0 + key, key_in)), a.WIDE)
        s = masked_scores(
            s,
            a,
            batch,
            head[:, None],
            row[:, None],
            at[:, None],
            key[None, :],
            row_in[:, None],
            key_in[None, :],
            offset,
        )
        g = tl.load(received + key, key_in, 0.0)
        total += tl.sum(tl.exp2(s - norm[:, None]) * g[None, :], 1)
    place = out + tl.program_id(1) * out_s + batch * c.lse_b + head * c.lse_h + q0 + row
    tl.store(place, tl.where(live, total, 0.0), row_in)


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
    live, norm = live_rows(a, c, batch, head, row, q0, row_in)
    delta = tl.load(c.delta + batch * c.lse_b + head * c.lse_h + q0 + row, live, 0.0)
    if c.HAS_OUT:
        d_out = load_d_out(a, c, batch, head, q0 + row, row_in)
    group = (head0 // a.share).to(tl.int64)
    received = c.received + batch * c.received_b + head0.to(tl.int64) * c.received_h + k0
    first, last = key_range(a, m, n, offset, at, row_in, splits, BN)
    d_q = tl.zeros([BM, a.BLOCK_D], tl.float32)
    total = tl.zeros([BM], tl.float32)
    for block in range(first, last, BN):
        key = block + tl.arange(0, BN).to(tl.int64)
        key_in = key < n
        k = load_keys(a, batch, group, k0 + key, key_in)
        s = dot(q, tl.trans(k), a.WIDE)
        s = masked_scores(
            s,
            a,
            batch,
            head[:, None],
            row[:, None],
            at[:, None],
            key[None, :],
            row_in[:, None],
            key_in[None, :],
            offset,
        )
        d_p = tl.zeros([BM, BN], tl.float32)
        if c.HAS_OUT:
            v = load_values(a, c, batch, group, k0 + key, key_in)
            d_p += dot(d_out, tl.trans(v), a.WIDE)
        if c.HAS_RECEIVED:
            d_p += tl.load(received + key, key_in, 0.0)[None, :]
        d_s = tl.where(live[:, None], tl.exp2(s - norm[:, None]) * (d_p - delta[:, None]), 0.0)
        if c.SUM_ROWS:
            total += tl.sum(d_s, 1)
        d_q += dot(narrow(d_s, k.dtype, a.WIDE), k, a.WIDE)
    d = tl.arange(0, a.BLOCK_D)
    place = out + tl.program_id(1) * out_s + batch * out_b + head[:, None] * out_h + (q0 + row)[:, None] * out_m
    inside = row_in[:, None] & (d < a.D)[None, :]
    tl.store(place + d[None, :], narrow(d_q * a.scale, out.dtype.element_ty, a.WIDE), inside)
    if c.SUM_ROWS:
        place = row_sums + tl.program_id(1) * sums_s + batch * c.lse_b + head * c.lse_h + q0 + row
        tl.store(place, total, row_in)


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
    k = load_keys(a, batch, group, k0 + key, key_in)
    if c.HAS_OUT:
        v = load_values(a, c, batch, group, k0 + key, key_in)
        d_values = tl.zeros([BN, a.BLOCK_D], tl.float32)
    d_keys = tl.zeros([BN, a.BLOCK_D], tl.float32)
    for part in range(a.share // a.pack):
        head0 = group * a.share + part * a.pack
        if c.HAS_RECEIVED:
            g = tl.load(c.received + batch * c.received_b + head0 * c.received_h + k0 + key, key_in, 0.0)
        first = 0
        if a.CAUSAL and not a.HAS_INDEX:  # noqa: SIM102 - the first is settled when compiled, the second is not
            if a.pack == 1:  # rows before this one see none of these keys
                first = tl.maximum(block - offset, 0) // BM * BM
        for start in range(first, m * a.pack, BM):
            head, row, row_in = tile_rows(a, start, head0, m, BM)
            q = load_rows(a, batch, head, q0 + row, row_in)
            at = row_positions(a, batch, row, row_in)
            live, norm = live_rows(a, c, batch, head, row, q0, row_in)
            delta = tl.load(c.delta + batch * c.lse_b + head * c.lse_h + q0 + row, live, 0.0)
            s = dot(k, tl.trans(q), a.WIDE)
            s = masked_scores(
                s,
                a,
                batch,
                head[None, :],
                row[None, :],
                at[None, :],
                key[:, None],
                row_in[None, :],
                key_in[:, None],
                offset,
            )
            p = tl.where(live[None, :], tl.exp2(s - norm[None, :]), 0.0)
            d_p = tl.zeros([BN, BM], tl.float32)
            if c.HAS_OUT:
                d_out = load_d_out(a, c, batch, head, q0 + row, row_in)
                d_values += dot(narrow(p, d_out.dtype, a.WIDE), d_out, a.WIDE)
                d_p += dot(v, tl.trans(d_out), a.WIDE)
            if c.HAS_RECEIVED:
                d_p += g[:, None]
            d_s = tl.where(live[None, :], p * (d_p - delta[None, :]), 0.0)
            d_keys += dot(narrow(d_s, q.dtype, a.WIDE), q, a.WIDE)
    d = tl.arange(0, a.BLOCK_D)
    place = batch * out_b + group * out_g + (k0 + key)[:, None] * out_n + d[None, :]
    inside = key_in[:, None] & (d < a.D)[None, :]
    tl.store(d_k + place, narrow(d_keys * a.scale, d_k.dtype.element_ty, a.WIDE), inside)
    if c.HAS_OUT:
        tl.store(d_v + place, narrow(d_values, d_v.dtype.element_ty, a.WIDE), inside)
