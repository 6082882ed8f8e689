"""Triton kernels of `attention_importance`: the rows' log-sum-exp, then the column sums that it normalises."""

from __future__ import annotations

import triton.language as tl

from .._triton import LN2, LOG2E, dot, jit, load_keys, load_rows, masked_scores, row_positions, segment, tile_rows


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
    group = (head0 // a.share).to(tl.int64)

    per = tl.cdiv(tl.cdiv(n, splits), BN) * BN
    first = tl.program_id(1) * per
    last = tl.minimum(first + per, n)
    if a.CAUSAL:
        last = tl.minimum(last, tl.max(tl.where(row_in, at, -n - m), 0).to(tl.int32) + offset + 1)
    top = tl.full([BM], -float("inf"), tl.float32)
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
        new = tl.maximum(top, tl.max(s, 1))
        safe = tl.where(new == -float("inf"), 0.0, new)
        total = total * tl.exp2(top - safe) + tl.sum(tl.exp2(s - safe[:, None]), 1)
        top = new
    none = total == 0.0
    out = tl.where(none, -float("inf"), (top + tl.log2(tl.where(none, 1.0, total))) * LN2)
    tl.store(lse + tl.program_id(1) * lse_s + batch * lse_b + head * lse_h + q0 + row, out, row_in)


@jit
def column_sum(a, lse, out, lse_b, lse_h, out_b, out_h, BM: tl.constexpr, BN: tl.constexpr, PER_HEAD: tl.constexpr):
    """What each key receives from the voting rows: their probabilities, summed over the heads of a key head.

    Grid (key blocks, samples x key heads): a program owns its keys, so nothing is added across programs. Scores lie as
    (keys, rows), with the keys' tile kept. Writes (b, key heads, n), or with PER_HEAD (pack = 1) (b, heads, n).
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

    received = tl.zeros([BN], tl.float32)
    for part in range(a.share // a.pack):
        head0 = group * a.share + part * a.pack
        first = 0
        if a.CAUSAL and not a.HAS_INDEX:  # noqa: SIM102 - the first is settled when compiled, the second is not
            if a.pack == 1:  # rows before this one see none of these keys
                first = tl.maximum(block - offset, 0) // BM * BM
        for start in range(first, m * a.pack, BM):
            head, row, row_in = tile_rows(a, start, head0, m, BM)
            q = load_rows(a, batch, head, q0 + row, row_in)
            at = row_positions(a, batch, row, row_in)
            live = row_in
            if a.HAS_VOTES:
                live = live & tl.load(a.votes + batch * a.votes_b + row * a.votes_m, row_in, 0).to(tl.int1)
            norm = tl.load(lse + batch * lse_b + head * lse_h + q0 + row, live, -float("inf"))
            live = live & (norm != -float("inf"))  # `>` would drop NaN
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
            p = tl.exp2(s - tl.where(live, norm * LOG2E, 0.0)[None, :])
            received += tl.sum(tl.where(live[None, :], p, 0.0), 1)
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
    k = load_keys(a, batch, group, k0 + key, key_in)
    received = tl.zeros([BN], tl.float32)
    for part in range(a.share):
        head = group * a.share + part
        q = load_rows(a, batch, head, q0 + row, row_in)
        s = dot(q, tl.trans(k), a.WIDE)
        s = masked_scores(
            s,
            a,
            batch,
            head,
            row[:, None],
            row[:, None],
            key[None, :],
            row_in[:, None],
            key_in[None, :],
            offset,
        )
        top = tl.max(s, 1)
        p = tl.exp2(s - tl.where(top == -float("inf"), 0.0, top)[:, None])
        total = tl.sum(p, 1)
        received += tl.sum(p / tl.where(total == 0.0, 1.0, total)[:, None], 0)
        if PER_HEAD:
            tl.store(out + head * out_h + k0 + key, received, key_in)
            received = tl.zeros([BN], tl.float32)
    if not PER_HEAD:
        tl.store(out + group * out_h + k0 + key, received, key_in)
