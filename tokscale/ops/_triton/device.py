"""Device functions that the attention kernels share: products, tiles of rows and keys, scores and who sees whom."""

from __future__ import annotations

import triton.language as tl

from . import LOG2E, jit


@jit
def dot(a, b, WIDE: tl.constexpr):
    """a b in fp32. The interpreter multiplies bf16 wrongly, so there both are widened; fp32 is never cut to tf32."""
    if WIDE:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee")
    return tl.dot(a, b, input_precision="ieee")


@jit
def narrow(x, dtype: tl.constexpr, WIDE: tl.constexpr):
    """fp32 as `dtype`, rounded to nearest even; the interpreter's own cast to bf16 truncates."""
    if WIDE and dtype == tl.bfloat16:
        bits = x.to(tl.int32, bitcast=True)
        rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) & -65536).to(tl.float32, bitcast=True)
        x = tl.where(x == x, rounded, x)
    return x.to(dtype)


@jit
def segment(a, batch):
    """Where a segment's rows and keys begin, and how many there are: (first row, first key, m, n, causal offset)."""
    if a.SEGMENTS:
        q0 = tl.load(a.ends_q + batch).to(tl.int64)
        k0 = tl.load(a.ends_k + batch).to(tl.int64)
        m = (tl.load(a.ends_q + batch + 1) - q0).to(tl.int32)
        n = (tl.load(a.ends_k + batch + 1) - k0).to(tl.int32)
        return q0, k0, m, n, n - m
    zero = batch * 0
    return zero, zero, a.m, a.n, a.offset


@jit
def tile_rows(a, start, head0, m, BM: tl.constexpr):
    """Rows of one tile: (query head, row within it, inside). `pack` heads lie one after the other."""
    r = start + tl.arange(0, BM)
    if a.PACKED:
        return (head0 + r // m).to(tl.int64), (r % m).to(tl.int64), r < m * a.pack
    return (head0 + r * 0).to(tl.int64), r.to(tl.int64), r < m


@jit
def load_tile(ptr, base, strided, inside, D: tl.constexpr, BLOCK_D: tl.constexpr, ALIGN: tl.constexpr):
    """(rows, BLOCK_D) from an address per row; zero outside."""
    d = tl.arange(0, BLOCK_D)
    offsets = tl.multiple_of(base + strided, ALIGN)  # the hint holds for an operation, not for an argument
    return tl.load(ptr + (offsets[:, None] + d[None, :]), inside[:, None] & (d < D)[None, :], 0.0)


@jit
def load_span(
    ptr,
    start,
    stride,
    inside,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ALIGN: tl.constexpr,
    BLOCK: tl.constexpr,
    EDGE: tl.constexpr,
):
    """(BLOCK, BLOCK_D) from `start` on, zero outside: as `load_tile` of rows that follow one another.

    In a loop only `start` moves, the places within the tile stay. Without EDGE every row is inside.
    """
    d = tl.arange(0, BLOCK_D)
    offsets = tl.multiple_of(start + tl.arange(0, BLOCK).to(tl.int64) * stride, ALIGN)  # of a scalar it would be lost
    place = ptr + (offsets[:, None] + d[None, :])
    if EDGE:
        return tl.load(place, inside[:, None] & (d < D)[None, :], 0.0)
    if BLOCK_D == D:
        return tl.load(place)
    return tl.load(place, (d < D)[None, :], 0.0)


@jit
def load_rows(a, batch, head, row, inside):
    """A tile of q."""
    return load_tile(a.q, batch * a.q_b + head * a.q_h, row * a.q_m, inside, a.D, a.BLOCK_D, a.ALIGN)


@jit
def load_keys(a, batch, group, first, inside, BN: tl.constexpr, EDGE: tl.constexpr):
    """A tile of k, from key `first` on."""
    start = batch * a.k_b + group * a.k_g + first * a.k_n
    return load_span(a.k, start, a.k_n, inside, a.D, a.BLOCK_D, a.ALIGN, BN, EDGE)


@jit
def row_positions(a, batch, row, inside):
    """Which query rows the causal rule and the mask mean."""
    if a.HAS_INDEX:
        return tl.load(a.index + batch * a.index_b + row * a.index_m, inside, 0)
    return row


@jit
def key_range(a, m, n, offset, at, row_in, part, parts, BN: tl.constexpr):
    """The part of the keys that this program's rows read: first, where whole tiles end that all rows see, last."""
    per = tl.cdiv(tl.cdiv(n, parts), BN) * BN
    first = part * per
    last = tl.minimum(first + per, n)
    whole = last
    if a.CAUSAL:
        last = tl.minimum(last, tl.max(tl.where(row_in, at, -n - m), 0).to(tl.int32) + offset + 1)
        whole = tl.minimum(last, tl.min(tl.where(row_in, at, n + m), 0).to(tl.int32) + offset + 1)
    return first, first + tl.maximum(whole - first, 0) // BN * BN, last


@jit
def row_range(a, m, offset, block, BM: tl.constexpr, BN: tl.constexpr):
    """The rows that see a block of keys: first, where tiles begin that see all of it, where whole tiles end."""
    whole = m * a.pack // BM * BM
    if a.CAUSAL:
        if a.HAS_INDEX or a.PACKED:
            return 0, whole, whole
        first = tl.minimum(tl.maximum(block - offset, 0) // BM * BM, whole)
        seen = tl.minimum(tl.cdiv(tl.maximum(block + BN - 1 - offset, 0), BM) * BM, whole)
        return first, seen, whole
    return 0, 0, whole


@jit
def live_rows(a, lse, lse_b, lse_h, batch, head, row, q0, row_in, EDGE: tl.constexpr):
    """(rows that vote and see a key, their -lse in units of log 2, else -inf). Without EDGE all are inside."""
    place = lse + batch * lse_b + head * lse_h + q0 + row
    live = row_in
    if a.HAS_VOTES:
        live = live & tl.load(a.votes + batch * a.votes_b + row * a.votes_m, row_in, 0).to(tl.int1)
    if a.HAS_VOTES or EDGE:
        norm = tl.load(place, live, -float("inf"))
    else:
        norm = tl.load(place)
    live = norm != -float("inf")  # `>` would drop NaN
    return live, tl.where(live, norm * -LOG2E, -float("inf"))


@jit
def masked_scores(s, a, factor, plus, rows, key, key_in, offset, EDGE: tl.constexpr, BY_KEY: tl.constexpr):
    """Scores in units of log 2 plus each row's `plus`, -inf where not seen, from products `s`: (rows, keys), with
    BY_KEY (keys, rows). `rows`: batch, head, row, position, inside.

    Without `plus` and biases `s` keeps its unit, `factor`. Without EDGE all rows and keys are inside, and every row
    sees every key as far as the causal rule goes.
    """
    batch, head, row, at, row_in = rows
    across: tl.constexpr = 0 if BY_KEY else 1  # the axis of keys is the other one
    head, row, at = tl.expand_dims(head, across), tl.expand_dims(row, across), tl.expand_dims(at, across)
    row_in = tl.expand_dims(row_in, across)
    key, key_in = tl.expand_dims(key, 1 - across), tl.expand_dims(key_in, 1 - across)
    inside = row_in & key_in
    if a.HAS_BIAS or a.HAS_HEAD_BIAS:
        s = s * factor
        if a.HAS_BIAS:
            bias = tl.load(a.bias + head * a.bias_h + row * a.bias_m + key * a.bias_n, inside, 0.0)
            s += bias.to(tl.float32) * LOG2E
        if a.HAS_HEAD_BIAS:
            s += tl.load(a.head_bias + head, row_in, 0.0).to(tl.float32) * LOG2E
        if plus is not None:
            s += tl.expand_dims(plus, across)
    elif plus is not None:
        s = tl.fma(s, factor, tl.expand_dims(plus, across))
    if a.HAS_SEEN:
        seen = tl.load(a.seen + batch * a.seen_b + key * a.seen_n, key_in, 0).to(tl.int1)
        s = tl.where(seen, s, -float("inf"))
    if a.HAS_MASK:
        place = batch * a.mask_b + head * a.mask_h + at * a.mask_m + key * a.mask_n
        s = tl.where(tl.load(a.mask + place, inside, 0).to(tl.int1), s, -float("inf"))
    if EDGE:
        if a.CAUSAL:
            inside = inside & (key <= at + offset)
        s = tl.where(inside, s, -float("inf"))
    return s


@jit
def unit(a, factor):
    """The unit of `masked_scores` without `plus`."""
    return 1.0 if a.HAS_BIAS or a.HAS_HEAD_BIAS else factor
